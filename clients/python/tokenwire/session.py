"""Many generations on one stream.

    async with client.session() as session:
        generation = session.open("Once upon a time", max_tokens=64)
        async for delta in generation:
            print(delta.text, end="")

One task reads the stream and never waits for anyone, so a generation that nobody reads holds up no
other: its deltas wait in a buffer of its own, which is bounded by what the generation may produce.
"""

from __future__ import annotations

import asyncio
from asyncio import sleep
from collections.abc import Sequence
from typing import Self, Unpack

import grpc

from tokenwire import _requests
from tokenwire._chat import Chat
from tokenwire._course import Course, Request
from tokenwire._frontends import AsyncFrontend, Frontends
from tokenwire._generation import Progress, StreamedGeneration
from tokenwire._lane import Credit, Lane
from tokenwire._link import Link
from tokenwire._requests import Prompt
from tokenwire._retry import Attempts, RetryPolicy
from tokenwire._trace import Trace
from tokenwire.errors import TokenwireError, UnavailableError
from tokenwire.frontend.v1 import generation_pb2, options_pb2
from tokenwire.options import GenerationOptions
from tokenwire.streams import WHOLE_ANSWER_DELAY_S
from tokenwire.types import Answer, Delta

_CLOSE_GRACE_S = 2.0
"""Time that a server has to end a stream after the client has; then it is cut off."""


