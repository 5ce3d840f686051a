"""One worker: its channel, its Exchange stream, its load, and the generations that it holds.

A link lives as long as the frontend and reconnects by itself. While it is READY, every generation
submitted through it travels on one Exchange stream, whose frames are always read at once: what a
slow client has not taken yet waits in that client's generation, not in the stream.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum
from itertools import count

import grpc
import structlog
from tokenwire.channel_arguments import WORKER_HOP
from tokenwire.worker.v1 import (
    execution_pb2,
    execution_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)

from tokenwire_frontend import errors
from tokenwire_frontend.workers import messages
from tokenwire_frontend.workers.messages import WorkerInfo, WorkerLoad
from tokenwire_frontend.workers.receiver import Receiver

log = structlog.get_logger()

RECONNECT_FIRST_S = 0.2
RECONNECT_MOST_S = 2.0
"""Bounds of the wait between attempts, doubling: a restarted worker is back within a few
seconds."""

HANDSHAKE_TIMEOUT_S = 10.0
"""Time that a worker has to describe itself and send its tokenizer."""


class LinkState(Enum):
    """Whether a worker gets requests."""

    CONNECTING = "connecting"
    READY = "ready"
    DRAINING = "draining"
    REFUSED = "refused"


class WorkerRefusedError(Exception):
    """The worker was reached but can't serve here."""


