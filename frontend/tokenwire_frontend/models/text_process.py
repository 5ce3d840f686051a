"""The frontend's end of one process that tokenises and renders."""

from __future__ import annotations

import asyncio
import marshal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from tokenwire_service.signals import held_back

from tokenwire_frontend.models.cache_counts import CacheCounts
from tokenwire_frontend.models.process import HEADER

MODULE = "tokenwire_frontend.models.process"


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """What a job may take."""

    cpu_s: float
    """Of its process's CPU time, where the system tells it."""
    wall_s: float
    """More than the CPU time: other processes may need the cores."""


class ProcessLostError(Exception):
    """The process ended with a job: it was killed, or ran out of memory."""


class JobTooLongError(Exception):
    """The job ran for longer than it may, so its process was ended."""


class TextProcess(asyncio.Protocol):
    """One process, which does one job at a time.

    Args:
        on_idle: called when it has done a job.
        on_lost: called when it has ended.
    """

    def __init__(self, on_idle: Callable[[], None], on_lost: Callable[[TextProcess], None]) -> None:
        self.alive = False
        self.cache_counts = CacheCounts()
        """As they were after its last job."""
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[tuple[str, Any]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._late = self._retired = False
        self._received = bytearray()

    @property
    def idle(self) -> bool:
        """Whether it can take a job."""
        return self.alive and self._answer is None

    @property
    def pid(self) -> int | None:
        """The process's id; None once it has ended, and before it is started."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    async def start(self) -> None:
        """Starts the process."""
        ours, theirs = socket.socketpair()
        with theirs, held_back():
            # Not asyncio's: what its loops do between fork and exec wakes gRPC's handlers of forks.
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - takes about 2 ms
                [sys.executable, "-m", MODULE, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        ours.setblocking(False)  # noqa: FBT003
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        self.alive = True

    def run(self, job: bytes, limit: TimeLimit) -> asyncio.Future[tuple[str, Any]]:
        """Sends a job, a marshalled tuple of its name and arguments; the process must be idle.

        Args:
            job: the job.
            limit: time that it may take.

        Returns:
            What becomes of it; cancelling the future stops nothing. It fails with ProcessLostError
            or, after the limit, with JobTooLongError.
        """
        assert self._transport is not None  # noqa: S101 - it is idle, so it was started
        loop = asyncio.get_running_loop()
        self._answer = answer = loop.create_future()
        self._timer = loop.call_later(
            limit.cpu_s, self._watch, self._cpu_s() + limit.cpu_s, loop.time() + limit.wall_s
        )
        self._transport.writelines((HEADER.pack(len(job)), job))
        return answer

    async def ended(self) -> None:
        """Returns once the process has ended, after `kill`."""
        if self._process is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._process.wait)

    def retire(self) -> None:
        """Ends the process once it has no job."""
        self._retired = True
        if self._answer is None:
            self.kill()

    def kill(self) -> None:
        """Ends the process now."""
        if self._process is not None:
            self._process.kill()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with what has come of an answer."""
        self._received += data
        if len(self._received) < HEADER.size:
            return
        end = HEADER.size + HEADER.unpack_from(self._received)[0]
        if len(self._received) < end:
            return
        kind, value, counts = marshal.loads(  # noqa: S302 - written by this frontend's process
            memoryview(self._received)[HEADER.size : end]
        )
        self._received = bytearray()
        self.cache_counts = CacheCounts(*counts)
        self._finish(lambda future: future.set_result((kind, value)))
        if self._retired:
            self.kill()
        else:
            self._on_idle()

    def connection_lost(self, _error: Exception | None) -> None:
        """Called by the event loop when the process has ended."""
        self.kill()
        self.alive = False
        error = JobTooLongError() if self._late else ProcessLostError()
        self._finish(lambda future: future.set_exception(error))
        self._on_lost(self)

    def _watch(self, cpu_end_s: float, wall_end_s: float) -> None:
        """Ends the process where the job has used up its time."""
        loop = asyncio.get_running_loop()
        left_s = min(cpu_end_s - self._cpu_s(), wall_end_s - loop.time())
        if left_s <= 0:
            self._late = True
            self.kill()
        else:
            self._timer = loop.call_later(left_s, self._watch, cpu_end_s, wall_end_s)

    def _cpu_s(self) -> float:
        """Returns the CPU time of the process, or time where the system does not tell it."""
        assert self._process is not None  # noqa: S101 - it has a job, so it was started
        try:
            # The clock that Linux's clock_getcpuclockid returns.
            return time.clock_gettime(~self._process.pid << 3 | 2)
        except (OSError, AttributeError):
            return time.monotonic()

    def _finish(self, settle: Callable[[asyncio.Future[tuple[str, Any]]], None]) -> None:
        answer, self._answer = self._answer, None
        if self._timer is not None:
            self._timer.cancel()
        if answer is not None and not answer.done():
            settle(answer)


def packed(name: str, *arguments: Any) -> bytes:
    """Returns a job as `TextProcess.run` takes it."""
    return marshal.dumps((name, *arguments))