class Session:
    """Generations that share one stream; made by `AsyncClient.session`.

    A generation that fails or is refused leaves the others alone. When the stream breaks, or its
    frontend is about to stop, the session opens another stream: what is open is continued there, as
    `RetryPolicy` says. Where the frontend asks for that, what is new goes to another stream too.
    gRPC has no deadline for one of a session's generations: use `time_budget`, or `cancel`.
    """

    def __init__(
        self,
        frontends: Frontends[AsyncFrontend],
        trace: Trace,
        retry: RetryPolicy,
        request_bytes: int,
    ) -> None:
        self._frontends = frontends
        self._trace = trace
        # What the caller knew when it made the session: the stream's own span is nobody's parent.
        self._surroundings = () if trace.is_new else trace.metadata
        self._retry = retry
        self._request_bytes = request_bytes
        self._link: Link | None = None
        """The stream that what is opened goes to."""
        self._readers: dict[asyncio.Task[None], Link] = {}
        self._reopening: dict[asyncio.Task[None], Lane] = {}
        self._is_entered = self._is_open = False
        self._ended = UnavailableError(
            "the session has ended", code=grpc.StatusCode.UNAVAILABLE, trace_id=trace.trace_id
        )

    async def __aenter__(self) -> Self:
        self._is_entered = self._is_open = True
        self._connect()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels what is open, unless it is to outlive the session, and ends the stream."""
        if not self._is_open:
            return
        self._is_open = False
        for task, lane in self._reopening.items():
            task.cancel()
            if lane.is_detached:
                lane.break_off(self._ended)
            else:
                lane.cancel()
        for link in self._readers.values():
            for lane in link.lanes.values():
                if not lane.is_detached:
                    lane.cancel()
            link.finish()
        tasks = [*self._readers, *self._reopening]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks, timeout=_CLOSE_GRACE_S)
        finally:
            for task in tasks:
                task.cancel()
        await asyncio.wait(tasks)

    def open(
        self,
        prompt: Prompt | None = None,
        *,
        chat: Chat | None = None,
        max_delay: float | None = None,
        max_delta_tokens: int | None = None,
        content: str | None = None,
        credit_tokens: int | None = None,
        credit_messages: int | None = None,
        **options: Unpack[GenerationOptions],
    ) -> SessionGeneration:
        """Opens a generation; the arguments are those of `AsyncClient.stream`.

        With `credit_tokens`, or `credit_messages`, no more than so many tokens or deltas come until
        `SessionGeneration.grant` allows more.

        Raises:
            TokenwireError: the session has ended.
            RuntimeError: the session was not entered.
        """
        request = _requests.generation(prompt, chat, options, self._request_bytes)
        how = _requests.stream(max_delay, max_delta_tokens, content)
        return self._begin(request, how, (), Credit.of(credit_tokens, credit_messages))

    def attach(
        self,
        resume_token: str,
        *,
        token_offsets: Sequence[int] = (),
        max_delay: float | None = None,
        max_delta_tokens: int | None = None,
        content: str | None = None,
        credit_tokens: int | None = None,
        credit_messages: int | None = None,
    ) -> SessionGeneration:
        """Opens what follows of a generation that was begun with `on_disconnect="detach"`.

        The arguments are those of `AsyncClient.attach`, and credit as with `open`.
        `SessionGeneration.cancel` ends it; the session's end does not. Raises as `open`.
        """
        how = _requests.stream(max_delay, max_delta_tokens, content)
        request = _requests.attach(resume_token, token_offsets, how)
        credit = Credit.of(credit_tokens, credit_messages)
        return self._begin(request, how, token_offsets, credit)

    async def generate(
        self,
        prompt: Prompt | None = None,
        *,
        chat: Chat | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Answer:
        """Returns the whole answer; the arguments are those of `AsyncClient.generate`."""
        opened = self.open(prompt, chat=chat, max_delay=WHOLE_ANSWER_DELAY_S, **options)
        async with opened as generation:
            async for _ in generation:
                pass
            return generation.result

    def _begin(
        self,
        request: Request,
        how: options_pb2.StreamOptions | None,
        token_offsets: Sequence[int],
        credit: Credit | None,
    ) -> SessionGeneration:
        if not self._is_entered:
            raise RuntimeError("enter the session first: async with client.session() as session")
        generation = request if isinstance(request, generation_pb2.Generation) else None
        progress = Progress(self._trace, generation, how, token_offsets)
        attempts = Attempts(self._retry, None)
        course = Course(request, how, progress, attempts, self._request_bytes)
        lane = Lane(course, credit, self._surroundings)
        if not self._is_open:
            raise progress.fail(self._ended)
        self._submit(lane)
        return SessionGeneration(lane)

    def _submit(self, lane: Lane) -> None:
        link = self._link or self._connect()
        lane.open_on(link)

    def _connect(self) -> Link:
        link = self._link = Link(self._frontends.pick(), self._trace, self._take)
        task = asyncio.create_task(self._read(link))
        self._readers[task] = link
        task.add_done_callback(self._readers.pop)
        return link

    async def _read(self, link: Link) -> None:
        error: TokenwireError | None = None
        try:
            error = await link.read()
        finally:
            self._leave(link)
            # A stream that ends as it was asked to says nothing bad of its frontend.
            elsewhere = error is not None and self._frontends.leave(link.frontend, error)
            for lane in link.broken_off():
                self._recover(lane, error or self._ended, elsewhere=elsewhere)

    def _take(self, link: Link, event: generation_pb2.SessionEvent) -> None:
        """Takes an event of a stream."""
        lane = link.lanes.get(event.id)
        if lane is None:
            if event.HasField("draining"):
                self._leave(link)
                self._frontends.leave(link.frontend, _draining(self._trace))
            elif event.HasField("move"):
                self._leave(link)
            return
        error = lane.receive(event)
        if event.HasField("accepted"):
            self._frontends.keep(link.frontend)
        elif error is not None:
            elsewhere = self._frontends.leave(link.frontend, error)
            if elsewhere or error.reason == "DRAINING":
                self._leave(link)
            self._recover(lane, error, elsewhere=elsewhere)

    def _leave(self, link: Link) -> None:
        """Lets what is opened go to another stream; what is open on this one goes on there."""
        if self._link is link:
            self._link = None
        link.leave()

    def _recover(self, lane: Lane, error: TokenwireError, *, elsewhere: bool) -> None:
        """Opens a generation again for what has not come of it, or lets it end."""
        if not self._is_open:
            lane.break_off(self._ended)
            return
        delay_s = lane.recover(error, elsewhere=elsewhere)
        if delay_s is not None:
            task = asyncio.create_task(self._reopen(lane, delay_s))
            self._reopening[task] = lane
            task.add_done_callback(self._reopening.pop)

    async def _reopen(self, lane: Lane, delay_s: float) -> None:
        await sleep(delay_s)
        if not lane.ended and self._is_open:
            self._submit(lane)


def _draining(trace: Trace) -> TokenwireError:
    return UnavailableError(
        "the frontend drains",
        code=grpc.StatusCode.UNAVAILABLE,
        reason="DRAINING",
        trace_id=trace.trace_id,
    )


class SessionGeneration(StreamedGeneration):
    """The deltas of one of a session's generations, in order.

    Leaving its `async with` block, or `cancel`, stops the engine; with `on_disconnect="detach"`
    only `cancel` does.
    """

    def __init__(self, lane: Lane) -> None:
        super().__init__(lane.progress)
        self._lane = lane

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        lane = self._lane
        while not lane.deltas:
            if lane.progress.error is not None:
                raise lane.progress.error
            if lane.ended:
                raise StopAsyncIteration
            await lane.wait()
        return lane.deltas.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._lane.let_go()

    def grant(self, amount: int) -> None:
        """Allows so many more tokens or deltas, of a generation that was opened with credit.

        Raises:
            ValueError: it was opened without credit, or the amount is not from 1 to 2^32 - 1.
        """
        self._lane.grant(amount)

    async def cancel(self) -> None:
        """Stops the generation, waits until the server has; `result` then tells what had come."""
        lane = self._lane
        if lane.ended:
            return
        lane.cancel()
        while not lane.ended:
            await lane.wait()
