"""The frontend's end of one process that tokenises and renders."""

from __future__ import annotations

import asyncio
import marshal
import socket
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Callable
from typing import Any, cast

from tokenwire_frontend.models.process import HEADER

MODULE = "tokenwire_frontend.models.process"


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
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._process: asyncio.subprocess.Process | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[tuple[str, Any]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._late = self._retired = False
        self._received = bytearray()

    @property
    def idle(self) -> bool:
        """Whether it can take a job."""
        return self.alive and self._answer is None

    async def start(self) -> None:
        """Starts the process."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", MODULE, str(theirs.fileno()),
                pass_fds=(theirs.fileno(),), stdin=DEVNULL, stdout=DEVNULL,
            )  # fmt: skip
        ours.setblocking(False)  # noqa: FBT003
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        self.alive = True

    def run(self, job: bytes, limit_s: float) -> asyncio.Future[tuple[str, Any]]:
        """Sends a job, a marshalled tuple of its name and arguments; the process must be idle.

        Returns:
            What becomes of it; cancelling the future stops nothing. It fails with ProcessLostError
            or, after `limit_s`, with JobTooLongError.
        """
        assert self._transport is not None  # noqa: S101 - it is idle, so it was started
        loop = asyncio.get_running_loop()
        self._answer = answer = loop.create_future()
        self._timer = loop.call_later(limit_s, self._end_late)
        self._transport.writelines((HEADER.pack(len(job)), job))
        return answer

    @property
    def gone(self) -> bool:
        """Whether the process has ended, or was never started."""
        return self._process is None or self._process.returncode is not None

    async def ended(self) -> None:
        """Returns once the process has ended, after `kill`."""
        if self._process is not None:
            await self._process.wait()

    def retire(self) -> None:
        """Ends the process once it has no job."""
        self._retired = True
        if self._answer is None:
            self.kill()

    def kill(self) -> None:
        """Ends the process now."""
        if self._process is not None and self._process.returncode is None:
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
        answer: tuple[str, Any] = marshal.loads(  # noqa: S302 - written by this frontend's process
            memoryview(self._received)[HEADER.size : end]
        )
        self._received = bytearray()
        self._finish(lambda future: future.set_result(answer))
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

    def _end_late(self) -> None:
        self._late = True
        self.kill()

    def _finish(self, settle: Callable[[asyncio.Future[tuple[str, Any]]], None]) -> None:
        answer, self._answer = self._answer, None
        if self._timer is not None:
            self._timer.cancel()
        if answer is not None and not answer.done():
            settle(answer)


def packed(name: str, *arguments: Any) -> bytes:
    """Returns a job as `TextProcess.run` takes it."""
    return marshal.dumps((name, *arguments))
