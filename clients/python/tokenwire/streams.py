"""One generation as it comes: what `stream` and `attach` of both clients return."""

from __future__ import annotations

import asyncio
from asyncio import sleep as async_sleep
from collections.abc import AsyncIterator
from time import sleep
from typing import Protocol, Self

import grpc

from tokenwire._course import Course
from tokenwire._frontends import AsyncFrontend, Frontend, Frontends, wait
from tokenwire._generation import Event, StreamedGeneration
from tokenwire._trace import Trace
from tokenwire.errors import TokenwireError, from_rpc_error
from tokenwire.frontend.v1 import generation_pb2
from tokenwire.types import Delta

WHOLE_ANSWER_DELAY_S = 1.0
"""How long deltas of an answer that nobody watches are held: few messages, and where its frontend
is lost at most this much is generated again."""


class _Call(Protocol):
    """What a running call of a stream can do; gRPC's own class has no public name."""

    def __next__(self) -> Event: ...

    def cancel(self) -> bool:
        """Cancels the call."""
        ...


class _AsyncCall(Protocol):
    """What a running call of a stream can do with grpc.aio."""

    def __aiter__(self) -> AsyncIterator[Event]: ...

    def cancel(self) -> bool:
        """Cancels the call."""
        ...


class GenerationStream(StreamedGeneration):
    """The deltas of one generation, in order.

    Leaving its `with` block, or `cancel`, stops the engine; a generation with
    `on_disconnect="detach"` goes on.
    """

    def __init__(self, course: Course, frontends: Frontends[Frontend], trace: Trace) -> None:
        super().__init__(course.progress)
        self._course = course
        self._frontends = frontends
        self._trace = trace
        self._open()

    def _open(self) -> None:
        course = self._course
        request, timeout_s = course.next_request(), course.attempts.remaining_s()
        self._frontend = self._frontends.pick()
        stub = self._frontend.generation
        self._call: _Call
        if isinstance(request, generation_pb2.AttachRequest):
            self._call = self._trace.start(stub.Attach, request, timeout_s)
        else:
            message = generation_pb2.StreamGenerateRequest(generation=request, stream=course.stream)
            self._call = self._trace.start(stub.StreamGenerate, message, timeout_s)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        while not self._progress.ended:
            delta = self._read()
            if delta is not None:
                return delta
        if self._progress.unsaid:
            return self._progress.unsaid.pop(0)
        raise StopIteration

    def _read(self) -> Delta | None:
        """Takes what the stream brings next, and returns it if it is a delta."""
        try:
            delta = self._progress.take(next(self._call))
        except StopIteration:
            error = self._progress.close()
            if error is not None:
                self._recover(error, None)
        except grpc.RpcError as failure:
            if not self._progress.cancelled:
                self._recover(from_rpc_error(failure, self._progress.trace_id), failure)
        except TokenwireError:
            self._call.cancel()
            raise
        else:
            if delta is None:
                self._frontends.keep(self._frontend)
                self._course.hear()
            return delta
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Stops the generation; any thread may do it. Nothing happens where it has ended."""
        if not self._progress.ended:
            self._progress.cancelled = self._progress.ended = True
            self._call.cancel()

    def _recover(self, error: TokenwireError, failure: grpc.RpcError | None) -> None:
        """Opens another stream for what has not come yet; raises where that does not help."""
        elsewhere = self._frontends.leave(self._frontend, error)
        try:
            delay_s = self._course.recover(error, elsewhere=elsewhere)
        except TokenwireError as answer:
            raise answer from failure
        if delay_s is None:
            return
        if self._course.is_heard:
            sleep(delay_s)
        else:
            wait(self._frontends, error, delay_s)
        if not self._progress.cancelled:
            self._open()


class AsyncGenerationStream(StreamedGeneration):
    """The deltas of one generation, in order.

    Leaving its `async with` block, or `cancel`, stops the engine; a generation with
    `on_disconnect="detach"` goes on.
    """

    def __init__(self, course: Course, frontends: Frontends[AsyncFrontend], trace: Trace) -> None:
        super().__init__(course.progress)
        self._course = course
        self._frontends = frontends
        self._trace = trace
        self._open()

    def _open(self) -> None:
        course = self._course
        request, timeout_s = course.next_request(), course.attempts.remaining_s()
        self._frontend = self._frontends.pick()
        stub = self._frontend.generation
        self._call: _AsyncCall
        if isinstance(request, generation_pb2.AttachRequest):
            self._call = self._trace.start(stub.Attach, request, timeout_s)
        else:
            message = generation_pb2.StreamGenerateRequest(generation=request, stream=course.stream)
            self._call = self._trace.start(stub.StreamGenerate, message, timeout_s)
        self._messages = self._call.__aiter__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while not self._progress.ended:
            delta = await self._read()
            if delta is not None:
                return delta
        if self._progress.unsaid:
            return self._progress.unsaid.pop(0)
        raise StopAsyncIteration

    async def _read(self) -> Delta | None:
        """Takes what the stream brings next, and returns it if it is a delta."""
        try:
            delta = self._progress.take(await self._messages.__anext__())
        except StopAsyncIteration:
            error = self._progress.close()
            if error is not None:
                await self._recover(error, None)
        except grpc.RpcError as failure:
            await self._recover(from_rpc_error(failure, self._progress.trace_id), failure)
        except asyncio.CancelledError:
            # gRPC raises it for `cancel` too, in the task that reads.
            if not self._progress.cancelled:
                raise
        except TokenwireError:
            self._call.cancel()
            raise
        else:
            if delta is None:
                self._frontends.keep(self._frontend)
                self._course.hear()
            return delta
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.cancel()

    async def cancel(self) -> None:
        """Stops the generation. Nothing happens where it has ended."""
        if not self._progress.ended:
            self._progress.cancelled = self._progress.ended = True
            self._call.cancel()

    async def _recover(self, error: TokenwireError, failure: grpc.RpcError | None) -> None:
        """Opens another stream for what has not come yet; raises where that does not help."""
        elsewhere = self._frontends.leave(self._frontend, error)
        try:
            delay_s = self._course.recover(error, elsewhere=elsewhere)
        except TokenwireError as answer:
            raise answer from failure
        if delay_s is None:
            return
        await async_sleep(delay_s)
        if not self._progress.cancelled:
            self._open()
