"""The RPCs that carry a generation, on the generated stubs.

The client library's own types would cost as much again for each token, and the time of a load
process is part of what it measures.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import grpc
from google.protobuf import duration_pb2

from tokenwire.bench.measures import CUT
from tokenwire.bench.plan import Flow
from tokenwire.bench.reading import Reading
from tokenwire.errors import from_rpc_error
from tokenwire.frontend.v1 import generation_pb2, options_pb2
from tokenwire.frontend.v1.generation_pb2_grpc import GenerationServiceStub

MESSAGE_BYTES = 256 * 1024
"""A session's message takes no further request beyond this. Much fewer than the 4 MiB that a
frontend takes, and most prompts are so short that hundreds of them go together."""

_CANCEL_BYTES = 8


class Calls(Protocol):
    """How the requests of one flow are sent."""

    async def perform(self, generation: generation_pb2.Generation, reading: Reading) -> None:
        """Runs one generation to its end, also a bad one; cancelling it cancels the call."""
        ...

    async def close(self) -> None:
        """Ends what is shared by its calls."""
        ...


def calls(
    flow: Flow,
    channels: Sequence[grpc.aio.Channel],
    sessions: int,
    deadline_s: float | None = None,
) -> Calls:
    """Returns the calls of a flow in this process.

    Args:
        flow: the flow.
        channels: over which they go.
        sessions: this process's share of Sessions.
        deadline_s: of each call that is a request's own, in seconds; None: none.
    """
    stubs: list[Any] = [GenerationServiceStub(each) for each in channels]
    stream = None
    if flow.max_delay_s:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(flow.max_delay_s * 1e9))
        stream = options_pb2.StreamOptions(max_delay=delay)
    if flow.call == "session":
        return SessionCalls(stubs, stream, sessions)
    if flow.call == "stream":
        return StreamCalls(stubs, stream, deadline_s)
    return WholeCalls(stubs, deadline_s)


class StreamCalls:
    """A StreamGenerate for each request."""

    def __init__(
        self,
        stubs: Sequence[Any],
        stream: options_pb2.StreamOptions | None,
        deadline_s: float | None,
    ) -> None:
        self._stubs = stubs
        self._stream = stream
        self._deadline_s = deadline_s
        self._next = 0

    async def perform(self, generation: generation_pb2.Generation, reading: Reading) -> None:
        """As Calls."""
        self._next = (self._next + 1) % len(self._stubs)
        request = generation_pb2.StreamGenerateRequest(generation=generation, stream=self._stream)
        now, take, end = time.monotonic, reading.take, grpc.aio.EOF
        call = self._stubs[self._next].StreamGenerate(request, timeout=self._deadline_s)
        try:
            while (event := await call.read()) is not end:
                take(event, now())
        except grpc.RpcError as failure:
            _fail(reading, failure)
        finally:
            call.cancel()
        reading.end()

    async def close(self) -> None:
        """As Calls."""


class WholeCalls:
    """A Generate for each request."""

    def __init__(self, stubs: Sequence[Any], deadline_s: float | None) -> None:
        self._stubs = stubs
        self._deadline_s = deadline_s
        self._next = 0

    async def perform(self, generation: generation_pb2.Generation, reading: Reading) -> None:
        """As Calls."""
        self._next = (self._next + 1) % len(self._stubs)
        request = generation_pb2.GenerateRequest(generation=generation)
        try:
            call = self._stubs[self._next].Generate(request, timeout=self._deadline_s)
            reading.take_whole(await call, time.monotonic())
        except grpc.RpcError as failure:
            _fail(reading, failure)
        reading.end()

    async def close(self) -> None:
        """As Calls."""


class SessionCalls:
    """Requests take turns on some Sessions; one that breaks is opened again."""

    def __init__(
        self, stubs: Sequence[Any], stream: options_pb2.StreamOptions | None, sessions: int
    ) -> None:
        self._stubs = stubs
        self._stream = stream
        self._sessions = [self._open(number) for number in range(sessions)]
        self._next = 0

    async def perform(self, generation: generation_pb2.Generation, reading: Reading) -> None:
        """As Calls."""
        place = self._next = (self._next + 1) % len(self._sessions)
        session = self._sessions[place]
        if session.ended:
            session = self._sessions[place] = self._open(place)
        await session.perform(generation, reading)

    async def close(self) -> None:
        """As Calls."""
        for session in self._sessions:
            await session.close()

    def _open(self, number: int) -> _Session:
        return _Session(self._stubs[number % len(self._stubs)], self._stream)


class _Session:
    """One stream; it opens with its first request."""

    def __init__(self, stub: Any, stream: options_pb2.StreamOptions | None) -> None:
        self._stub = stub
        self._stream = stream
        self._live: dict[int, tuple[Reading, asyncio.Future[None]]] = {}
        self._last_id = 0
        self._outgoing: deque[generation_pb2.Open | generation_pb2.Cancel] = deque()
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.ended = False

    async def perform(self, generation: generation_pb2.Generation, reading: Reading) -> None:
        if not self._tasks:
            call = self._stub.Session()
            self._tasks = [
                asyncio.create_task(self._write(call)),
                asyncio.create_task(self._read(call)),
            ]
        self._last_id += 1
        number = self._last_id
        done = asyncio.get_running_loop().create_future()
        self._live[number] = (reading, done)
        opening = generation_pb2.Open(id=number, generation=generation, stream=self._stream)
        self._outgoing.append(opening)
        self._news.set()
        try:
            await done
        except asyncio.CancelledError:
            self._live.pop(number, None)
            self._outgoing.append(generation_pb2.Cancel(id=number))
            self._news.set()
            raise
        reading.end()

    async def close(self) -> None:
        self.ended = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self, call: Any) -> None:
        """Sends what has gathered since the last write, up to a bound in one message."""
        # A stream that has broken says so to its reader.
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                await self._news.wait()
                self._news.clear()
                while self._outgoing:
                    await call.write(self._gathered())

    def _gathered(self) -> generation_pb2.SessionRequest:
        message, size = generation_pb2.SessionRequest(), 0
        while self._outgoing and size < MESSAGE_BYTES:
            command = self._outgoing.popleft()
            if isinstance(command, generation_pb2.Open):
                message.opens.append(command)
                size += command.ByteSize()
            else:
                message.cancels.append(command)
                size += _CANCEL_BYTES
        return message

    async def _read(self, call: Any) -> None:
        live, now = self._live, time.monotonic
        failure: grpc.RpcError | None = None
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                now_s = now()
                for event in response.events:
                    found = live.get(event.id)
                    if found is not None and found[0].take(event, now_s):
                        del live[event.id]
                        _finish(found[1])
        except grpc.RpcError as broken:
            failure = broken
        finally:
            self.ended = True
            self._tasks[0].cancel()
            call.cancel()
            for reading, done in live.values():
                if failure is not None:
                    _fail(reading, failure)
                else:
                    reading.reason = CUT
                _finish(done)
            live.clear()


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _fail(reading: Reading, failure: grpc.RpcError) -> None:
    error = from_rpc_error(failure, "")
    reading.reason, reading.retry_after_s = error.reason, error.retry_after_s
