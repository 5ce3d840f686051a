"""One connection to a worker: an Exchange stream and a watch of the load, which end together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tokenwire.worker.v1 import execution_pb2, worker_pb2
from tokenwire_service.tasks import Scope

from tokenwire_frontend.core.link_state import Liveness, Vital
from tokenwire_frontend.workers import messages
from tokenwire_frontend.workers.complaints import Complaints
from tokenwire_frontend.workers.exchange import Exchange
from tokenwire_frontend.workers.messages import WorkerLoad
from tokenwire_frontend.workers.remote import Remote, WorkerRefusedError

HEARTBEAT_S = 1.0
"""Longest time between two signs of life that a worker promises; also how often one is asked for
that promises none."""

TURN_S = 0.005
"""Time after which a frame lets others run."""


class ConnectionOverError(Exception):
    """The streams of a connection have ended."""


class Connection:
    """The streams of one connection.

    Args:
        remote: the calls.
        exchange: the generations.
        liveness: told of each sign of life.
        promised: the worker promises a heartbeat.
        longest_s: time between two of them that it is asked for.
        complain: told of load reports that can't be read.
        on_report: called after each load report.
        follow: what else is done for as long as it lasts.
    """

    def __init__(
        self,
        remote: Remote,
        exchange: Exchange,
        liveness: Liveness,
        *,
        promised: bool,
        longest_s: float,
        complain: Complaints,
        on_report: Callable[[], Awaitable[None]],
        follow: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.exchange = exchange
        self.liveness = liveness
        self.load = WorkerLoad()
        self.reason: Exception | None = None
        """Why it is over; None: it is not."""
        self.turned = asyncio.Event()
        """It is over, or the worker has asked for another connection."""
        self._over = asyncio.Event()
        self._remote = remote
        self._quiet_s = None if promised else HEARTBEAT_S
        self._longest_s = longest_s
        self._complain = complain
        self._on_report = on_report
        self._follow = follow

    def end(self, reason: Exception) -> None:
        """Ends the streams; the first reason counts."""
        if self.reason is None:
            self.reason = reason
            self._over.set()
            self.turned.set()

    def expire(self, answer_s: float) -> None:
        """Draws the consequences of what the worker has not said; to be called every TICK_S."""
        if self.liveness.vital is Vital.LOST:
            self.end(ConnectionOverError(f"silent for {self.liveness.silent_s:.0f} s"))
        else:
            self.exchange.expire(answer_s)

    async def run(self, address: str, on_over: Callable[[], None]) -> None:
        """Holds the streams until one says that they are over.

        Args:
            address: the worker's, for the log.
            on_over: called then, before the tasks and the connection end; also where this is
                cancelled.
        """
        try:
            async with Scope("worker_link") as scope:
                try:
                    call = self._remote.exchange()
                    works = self._read(call), self._write(call), self._watch(), self._follow()
                    for work in works:
                        scope.start(work, on_fault=self.end, address=address)
                    await self._over.wait()
                finally:
                    on_over()
        finally:
            self._remote.close()

    async def _read(
        self, call: grpc.aio.StreamStreamCall[bytes, execution_pb2.ExchangeResponse | DecodeError]
    ) -> None:
        try:
            async for frame in call:
                self.liveness.hear()
                if isinstance(frame, DecodeError):
                    # Which generations it was about can't be told.
                    self.end(ConnectionOverError(f"a frame {frame}"))
                    return
                await _in_turns(self.exchange.deliver(frame))
                if self.exchange.moves:
                    self.turned.set()
        except grpc.aio.AioRpcError as error:
            self.end(_unless_unimplemented(error, "Exchange"))
        else:
            self.end(ConnectionOverError("the worker closed the stream"))

    async def _write(self, call: grpc.aio.StreamStreamCall[bytes, object]) -> None:
        try:
            async for message in self.exchange.commands():
                await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream is over: its reader tells why

    async def _watch(self) -> None:
        """Takes the worker's load reports, which are its heartbeat too.

        A worker that promises no heartbeat is asked for a report once it was quiet for a while, as
        the first of a new watch.
        """
        while self.reason is None:
            wait_s = HEARTBEAT_S
            try:
                async with asyncio.timeout(None) as quiet:
                    async for report in self._remote.watch_load(self._longest_s):
                        await self._take(report)
                        if self._quiet_s is not None:
                            quiet.reschedule(asyncio.get_running_loop().time() + self._quiet_s)
            except TimeoutError:
                wait_s = 0.0
            except grpc.aio.AioRpcError as error:
                told = _unless_unimplemented(error, "WatchLoad")
                if told is not error or pings_are_too_many(error):
                    self.end(told)
            # It ends with the Exchange where the worker stops; else it is opened again.
            await asyncio.sleep(wait_s)

    async def _take(self, report: worker_pb2.WatchLoadResponse | DecodeError) -> None:
        self.liveness.hear()
        if isinstance(report, DecodeError):
            self._complain(f"a load report {report}")
            return
        self.load = messages.worker_load(report)
        self.exchange.unreported = 0
        await self._on_report()


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


def pings_are_too_many(error: grpc.aio.AioRpcError) -> bool:
    """Tells whether a call failed since the peer permits fewer keepalive pings."""
    told = f"{error.details()} {error.debug_error_string()}".lower().replace(" ", "_")
    return "too_many_pings" in told
