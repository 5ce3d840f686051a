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
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Self, Unpack

import grpc

from tokenwire import _requests
from tokenwire._chat import Chat
from tokenwire._ending import Ending
from tokenwire._generation import Progress, StreamedGeneration
from tokenwire._requests import Prompt
from tokenwire._retry import Attempts, RetryPolicy
from tokenwire._trace import TRACEPARENT, Trace
from tokenwire.errors import (
    InternalError,
    TokenwireError,
    UnavailableError,
    from_rpc_error,
    from_status,
)
from tokenwire.frontend.v1 import generation_pb2
from tokenwire.options import GenerationOptions
from tokenwire.types import Answer, Delta

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from tokenwire._spans import RpcSpan, Tracing
    from tokenwire.frontend.v1.generation_pb2_grpc import GenerationServiceAsyncStub

_LARGEST_ID = 2**32 - 1

_METHOD = "tokenwire.frontend.v1.GenerationService/Session"

_CLOSE_GRACE_S = 2.0
"""Time that the server has to end the stream after the client has; then it is cut off."""


class Session:
    """Generations that share one stream; made by `AsyncClient.session`.

    A generation that fails or is refused leaves the others alone. When the stream itself breaks,
    all that is open fails with it, and a new session is needed. gRPC has no deadline for one of a
    session's generations: use `time_budget`, or `cancel`.
    """

    def __init__(
        self,
        stub: GenerationServiceAsyncStub,
        trace: Trace,
        retry: RetryPolicy,
        request_bytes: int,
        tracing: Tracing | None = None,
    ) -> None:
        self._stub = stub
        self._trace = trace
        # What the caller knew when it made the session: the stream's own span is nobody's parent.
        self._surroundings = () if trace.is_new else trace.metadata
        self._retry = retry
        self._request_bytes = request_bytes
        self._tracing = tracing
        self._lanes: dict[int, _Lane] = {}
        self._last_id = 0
        self._commands: asyncio.Queue[generation_pb2.SessionRequest | None] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None
        self._error: TokenwireError | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels what is open, and ends the stream."""
        if self._reader is None:
            return
        for lane in self._lanes.values():
            self._cancel(lane)
        self._commands.put_nowait(None)
        try:
            await asyncio.wait([self._reader], timeout=_CLOSE_GRACE_S)
        finally:
            self._reader.cancel()
        await asyncio.wait([self._reader])

    def open(
        self,
        prompt: Prompt | None = None,
        *,
        chat: Chat | None = None,
        max_delay: float | None = None,
        **options: Unpack[GenerationOptions],
    ) -> SessionGeneration:
        """Opens a generation; the arguments are those of `AsyncClient.stream`.

        Raises:
            TokenwireError: the session's stream has ended.
            RuntimeError: the session was not entered.
        """
        if self._reader is None:
            raise RuntimeError("enter the session first: async with client.session() as session")
        opening = generation_pb2.Open(
            generation=_requests.generation(prompt, chat, options, self._request_bytes),
            stream=_requests.stream(max_delay),
        )
        lane = _Lane(opening, self._trace)
        if self._tracing is not None:
            lane.parent = self._tracing.parent_in(self._surroundings)
        self._submit(lane)
        return SessionGeneration(lane, self._submit, self._cancel, Attempts(self._retry, None))

    async def generate(
        self,
        prompt: Prompt | None = None,
        *,
        chat: Chat | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Answer:
        """Returns the whole answer; the arguments are those of `AsyncClient.generate`."""
        async with self.open(prompt, chat=chat, **options) as generation:
            async for _ in generation:
                pass
            return generation.result

    def _submit(self, lane: _Lane) -> None:
        if self._error is not None:
            raise lane.fail(self._error)
        if self._tracing is not None:
            lane.begin_span(self._tracing)
        lane.opening.id = self._free_id()
        self._lanes[lane.opening.id] = lane
        self._commands.put_nowait(generation_pb2.SessionRequest(open=lane.opening))

    def _cancel(self, lane: _Lane) -> None:
        lane.cancelled = True
        command = generation_pb2.Cancel(id=lane.opening.id)
        self._commands.put_nowait(generation_pb2.SessionRequest(cancel=command))

    def _free_id(self) -> int:
        # Ascending, so that a cancel that crossed a generation's end never meets the next one.
        while True:
            self._last_id = self._last_id % _LARGEST_ID + 1
            if self._last_id not in self._lanes:
                return self._last_id

    async def _write(self) -> AsyncIterator[generation_pb2.SessionRequest]:
        # gRPC takes one write at a time on a stream; the queue puts them in order.
        while (command := await self._commands.get()) is not None:
            yield command

    def _deliver(self, lane: _Lane, event: generation_pb2.SessionEvent) -> None:
        try:
            if lane.receive(event):
                del self._lanes[event.id]
        except InternalError as error:
            lane.end_span(error.code)
            self._cancel(lane)

    async def _read(self) -> None:
        trace, lanes = self._trace, self._lanes
        error: TokenwireError = UnavailableError(
            "the session has ended", code=grpc.StatusCode.UNAVAILABLE, trace_id=trace.trace_id
        )
        try:
            call = trace.start(self._stub.Session, self._write())
            ending = Ending(call)
            async for response in call:
                for event in response.events:
                    lane = lanes.get(event.id)
                    if lane is not None:
                        self._deliver(lane, event)
        except grpc.RpcError as failure:
            real = ending.real(failure)
            if real is not None:
                error = from_rpc_error(real, trace.trace_id)
        finally:
            self._error = error
            self._commands.put_nowait(None)
            for lane in lanes.values():
                lane.break_off(error)
            lanes.clear()


class _Lane(Progress):
    """One generation's part of the stream: what has come of it and is not read yet."""

    def __init__(self, opening: generation_pb2.Open, trace: Trace) -> None:
        super().__init__(opening.generation, trace)
        self.opening = opening
        self.parent: Context | None = None
        self._span: RpcSpan | None = None
        self.deltas: deque[Delta] = deque()
        self.refusal: TokenwireError | None = None
        self.news = asyncio.Event()

    def begin_span(self, tracing: Tracing) -> None:
        """Begins the span of one attempt; the server goes on in it."""
        self._span = tracing.start(_METHOD, self.parent)
        self.parent = self._span.siblings
        if self._span.headers:
            self.trace = Trace(self._span.headers[TRACEPARENT])
            context = generation_pb2.TraceContext(**self._span.headers)
            self.opening.trace_context.CopyFrom(context)

    def end_span(self, code: grpc.StatusCode) -> None:
        """Ends the span, if there is one that has not ended."""
        if self._span is not None:
            self._span.end(grpc.StatusCode.CANCELLED if self.cancelled else code)

    def receive(self, event: generation_pb2.SessionEvent) -> bool:
        """Takes an event, and returns whether the generation's number is free again.

        Raises:
            InternalError: an event is missing; noted for whoever reads the generation.
        """
        self.news.set()
        if event.HasField("delta"):
            if not self.ended:  # else nobody wants it, and the cancel is on its way
                self.deltas.append(self.take_delta(event.delta))
            return False
        if event.HasField("error"):
            self.refusal = from_status(event.error, self.trace_id)
            self.end_span(self.refusal.code)
            return True
        self.take(event)
        last = event.HasField("completed")
        if last:
            self.end_span(grpc.StatusCode.OK)
        self.ended = self.ended or last
        return last

    def break_off(self, error: TokenwireError) -> None:
        """Ends the generation because the stream has ended."""
        self.end_span(error.code)
        self.news.set()
        if self.cancelled:
            self.ended = True
        else:
            self.fail(error)

    async def wait(self) -> None:
        """Returns when something has happened."""
        self.news.clear()
        await self.news.wait()


