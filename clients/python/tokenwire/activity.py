"""A frontend's activity as it comes: what `activity` of both clients returns."""

from __future__ import annotations

import asyncio
from asyncio import sleep
from collections.abc import AsyncIterator, Callable
from typing import Protocol, Self

import grpc

from tokenwire import _responses
from tokenwire._frontends import AsyncFrontend, Frontend, Frontends, wait
from tokenwire._retry import Attempts
from tokenwire._trace import Trace
from tokenwire.errors import TokenwireError, from_rpc_error
from tokenwire.frontend.v1.activity_pb2 import WatchActivityResponse
from tokenwire.types import Activity


class _Watch:
    """What both kinds of stream know: where they are, and whether to try again."""

    def __init__(self, attempts: Attempts, trace: Trace) -> None:
        self._attempts = attempts
        self._trace = trace
        self._begun = False
        self._ended = False

    def _take(self, message: WatchActivityResponse) -> Activity:
        self._begun = True
        return _responses.activity(message)

    def _recover(
        self, failure: grpc.RpcError, leave: Callable[[TokenwireError], bool]
    ) -> tuple[TokenwireError, float]:
        """Returns the error and how long to wait before another attempt; raises if it is the end.

        Once activity has come, a gap would go unseen: the caller decides whether to go on.
        """
        error = from_rpc_error(failure, self._trace.trace_id)
        elsewhere = leave(error)
        delay_s = None if self._begun else self._attempts.delay_s(error, elsewhere=elsewhere)
        if delay_s is None:
            self._ended = True
            raise error from failure
        return error, delay_s


class WatchCall(Protocol):
    """What a running WatchActivity call can do; gRPC's own class has no public name."""

    def __next__(self) -> WatchActivityResponse: ...

    def cancel(self) -> bool:
        """Cancels the call."""
        ...


class ActivityStream(_Watch):
    """A frontend's activity, one snapshot each interval; ends when the frontend ends it.

    Leaving its `with` block, or `cancel`, ends it too.
    """

    def __init__(
        self,
        start: Callable[[Frontend, float | None], WatchCall],
        frontends: Frontends[Frontend],
        attempts: Attempts,
        trace: Trace,
    ) -> None:
        super().__init__(attempts, trace)
        self._start = start
        self._frontends = frontends
        self._open()

    def _open(self) -> None:
        self._frontend = self._frontends.pick()
        self._call = self._start(self._frontend, self._attempts.remaining_s())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Activity:
        while not self._ended:
            activity = self._read()
            if activity is not None:
                return activity
        raise StopIteration

    def _read(self) -> Activity | None:
        try:
            return self._take(next(self._call))
        except StopIteration:
            self._ended = True
        except grpc.RpcError as failure:
            if not self._ended:
                wait(self._frontends, *self._recover(failure, self._leave))
                self._start_over()
        return None

    def _leave(self, error: TokenwireError) -> bool:
        return self._frontends.leave(self._frontend, error)

    def _start_over(self) -> None:
        if not self._ended:
            self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Ends the stream; any thread may do it. Nothing happens where it has ended."""
        if not self._ended:
            self._ended = True
            self._call.cancel()


class AsyncWatchCall(Protocol):
    """What a running WatchActivity call can do with grpc.aio."""

    def __aiter__(self) -> AsyncIterator[WatchActivityResponse]: ...

    def cancel(self) -> bool:
        """Cancels the call."""
        ...


class AsyncActivityStream(_Watch):
    """A frontend's activity, one snapshot each interval; ends when the frontend ends it.

    Leaving its `async with` block, or `cancel`, ends it too.
    """

    def __init__(
        self,
        start: Callable[[AsyncFrontend, float | None], AsyncWatchCall],
        frontends: Frontends[AsyncFrontend],
        attempts: Attempts,
        trace: Trace,
    ) -> None:
        super().__init__(attempts, trace)
        self._start = start
        self._frontends = frontends
        self._open()

    def _open(self) -> None:
        self._frontend = self._frontends.pick()
        self._call = self._start(self._frontend, self._attempts.remaining_s())
        self._messages = self._call.__aiter__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Activity:
        while not self._ended:
            activity = await self._read()
            if activity is not None:
                return activity
        raise StopAsyncIteration

    async def _read(self) -> Activity | None:
        try:
            return self._take(await self._messages.__anext__())
        except StopAsyncIteration:
            self._ended = True
        except grpc.RpcError as failure:
            if not self._ended:
                _, delay_s = self._recover(failure, self._leave)
                await sleep(delay_s)
                self._start_over()
        except asyncio.CancelledError:
            # gRPC raises it for `cancel` too, in the task that reads.
            if not self._ended:
                raise
        return None

    def _leave(self, error: TokenwireError) -> bool:
        return self._frontends.leave(self._frontend, error)

    def _start_over(self) -> None:
        if not self._ended:
            self._open()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.cancel()

    async def cancel(self) -> None:
        """Ends the stream. Nothing happens where it has ended."""
        if not self._ended:
            self._ended = True
            self._call.cancel()
