"""One of the processes that serve, as the supervising process has it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from tokenwire_service.signals import held_back
from tokenwire_service.tasks import RESTART_FIRST_S, Scope

from tokenwire_frontend.processes.link import ANSWER_S, Answers, Link, SilentError
from tokenwire_frontend.processes.membership import Seat

MODULE = "tokenwire_frontend.processes.member"

STATES = ("starting", "serving", "not_serving", "silent")
"""`starting`: it does not listen yet. `not_serving`: it has no worker, or drains. `silent`: it does
not answer the supervising process."""

EXIT_S = 10.0
"""Time that a process has to end after its drain: calls take 2 s, the last export 3 s."""

BEAT_S = 0.5
"""From an answer, or its absence, to the next question whether it is there."""

SILENT_BEATS = 3
"""Questions without an answer after which it does not count as serving: 4.5 s, as ANSWER_S says."""

HUNG_BEATS = 30
"""Questions without an answer after which it is killed, to be started again: 45 s. Its
connections are served by nobody meanwhile. They are counted, not timed, so that a machine that was
suspended blames no process."""

POLL_S = 0.02
"""Between two looks at whether a process has ended, which it does soon: its link is closed."""

log = structlog.get_logger()


class ServingProcess:
    """A place for a process, and the one that has it now.

    Args:
        index: which of the processes it is, from 0.
        shared: HOST:PORT that all listen on.
        own: HOST:PORT of this one; port 0 takes any.
        openai: HOST:PORT of the OpenAI-compatible interface, which all listen on; empty: it is off.
        arguments: the frontend's.
        answers: what it may ask beside telling of itself, by topic.
        secret: which all processes have.
    """

    def __init__(
        self,
        index: int,
        shared: str,
        own: str,
        openai: str,
        arguments: Sequence[str],
        answers: Answers,
        secret: bytes,
    ) -> None:
        self.index = index
        self.runs = 0
        self.restarts = 0
        """Runs that were started because the one before had ended by itself."""
        self.wait_s = RESTART_FIRST_S
        """Before it is started again."""
        self.address: str | None = None
        """HOST:PORT of this process alone, once it listens."""
        self.has_listened = False
        """Whether any run has."""
        self.serving = False
        """Whether it welcomes work."""
        self.silent = False
        """Whether it has left the last questions without an answer."""
        self.told_to_end = False
        self.link: Link | None = None
        self.final: Any = None
        """What its metrics have come to at its end."""
        self._place = shared, own, openai
        self._secret = secret
        self._arguments = list(arguments)
        self._answers: Answers = {
            "listening": self._listens,
            "serving": self._serves,
            "ending": self._ends,
            **answers,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._changed = asyncio.Event()

    @property
    def name(self) -> str:
        """A name that no other run of any process has."""
        return f"{self.index}.{self.runs}"

    @property
    def running_s(self) -> float:
        """Time since the run's start."""
        return time.monotonic() - self._started_s

    @property
    def state(self) -> str:
        """One of STATES."""
        if self.address is None:
            return "starting"
        if self.silent:
            return "silent"
        return "serving" if self.serving else "not_serving"

    def description(self) -> dict[str, Any]:
        """Returns what the admin port shows of it."""
        return {
            "process": self.index,
            "pid": self._process.pid if self._process else None,
            "address": self.address,
            "state": self.state,
            "restarts": self.restarts,
            "uptime_s": round(self.running_s, 3) if self._process else None,
        }

    async def run(self, *, waits: bool) -> int:
        """Runs the process once; returns its exit code, negative where a signal has ended it.

        Args:
            waits: whether it listens on the shared address only once it has a worker.
        """
        self.runs += 1
        self.told_to_end = False
        self.final = None
        ours, theirs = socket.socketpair()
        ours.sendall(self._secret)
        seat = Seat(theirs.fileno(), self.index, self.runs, *self._place, waits, self._secret)
        with theirs, held_back():
            self._process = process = subprocess.Popen(  # noqa: ASYNC220, S603 - takes about 2 ms
                [sys.executable, "-m", MODULE, *seat.arguments(), *self._arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._started_s = time.monotonic()
        try:
            ours.setblocking(False)  # noqa: FBT003
            self.link = link = await Link.over(ours, self._answers)
            async with Scope("process_beat") as scope:
                scope.start(self._watch(link, process), process=self.index)
                await link.run()
            return await self._ended(process)
        finally:
            process.kill()
            process.wait()
            self.link = self.address = self._process = None
            self.serving = self.silent = False
            self._notify()

    async def _watch(self, link: Link, process: subprocess.Popen[bytes]) -> None:
        """Asks whether it is there; kills it once it has not been for too long."""
        unanswered = 0
        while unanswered < HUNG_BEATS:
            await asyncio.sleep(BEAT_S)
            if self.address is None:
                continue
            try:
                async with asyncio.timeout(ANSWER_S):
                    await link.ask("alive")
            except (TimeoutError, SilentError):
                unanswered += 1
            else:
                unanswered = 0
            self.silent = unanswered >= SILENT_BEATS
        log.error("process_hung", process=self.index, unanswered=unanswered)
        process.kill()

    async def _ended(self, process: subprocess.Popen[bytes]) -> int:
        """Returns the exit code, when the link is closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(EXIT_S):
                while process.poll() is None:  # noqa: ASYNC110 - Linux tells by a signal alone
                    await asyncio.sleep(POLL_S)
        process.kill()
        return process.wait()

    async def end(self, grace_s: float) -> None:
        """Has the process drain and end; kills it where that takes longer than it should."""
        process = self._process
        if process is None:
            return
        self.told_to_end = True
        process.terminate()
        if not await self.until(lambda: self._process is not process, grace_s + EXIT_S):
            process.kill()
            await self.until(lambda: self._process is not process, EXIT_S)

    async def until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until a condition on this process holds; returns whether it does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not holds():
                    await self._changed.wait()
        return holds()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _listens(self, address: str) -> None:
        self.address = address
        self.has_listened = True
        self._notify()

    async def _serves(self, serving: bool) -> None:
        self.serving = serving
        self._notify()

    async def _ends(self, metrics: Any) -> None:
        self.final = metrics
