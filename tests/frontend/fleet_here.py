"""Two frontends of a fleet in this process, and what a client puts together that was cut off."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.worker.v1 import execution_pb2 as pb

from tests.frontend.frontend_here import FrontendHere
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import generation
from tests.services.processes import WAIT_S

KEY = b"the fleet's key, of 32 bytes or more"
RETAINED_BYTES = 6 * 2**20
TOKENS = 24


def ids_of(seed: int, count: int = TOKENS) -> list[int]:
    """Returns ids of which some are parts of characters."""
    chosen = random.Random(seed)
    return [
        chosen.choice([chosen.randrange(5, 261), chosen.randrange(300, 3900)]) for _ in range(count)
    ]


def detached(prompt: Any = (7, 8), tokens: int = TOKENS, **fields: Any) -> fg.Generation:
    return generation(list(prompt), tokens, on_disconnect=fg.ON_DISCONNECT_DETACH, **fields)


class Joined:
    """One sequence, as a client puts it together that came back for it any number of times."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.text = b""
        self.token = ""
        self.completed: fg.Completed | None = None

    def take(self, event: Any) -> None:
        kind = event.WhichOneof("event")
        if kind == "accepted":
            self.token = event.accepted.resume_token
        elif kind == "completed":
            self.completed = event.completed
        elif kind == "delta":
            delta = event.delta
            assert delta.token_offset == len(self.ids)
            if delta.HasField("end"):  # which may have come before, with text of its own
                self.text = self.text[: delta.text_offset]
            assert delta.text_offset == len(self.text)
            self.ids.extend(delta.token_ids)
            self.text += delta.text.encode()

    async def read(self, call: Any, events: int | None = None) -> None:
        """Reads so many events, or up to the end, and hangs up."""
        try:
            while self.completed is None and events != 0:
                event = await call.read()
                assert event is not grpc.aio.EOF
                self.take(event)
                events = None if events is None else events - 1
        finally:
            call.cancel()


class Here:
    """Two frontends of a fleet and their worker, which says what its script says."""

    def __init__(self, worker: ScriptedWorker, first: FrontendHere, second: FrontendHere) -> None:
        self.worker = worker
        self.frontends = (first, second)
        self.streams: dict[FrontendHere, Stream] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def first(self) -> FrontendHere:
        return self.frontends[0]

    @property
    def second(self) -> FrontendHere:
        return self.frontends[1]

    def play(self, step: Callable[[], Awaitable[None]] | None = None) -> None:
        """Has the worker generate what each prompt's last id says, with a step between tokens."""

        async def run(stream: Stream, submit: pb.Submit) -> None:
            handle, asked = submit.handle, submit.request
            ids = ids_of(asked.prompt_token_ids[-1], asked.stopping.max_tokens)
            stream.accept(handle)
            for token in ids:
                stream.tokens(handle, token)
                await (asyncio.sleep(0) if step is None else step())
            stream.end(handle)
            stream.complete(handle, completion_tokens=len(ids))

        def begin(stream: Stream, submit: pb.Submit) -> None:
            task = asyncio.create_task(run(stream, submit))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

        self.worker.script = begin

    def attach(
        self, token: str, *offsets: int, at: FrontendHere | None = None, **fields: Any
    ) -> Any:
        request = fg.AttachRequest(resume_token=token, token_offsets=offsets, **fields)
        return (at or self.first).generations.Attach(request, timeout=WAIT_S)

    async def whole(self, prompt: int) -> Joined:
        """Reads a generation that is not cut."""
        joined = Joined()
        await joined.read(self.first.stream(generation([7, prompt], TOKENS)))
        return joined

    async def begun(self, what: fg.Generation) -> tuple[str, Stream, int]:
        """Returns the token of a detached generation whose client has left, and its worker's."""
        stream = self.streams[self.first]
        call = self.first.stream(what)
        handle = (await stream.submit()).handle
        stream.accept(handle)
        token = (await call.read()).accepted.resume_token
        call.cancel()
        return token, stream, handle