class SessionGeneration(StreamedGeneration):
    """The deltas of one of a session's generations, in order.

    Leaving its `async with` block, or `cancel`, stops the engine.
    """

    def __init__(
        self,
        lane: _Lane,
        submit: Callable[[_Lane], None],
        cancel: Callable[[_Lane], None],
        attempts: Attempts,
    ) -> None:
        super().__init__(lane)
        self._lane = lane
        self._submit = submit
        self._cancel = cancel
        self._attempts = attempts

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        lane = self._lane
        while not lane.deltas:
            if lane.error is not None:
                raise lane.error
            if lane.ended:
                raise StopAsyncIteration
            if lane.refusal is not None:
                await self._recover(lane.refusal)
            else:
                await lane.wait()
        return lane.deltas.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        lane = self._lane
        if not lane.ended:
            self._cancel(lane)
            lane.ended = True

    async def cancel(self) -> None:
        """Stops the generation, waits until the server has; `result` then tells what had come."""
        lane = self._lane
        if lane.ended:
            return
        self._cancel(lane)
        while not lane.ended and lane.refusal is None:
            await lane.wait()
        lane.ended = True

    async def _recover(self, refusal: TokenwireError) -> None:
        """Opens it again where that may help and nothing has come yet; raises otherwise."""
        lane = self._lane
        delay_s = None if lane.accepted else self._attempts.delay_s(refusal)
        if delay_s is None:
            raise lane.fail(refusal)
        await sleep(delay_s)
        if not lane.ended:
            lane.refusal = None
            self._submit(lane)
