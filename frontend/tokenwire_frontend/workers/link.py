"""One worker: its connection, its state, its load, and the generations that it holds.

A link lives until its worker is not listed any more and holds nothing. It makes one connection
after the other. Whatever ends one, or goes wrong before, is the reason of the link's state; what
the worker held fails as WORKER_LOST, and the next connection is tried after a wait. Where the
worker asks for another connection, the one before goes on until it is empty. Frames are always read
at once: what a slow client has not taken yet waits in that client's generation, not in the stream.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from tokenwire.worker.v1 import execution_pb2
from tokenwire_service.tasks import Scope
from tokenwire_service.tls import Credentials

from tokenwire_frontend import errors
from tokenwire_frontend.core.breaker import Breaker
from tokenwire_frontend.core.call_order import Handles
from tokenwire_frontend.core.link_state import AwakeClock, LinkState, LinkStatus, Liveness
from tokenwire_frontend.workers import messages
from tokenwire_frontend.workers.complaints import Complaints
from tokenwire_frontend.workers.connection import (
    Connection,
    ConnectionOverError,
    pings_are_too_many,
)
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

CONNECTIONS_LIMIT = 4
"""Connections to one worker at once: the newest, and those before it that still hold something.
With so many, a worker that asks for another has to wait."""

HEARTBEAT_REVISION = 2
"""Contract revision from which on WatchLoad has a message at least once a second."""

LEAST_HEARTBEAT_S, MOST_HEARTBEAT_S = 1.0, 10.0
"""Bounds of the time between two heartbeats that a worker can be asked for. It is asked for two in
the silence after which it is suspect: each costs 0.1 to 0.2 ms, and most say nothing new."""

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
        follow: what else is done with a worker for as long as a connection to it lasts.
        tls_name: name that the worker's certificate has; empty: the address's host.
    """

    def __init__(
        self,
        address: str,
        credentials: Credentials,
        limits: LinkLimits,
        clock: AwakeClock,
        meet: Callable[[WorkerLink, WorkerInfo, Remote], Awaitable[None]],
        on_change: Callable[[], None],
        follow: Callable[[WorkerLink, Remote], Coroutine[Any, Any, None]],
        tls_name: str = "",
    ) -> None:
        self.address = address
        self.info: WorkerInfo | None = None
        self.breaker = Breaker()
        """Told of the outcome of each request."""
        self._credentials = credentials
        self.tls_name = tls_name
        """Of the next connection."""
        self._limits = limits
        self._clock = clock
        self._meet = meet
        self._on_change = on_change
        self._follow = follow
        self._status = LinkStatus()
        self._handles = Handles()
        self._complain = Complaints(address)
        self._connections: list[Connection] = []
        """Oldest first: the newest gets what is new, the others end when they are empty."""

    @property
    def state(self) -> LinkState:
        """Whether the worker gets requests."""
        return self._status.state

    @property
    def state_reason(self) -> str:
        """Why, where the state is not READY."""
        return self._status.reason

    @property
    def listed(self) -> bool:
        """Whether the worker is to get requests as soon as it can."""
        return self._status.listed

    @property
    def load(self) -> WorkerLoad:
        """What the worker last reported; of one that is not connected nothing."""
        return self._connections[-1].load if self._connections else WorkerLoad()

    @property
    def in_flight(self) -> int:
        """Generations that the worker holds for this frontend."""
        return sum([len(connection.exchange) for connection in self._connections])

    @property
    def unreported(self) -> int:
        """Requests submitted, less those ended, since the last load report."""
        return self._connections[-1].exchange.unreported if self._connections else 0

    def submit(self, request: execution_pb2.Request, receiver: Receiver) -> int:
        """Sends a generation; the receiver hears of it from now on. Returns its handle.

        Raises:
            ServiceError: it can't be sent; the receiver hears nothing.
        """
        if not self._connections:
            raise errors.worker_lost(self.address, self.state_reason)
        return self._connections[-1].exchange.submit(request, receiver)

    def cancel(self, handle: int, sequence: int | None = None) -> None:
        """Cancels a generation or one of its sequences; on_ending and on_completed still come."""
        for connection in self._connections:
            connection.exchange.cancel(handle, sequence)

    def detach(self, handle: int) -> None:
        """Cancels a generation whose receiver is to hear nothing more."""
        for connection in self._connections:
            connection.exchange.detach(handle)

    def set_listed(self, *, listed: bool) -> None:
        """Notes whether the worker is to get requests; one that is not finishes what it has."""
        if self._status.set_listed(listed=listed):
            self._tell()

    def fail_unaccepted(self) -> None:
        """Fails what a silent worker has not accepted yet, so that another is tried."""
        reason = self.state_reason
        for connection in self._connections:
            connection.exchange.fail_unaccepted(lambda: errors.worker_lost(self.address, reason))

    def tick(self) -> None:
        """Draws the consequences of what the worker has not said; to be called every TICK_S."""
        if not self._connections:
            return
        if self._status.judge(self._connections[-1].liveness):
            self._tell()
        *older, newest = self._connections
        newest.expire(self._limits.answer_s)
        for connection in older:
            connection.expire(self._limits.answer_s)
            if not len(connection.exchange):
                connection.end(ConnectionOverError("it was left for another, and is empty"))

    async def run(self) -> None:
        """Connects, serves and reconnects, until cancelled."""
        wait_s = RECONNECT_FIRST_S
        async with Scope("worker_link") as scope:
            while True:
                began_s = time.monotonic()
                if len(self._connections) < CONNECTIONS_LIMIT:
                    await self._connect(scope)
                if time.monotonic() - began_s >= SETTLED_S:
                    wait_s = RECONNECT_FIRST_S
                # Jitter, so that many frontends do not return to a restarted worker together.
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
                refused = self.state is LinkState.REFUSED
                wait_s = min(wait_s * 2, REFUSED_MOST_S if refused else RECONNECT_MOST_S)

    async def _connect(self, scope: Scope) -> None:
        """Makes one connection, and returns when there is to be another."""
        with ExitStack() as unless_served:
            remote = Remote(self.address, self._credentials, self.tls_name)
            unless_served.callback(remote.close)
            try:
                info = await self._described(remote)
                if not self._connections:
                    self.info = info
                await self._meet(self, info, remote)
            except Exception as error:  # noqa: BLE001 - whatever it is, the state tells it
                if not self._connections:
                    self._note(error)
                else:
                    log.warning("worker_not_moved", address=self.address, reason=_told(error))
                return
            unless_served.pop_all()
        self.info = info
        await self._serve(scope, remote, info)

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

    async def _serve(self, scope: Scope, remote: Remote, info: WorkerInfo) -> None:
        """Gives a connection what is new, until it is over or the worker asks for another."""
        limits = self._limits
        outgoing = Outgoing(self.address, info.contract_revision, limits.request_bytes)
        connection = Connection(
            remote,
            Exchange(self.address, info, outgoing, self._handles, self._clock),
            Liveness(self._clock, limits.suspect_s, limits.lost_s),
            promised=info.contract_revision >= HEARTBEAT_REVISION,
            longest_s=min(max(limits.suspect_s / 2, LEAST_HEARTBEAT_S), MOST_HEARTBEAT_S),
            complain=self._complain,
            follow=lambda: self._follow(self, remote),
            on_report=lambda: self._on_report(connection, remote),
        )
        self._connections.append(connection)
        scope.start(
            connection.run(self.address, lambda: self._on_over(connection)),
            on_fault=connection.end,
            address=self.address,
        )
        if self._status.serve():
            self._tell()
        await connection.turned.wait()

    async def _on_report(self, connection: Connection, remote: Remote) -> None:
        if self._connections[-1:] != [connection]:
            return
        if connection.load.draining and self._status.drain():
            self._tell()
        await self._keep_described(connection, remote)

    async def _keep_described(self, connection: Connection, remote: Remote) -> None:
        """Asks what the worker is where its last report says that this has changed."""
        known = self.info
        if known is None or connection.load.description_number == known.description_number:
            return
        try:
            info = await self._described(remote)
        except WorkerRefusedError as refusal:
            connection.end(refusal)
            return
        if (info.model, info.tokenizer_fingerprint) != (known.model, known.tokenizer_fingerprint):
            connection.end(ConnectionOverError("it serves another model"))
            return
        self.info = info
        adapters = len(info.limits.lora_adapters)
        log.info("worker_changed", address=self.address, lora_adapters=adapters)
        self._on_change()

    def _on_over(self, connection: Connection) -> None:
        """Fails what a connection had that is over."""
        self._connections.remove(connection)
        reason = "this frontend has stopped"
        if connection.reason is not None:
            reason = _told(connection.reason)
            if not self._connections:
                self._note(connection.reason)
                reason = self.state_reason
        if len(connection.exchange):
            self.breaker.failed(time.monotonic())
        connection.exchange.fail_all(lambda: errors.worker_lost(self.address, reason))

    def _note(self, error: Exception) -> None:
        """Lets the state tell how a connection has ended."""
        if isinstance(error, grpc.aio.AioRpcError | ConnectionOverError):
            changed = self._status.fail(_told(error))
        else:
            changed = self._status.refuse(_told(error))
            if changed and not isinstance(error, WorkerRefusedError):
                log.error("worker_fault", address=self.address, exc_info=error)
        if changed:
            self._tell()

    def _tell(self) -> None:
        level = log.info if self.state is LinkState.READY else log.warning
        level("worker", address=self.address, state=self.state.value, reason=self.state_reason)
        self._on_change()


def _told(error: Exception) -> str:
    """Returns why a connection has ended, and what to do where it is known."""
    if isinstance(error, ConnectionOverError | WorkerRefusedError):
        return str(error)[:REASON_LIMIT]
    if not isinstance(error, grpc.aio.AioRpcError):
        return f"this frontend failed at it: {error!r}"[:REASON_LIMIT]
    if pings_are_too_many(error):
        return (
            "too_many_pings: the worker's server, or a proxy before it, permits fewer keepalive "
            "pings than one in 20 s; let it permit one in 10 s, with calls and without"
        )
    return f"{error.code().name}: {error.details()}"[:REASON_LIMIT]