class _Outgoing:
    """The commands of one Exchange stream.

    Each stream has its own: gRPC goes on to read the requests of a stream that has ended, and must
    not take those of the next one.
    """

    def __init__(self) -> None:
        self._waiting: deque[execution_pb2.ExchangeRequest] = deque()
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, request: execution_pb2.ExchangeRequest) -> None:
        """Sends a command after those before it."""
        self._waiting.append(request)
        self._ready.set()

    def close(self) -> None:
        """Ends `requests`; the stream is over."""
        self._closed = True
        self._ready.set()

    async def requests(self) -> AsyncIterator[execution_pb2.ExchangeRequest]:
        """Yields the commands; gRPC allows one write at a time on a stream."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._closed:
                return
            self._ready.clear()
            await self._ready.wait()


class WorkerLink:
    """The link to one worker.

    Args:
        address: HOST:PORT.
        credentials: TLS, or None for plain text.
        meet: called with each worker that answers, before it gets requests; raises
            WorkerRefusedError where it can't serve here. It may fetch the worker's tokenizer.
        on_change: called when the state has changed.
    """

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None,
        meet: Callable[[WorkerLink], Awaitable[None]],
        on_change: Callable[[], None],
    ) -> None:
        self.address = address
        self.state = LinkState.CONNECTING
        self.state_reason = "not reached yet"
        self.info: WorkerInfo | None = None
        self.load = WorkerLoad()
        self.unreported = 0
        """Requests submitted, less those ended, since the last load report."""
        self._meet = meet
        self._on_change = on_change
        self._live: dict[int, Receiver] = {}
        self._handles = count(1)
        self._outgoing = _Outgoing()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=WORKER_HOP)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=WORKER_HOP)
        self._execution = execution_pb2_grpc.ExecutionServiceStub(self._channel)
        self._worker = worker_pb2_grpc.WorkerServiceStub(self._channel)

    @property
    def in_flight(self) -> int:
        """Generations that the worker holds for this frontend."""
        return len(self._live)

    def submit(self, request: execution_pb2.Request, receiver: Receiver) -> int:
        """Sends a generation; the receiver hears of it from now on. Returns its handle."""
        handle = next(self._handles)
        self._live[handle] = receiver
        self.unreported += 1
        submit = execution_pb2.Submit(handle=handle, request=request)
        self._outgoing.put(execution_pb2.ExchangeRequest(submit=submit))
        return handle

    def cancel(self, handle: int, sequence: int | None = None) -> None:
        """Cancels a generation or one of its sequences; on_ending and on_completed still come."""
        if handle in self._live:
            sequences = () if sequence is None else (sequence,)
            cancel = execution_pb2.Cancel(handle=handle, sequences=sequences)
            self._outgoing.put(execution_pb2.ExchangeRequest(cancel=cancel))

    async def run(self) -> None:
        """Connects, serves and reconnects, until cancelled."""
        wait_s = RECONNECT_FIRST_S
        try:
            while True:
                try:
                    await self._handshake()
                    wait_s = RECONNECT_FIRST_S
                    await self._serve()
                    state, reason = LinkState.CONNECTING, "the worker closed the stream"
                except grpc.aio.AioRpcError as error:
                    state = LinkState.CONNECTING
                    reason = f"{error.code().name}: {error.details()}"
                except WorkerRefusedError as error:
                    state, reason = LinkState.REFUSED, str(error)
                self.load, self.unreported = WorkerLoad(), 0
                self._set_state(state, reason)
                self._fail_live(reason)
                # Jitter, so that many frontends do not return to a restarted worker together.
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
                wait_s = min(wait_s * 2, RECONNECT_MOST_S)
        finally:
            self._fail_live("this frontend has stopped")
            await self._channel.close()

    async def _handshake(self) -> None:
        try:
            described = await self._worker.GetWorkerInfo(
                worker_pb2.GetWorkerInfoRequest(), timeout=HANDSHAKE_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            raise WorkerRefusedError(
                "it is a gRPC service but no worker, such as another frontend; "
                "--worker is the address that a tokenwire-worker listens on"
            ) from error
        self.info = messages.worker_info(described)
        if self.info.contract_revision < messages.CONTRACT_REVISION:
            raise WorkerRefusedError(
                f"speaks contract revision {self.info.contract_revision}; "
                f"this frontend needs {messages.CONTRACT_REVISION}"
            )
        await self._meet(self)

    async def fetch_tokenizer(self) -> dict[str, bytes]:
        """Returns the worker's text-side files by name."""
        parts: dict[str, bytearray] = {}
        call = self._worker.GetTokenizer(
            worker_pb2.GetTokenizerRequest(), timeout=HANDSHAKE_TIMEOUT_S
        )
        async for part in call:
            parts.setdefault(part.file_name, bytearray()).extend(part.data)
        return {name: bytes(data) for name, data in parts.items()}

    async def _serve(self) -> None:
        """Holds the Exchange and load streams until either ends."""
        outgoing = self._outgoing = _Outgoing()
        self.load, self.unreported = WorkerLoad(), 0
        exchange = self._execution.Exchange(outgoing.requests())
        watch = self._worker.WatchLoad(worker_pb2.WatchLoadRequest())
        self._set_state(LinkState.READY, "")
        readers = [
            asyncio.create_task(self._read_exchange(exchange)),
            asyncio.create_task(self._read_load(watch)),
        ]
        try:
            done, _ = await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
            for reader in done:
                reader.result()
            # A worker that stops ends both; the last tokens may still be on their way.
            await readers[0]
        finally:
            outgoing.close()
            for reader in readers:
                reader.cancel()
            exchange.cancel()
            watch.cancel()
            # Not a suppressed CancelledError, which could be this task's own: the frontend stops.
            await asyncio.gather(*readers, return_exceptions=True)

    async def _read_load(
        self,
        watch: grpc.aio.UnaryStreamCall[worker_pb2.WatchLoadRequest, worker_pb2.WatchLoadResponse],
    ) -> None:
        async for message in watch:
            self.load = messages.worker_load(message)
            self.unreported = 0
            if self.load.draining and self.state is LinkState.READY:
                self._set_state(LinkState.DRAINING, "the worker is draining")

    async def _read_exchange(
        self,
        exchange: grpc.aio.StreamStreamCall[
            execution_pb2.ExchangeRequest, execution_pb2.ExchangeResponse
        ],
    ) -> None:
        async for frame in exchange:
            self._deliver(frame)

    def _deliver(self, frame: execution_pb2.ExchangeResponse) -> None:
        """Hands one frame's columns to the receivers. The per-token path of the whole frontend."""
        live = self._live
        for handle in frame.accepted:
            if receiver := live.get(handle):
                receiver.on_accepted()
        if frame.counts or frame.sequences or frame.logprobs:
            self._deliver_columns(frame)
        else:
            for handle, token_id in zip(frame.handles[:], frame.token_ids[:], strict=True):
                if receiver := live.get(handle):
                    receiver.on_tokens(0, (token_id,))
        for ending in frame.endings:
            if receiver := live.get(ending.handle):
                self._deliver_ending(receiver, ending)
        for end in frame.completions:
            if receiver := self._drop(end.handle):
                receiver.on_completed(messages.worker_report(end.completed))
        for failure in frame.failures:
            if receiver := self._drop(failure.handle):
                receiver.on_failed(messages.worker_failure(failure.status))

    def _deliver_columns(self, frame: execution_pb2.ExchangeResponse) -> None:
        handles, token_ids = frame.handles[:], frame.token_ids[:]
        sequences = frame.sequences[:] or [0] * len(handles)
        counts = frame.counts[:] or [1] * len(handles)
        logprobs = {each.entry: messages.token_logprobs(each.tokens) for each in frame.logprobs}
        start = 0
        for entry, (handle, sequence, size) in enumerate(
            zip(handles, sequences, counts, strict=True)
        ):
            if receiver := self._live.get(handle):
                ids = token_ids[start : start + size]
                receiver.on_tokens(sequence, ids, logprobs.get(entry, ()))
            start += size

    @staticmethod
    def _deliver_ending(receiver: Receiver, message: execution_pb2.SequenceEnding) -> None:
        ending = message.ending
        stop_token_id = ending.stop_token_id if ending.HasField("stop_token_id") else None
        receiver.on_ending(message.sequence, messages.FINISHES[ending.reason], stop_token_id)

    def _drop(self, handle: int) -> Receiver | None:
        receiver = self._live.pop(handle, None)
        if receiver is not None:
            self.unreported -= 1
        return receiver

    def _fail_live(self, reason: str) -> None:
        live, self._live = self._live, {}
        for receiver in live.values():
            receiver.on_failed(errors.worker_lost(self.address, reason))

    def _set_state(self, state: LinkState, reason: str) -> None:
        if (state, reason) == (self.state, self.state_reason):
            return
        self.state, self.state_reason = state, reason
        level = log.info if state is LinkState.READY else log.warning
        level("worker", address=self.address, state=state.value, reason=reason)
        self._on_change()
