"""One worker: its connection, its state, its load, and the generations that it holds.

A link lives as long as the frontend. It makes one connection after the other; each has a channel,
an Exchange stream and a watch of the load, which begin and end together. Whatever ends them, or
goes wrong before, is the reason of the link's state; what the worker held fails as WORKER_LOST, and
the next connection is tried after a wait. Frames are always read at once: what a slow client has
not taken yet waits in that client's generation, not in the stream.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import grpc
import structlog
from google.protobuf.message import DecodeError
from tokenwire.worker.v1 import execution_pb2, worker_pb2
from tokenwire_service.tasks import Scope
from tokenwire_service.tls import Credentials

from tokenwire_frontend import errors
from tokenwire_frontend.core.breaker import Breaker
from tokenwire_frontend.core.call_order import Handles
from tokenwire_frontend.core.link_state import AwakeClock, LinkState, LinkStatus, Liveness
from tokenwire_frontend.workers import messages
from tokenwire_frontend.workers.complaints import Complaints
from tokenwire_frontend.workers.exchange import Exchange
from tokenwire_frontend.workers.messages import WorkerInfo, WorkerLoad
from tokenwire_frontend.workers.outgoing import Outgoing
from tokenwire_frontend.workers.receiver import Receiver
from tokenwire_frontend.workers.remote import Remote, WorkerRefusedError

log = structlog.get_logger()

RECONNECT_FIRST_S = 0.2
RECONNECT_MOST_S = 2.0
"""Bounds of the wait between connections, doubling: a restarted worker is back within a few
seconds."""

REFUSED_MOST_S = 5.0
"""Longest wait where the worker was refused, since its text files may have to be fetched again to
see whether it has been mended."""

SETTLED_S = 5.0
"""A connection that served for so long was sound: the wait after it is the first again."""

HEARTBEAT_S = 1.0
"""Longest time between two signs of life that a worker promises; also how often one is asked for
that promises none."""

HEARTBEAT_REVISION = 2
"""Contract revision from which on WatchLoad has a message at least once a second."""

TURN_S = 0.005
"""Time after which a frame lets others run."""

REASON_LIMIT = 300
"""Most characters of a state's reason: some of it comes from the peer."""


@dataclass(frozen=True)
class LinkLimits:
    """How long a worker's silence is borne, and how much it is sent at once."""

    suspect_s: float
    """Until it gets no requests where others can take them."""
    lost_s: float
    """Until what it holds fails and it is connected anew."""
    answer_s: float
    """Until a request that it neither accepts nor refuses, or does not complete once it has ended
    or was cancelled, is given up."""
    request_bytes: int
    """Most bytes of a message that the worker reads."""


class ConnectionOverError(Exception):
    """The streams of a connection have ended."""


class _Serving:
    """The streams of one connection."""

    def __init__(self, exchange: Exchange, liveness: Liveness) -> None:
        self.exchange = exchange
        self.liveness = liveness
        self.load = WorkerLoad()
        self.over = asyncio.Event()
        self.reason: Exception | None = None
        """Why it is over."""

    def end(self, reason: Exception) -> None:
        """Ends the streams; the first reason counts."""
        if not self.over.is_set():
            self.reason = reason
            self.over.set()


