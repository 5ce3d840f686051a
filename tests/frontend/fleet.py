"""Scripted workers behind one frontend, each of whose generations a test steers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_frontend.core.link_state import LinkState

from tests.frontend.frontend_here import FrontendHere, frontend_of
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import Streamed
from tests.services.processes import WAIT_S

ABLE = [
    worker_pb2.CAPABILITY_LOGPROBS,
    worker_pb2.CAPABILITY_GUIDED_REGEX,
    worker_pb2.CAPABILITY_PROMPT_LOGPROBS,
]


class Place:
    """A generation at a worker."""

    def __init__(self, worker: ScriptedWorker, stream: Stream, submit: pb.Submit) -> None:
        self.worker, self.stream = worker, stream
        self.handle, self.request = submit.handle, submit.request

    def accept(self) -> None:
        self.stream.accept(self.handle)

    def tokens(self, *ids: int, sequence: int = 0, **columns: Any) -> None:
        self.stream.tokens(self.handle, *ids, sequence=sequence, **columns)

    def finish(self, reason: int = pb.FINISH_REASON_LENGTH, **ending: Any) -> None:
        self.stream.end(self.handle, reason=reason, **ending)
        self.stream.complete(self.handle)

    def fail(self, reason: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.stream.fail(self.handle, code, reason)


class Fleet:
    """Workers and a frontend of them; submits come to one queue."""

    def __init__(self, workers: list[ScriptedWorker]) -> None:
        self.workers = workers
        self.frontend: FrontendHere
        self._places: asyncio.Queue[Place] = asyncio.Queue()
        for worker in workers:
            worker.info.contract_revision = 4
            worker.info.capabilities.extend(ABLE)
            worker.script = lambda stream, submit, at=worker: self._places.put_nowait(
                Place(at, stream, submit)
            )

    async def place(self) -> Place:
        """Waits until a worker is sent the next generation, and accepts it."""
        async with asyncio.timeout(WAIT_S):
            place = await self._places.get()
        place.accept()
        return place


@asynccontextmanager
async def fleet(
    count: int = 2, describe: Callable[[list[ScriptedWorker]], None] | None = None, **settings: Any
) -> AsyncIterator[Fleet]:
    """Runs workers and a frontend of them; `describe` says what else the workers tell."""
    workers = [ScriptedWorker() for _ in range(count)]
    for number, worker in enumerate(workers):
        worker.info.worker_name = f"worker-{number}"
    made = Fleet(workers)
    if describe is not None:
        describe(workers)
    for worker in workers:
        await worker.start()
    try:
        async with frontend_of(*workers, **{"move_wait_s": WAIT_S, **settings}) as frontend:
            for worker in workers:
                await frontend.wait_for(worker, LinkState.READY)
            made.frontend = frontend
            yield made
    finally:
        for worker in workers:
            await worker.stop()


async def until_has(streamed: Streamed, call: Any, tokens: int) -> None:
    """Reads a stream until it has so many tokens."""
    while sum(len(each.token_ids) for each in streamed.deltas) < tokens:
        streamed.take(await call.read())


def ids(streamed: Streamed, sequence: int = 0) -> list[int]:
    return [
        each for delta in streamed.deltas if delta.sequence == sequence for each in delta.token_ids
    ]


def attempts(streamed: Streamed) -> list[tuple[str, int, int, int, str]]:
    assert streamed.completed is not None
    return [
        (each.worker, each.sequence, each.token_offset, each.mode, each.left_because)
        for each in streamed.completed.attempts
    ]