class WorkerLink:
    """The link to one worker.

    Args:
        address: HOST:PORT.
        credentials: of each connection.
        limits: how long silence is borne, and how much is sent at once.
        clock: what silence is counted on; whoever ticks it calls `tick` after it.
        meet: called with each worker that answers, before it gets requests; raises
            WorkerRefusedError where it can't serve here. It may fetch the worker's text files.
        on_change: called when the state has changed.
    """

    def __init__(
        self,
        address: str,
        credentials: Credentials,
        limits: LinkLimits,
        clock: AwakeClock,
        meet: Callable[[WorkerLink, WorkerInfo, Remote], Awaitable[None]],
        on_change: Callable[[], None],
    ) -> None:
        self.address = address
        self.info: WorkerInfo | None = None
        self.breaker = Breaker()
        """Told of the outcome of each request."""
        self._credentials = credentials
        self._limits = limits
        self._clock = clock
        self._meet = meet
        self._on_change = on_change
        self._status = LinkStatus()
        self._handles = Handles()
        self._complain = Complaints(address)
        self._serving: _Serving | None = None

    @property
    def state(self) -> LinkState:
        """Whether the worker gets requests."""
        return self._status.state

    @property
    def state_reason(self) -> str:
        """Why, where the state is not READY."""
        return self._status.reason

    @property
    def load(self) -> WorkerLoad:
        """What the worker last reported; of one that is not connected nothing."""
        return self._serving.load if self._serving else WorkerLoad()

    @property
    def in_flight(self) -> int:
        """Generations that the worker holds for this frontend."""
        return len(self._serving.exchange) if self._serving else 0

    @property
    def unreported(self) -> int:
        """Requests submitted, less those ended, since the last load report."""
        return self._serving.exchange.unreported if self._serving else 0

    def submit(self, request: execution_pb2.Request, receiver: Receiver) -> int:
        """Sends a generation; the receiver hears of it from now on. Returns its handle.

        Raises:
            ServiceError: it can't be sent; the receiver hears nothing.
        """
        if self._serving is None:
            raise errors.worker_lost(self.address, self.state_reason)
        return self._serving.exchange.submit(request, receiver)

    def cancel(self, handle: int, sequence: int | None = None) -> None:
        """Cancels a generation or one of its sequences; on_ending and on_completed still come."""
        if self._serving is not None:
            self._serving.exchange.cancel(handle, sequence)

    def detach(self, handle: int) -> None:
        """Cancels a generation whose receiver is to hear nothing more."""
        if self._serving is not None:
            self._serving.exchange.detach(handle)

    def fail_unaccepted(self) -> None:
        """Fails what a silent worker has not accepted yet, so that another is tried."""
        if self._serving is not None:
            reason = self.state_reason
            self._serving.exchange.fail_unaccepted(lambda: errors.worker_lost(self.address, reason))

    def tick(self) -> None:
        """Draws the consequences of what the worker has not said; to be called every TICK_S."""
        serving = self._serving
        if serving is None:
            return
        if self._status.judge(serving.liveness):
            self._tell()
        if self.state is LinkState.LOST:
            serving.end(ConnectionOverError(self.state_reason))
        else:
            serving.exchange.expire(self._limits.answer_s)

    async def run(self) -> None:
        """Connects, serves and reconnects, until cancelled."""
        wait_s = RECONNECT_FIRST_S
        while True:
            began_s = time.monotonic()
            await self._connect()
            if time.monotonic() - began_s >= SETTLED_S:
                wait_s = RECONNECT_FIRST_S
            # Jitter, so that many frontends do not return to a restarted worker together.
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
            refused = self.state is LinkState.REFUSED
            wait_s = min(wait_s * 2, REFUSED_MOST_S if refused else RECONNECT_MOST_S)

    async def _connect(self) -> None:
        """Makes one connection, and serves on it until it is over."""
        remote = Remote(self.address, self._credentials)
        try:
            try:
                self.info = await self._described(remote)
                await self._meet(self, self.info, remote)
            except Exception as error:  # noqa: BLE001 - whatever it is, the state tells it
                self._note(error)
            else:
                await self._serve(remote, self.info)
        finally:
            await remote.close()

    async def _described(self, remote: Remote) -> WorkerInfo:
        try:
            info = messages.worker_info(await remote.describe())
        except ValueError as error:
            raise WorkerRefusedError(f"its description can't be used: {error}") from error
        if info.contract_revision < messages.CONTRACT_REVISION:
            raise WorkerRefusedError(
                f"speaks contract revision {info.contract_revision}; "
                f"this frontend requires {messages.CONTRACT_REVISION}"
            )
        return info

    async def _serve(self, remote: Remote, info: WorkerInfo) -> None:
        """Holds the streams until one says that they are over."""
        limits = self._limits
        outgoing = Outgoing(self.address, info.contract_revision, limits.request_bytes)
        serving = self._serving = _Serving(
            Exchange(self.address, info, outgoing, self._handles, self._clock),
            Liveness(self._clock, limits.suspect_s, limits.lost_s),
        )
        call = remote.exchange()
        promised = info.contract_revision >= HEARTBEAT_REVISION
        works = [
            self._read(call, serving),
            self._write(call, serving),
            self._watch(remote, serving, quiet_s=None if promised else HEARTBEAT_S),
        ]
        reason = "this frontend has stopped"
        async with Scope("worker_link") as scope:
            for work in works:
                scope.start(work, on_fault=serving.end, address=self.address)
            if self._status.serve():
                self._tell()
            try:
                await serving.over.wait()
                assert serving.reason is not None  # noqa: S101 - for the type checker
                self._note(serving.reason)
                reason = self.state_reason
            finally:
                self._serving = None
                if len(serving.exchange):
                    self.breaker.failed(time.monotonic())
                serving.exchange.fail_all(lambda: errors.worker_lost(self.address, reason))

    async def _read(
        self,
        call: grpc.aio.StreamStreamCall[bytes, execution_pb2.ExchangeResponse | DecodeError],
        serving: _Serving,
    ) -> None:
        try:
            async for frame in call:
                serving.liveness.hear()
                if isinstance(frame, DecodeError):
                    # Which generations it was about can't be told.
                    serving.end(ConnectionOverError(f"a frame {frame}"))
                    return
                await _in_turns(serving.exchange.deliver(frame))
        except grpc.aio.AioRpcError as error:
            serving.end(_unless_unimplemented(error, "Exchange"))
        else:
            serving.end(ConnectionOverError("the worker closed the stream"))

    @staticmethod
    async def _write(call: grpc.aio.StreamStreamCall[bytes, object], serving: _Serving) -> None:
        try:
            async for message in serving.exchange.commands():
                await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream is over: its reader tells why

    async def _watch(self, remote: Remote, serving: _Serving, quiet_s: float | None) -> None:
        """Takes the worker's load reports, which are its heartbeat too.

        Args:
            remote: the connection.
            serving: its streams.
            quiet_s: time after which a worker that promises no heartbeat is asked for a report, as
                the first of a new watch; None: it promises one.
        """
        while not serving.over.is_set():
            wait_s = HEARTBEAT_S
            try:
                async with asyncio.timeout(None) as quiet:
                    async for report in remote.watch_load():
                        self._on_report(report, serving)
                        if quiet_s is not None:
                            quiet.reschedule(asyncio.get_running_loop().time() + quiet_s)
            except TimeoutError:
                wait_s = 0.0
            except grpc.aio.AioRpcError as error:
                told = _unless_unimplemented(error, "WatchLoad")
                if told is not error or _pings_are_too_many(error):
                    serving.end(told)
            # It ends with the Exchange where the worker stops; else it is opened again.
            await asyncio.sleep(wait_s)

    def _on_report(
        self, report: worker_pb2.WatchLoadResponse | DecodeError, serving: _Serving
    ) -> None:
        serving.liveness.hear()
        if isinstance(report, DecodeError):
            self._complain(f"a load report {report}")
            return
        serving.load = messages.worker_load(report)
        serving.exchange.unreported = 0
        if serving.load.draining and self._status.drain():
            self._tell()

    def _note(self, error: Exception) -> None:
        """Lets the state tell how a connection has ended."""
        if isinstance(error, grpc.aio.AioRpcError):
            changed = self._status.fail(_reason(error))
        elif isinstance(error, ConnectionOverError):
            changed = self._status.fail(str(error)[:REASON_LIMIT])
        elif isinstance(error, WorkerRefusedError):
            changed = self._status.refuse(str(error)[:REASON_LIMIT])
        else:
            reason = f"this frontend failed at it: {error!r}"[:REASON_LIMIT]
            changed = self._status.refuse(reason)
            if changed:
                log.error("worker_fault", address=self.address, exc_info=error)
        if changed:
            self._tell()

    def _tell(self) -> None:
        level = log.info if self.state is LinkState.READY else log.warning
        level("worker", address=self.address, state=self.state.value, reason=self.state_reason)
        self._on_change()


async def _in_turns(pieces: Iterator[None]) -> None:
    """Does the work of an iterator, and lets others run whenever a turn has taken its time."""
    over_s = time.monotonic() + TURN_S
    for _ in pieces:
        if time.monotonic() >= over_s:
            await asyncio.sleep(0)
            over_s = time.monotonic() + TURN_S


def _unless_unimplemented(error: grpc.aio.AioRpcError, method: str) -> Exception:
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return WorkerRefusedError(f"it does not implement {method}")
    return error


def _pings_are_too_many(error: grpc.aio.AioRpcError) -> bool:
    told = f"{error.details()} {error.debug_error_string()}".lower().replace(" ", "_")
    return "too_many_pings" in told


def _reason(error: grpc.aio.AioRpcError) -> str:
    """Returns why a call failed, and what to do where it is known."""
    if _pings_are_too_many(error):
        return (
            "too_many_pings: the worker's server, or a proxy before it, permits fewer keepalive "
            "pings than one in 20 s; let it permit one in 10 s, with calls and without"
        )
    return f"{error.code().name}: {error.details()}"[:REASON_LIMIT]
