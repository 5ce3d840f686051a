"""A process that tries guides and may be lost to one: both of its ends.

Compiling a form may overflow the stack or take for ever, and no validation of reasonable length can
tell. So a process of its own compiles it first. It says `{}` once it is ready, and answers each
line of standard input, `{"form": ..., "text": ..., "options": [...], "free": null or [begin, end],
"cpu_s": ..., "wall_s": ...}`, with one line, `{"fault": null or what is wrong, "held_bytes": ...,
"cpu_s": ...}`.

What a form costs is counted in CPU time, of which a busy machine does not take more. Time on the
clock is bounded too, but says nothing about the form.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenwire_service.signals import FROM_TERMINAL, held_back, leave_to_parent

from tokenwire_worker.engines.guides.memory import heap_bytes, resident_bytes
from tokenwire_worker.engines.port import Ability, FreePrefix, Guide

START_S = 120.0
"""Longest time that the process may take to import its compiler and load the tokenizer."""

LONGEST_FAULT = 300
"""Characters of what is wrong: some compilers repeat the form. It also keeps an answer, of up to 12
bytes for each of them, below the 4 KiB that a pipe takes whole."""

NICE = 5
"""Added to the process's niceness: what runs in the engine goes before what may run."""

MOST_FORMS = 1000
MOST_GROWTH_BYTES = 64 * 1024**2
"""Forms that one process tries, and its growth: compilers keep what they have compiled. A small
schema is 150 KiB, so either is reached after some hundreds of forms; the next process takes half a
second of CPU time."""

STOPPED = "the worker is being stopped"

FaultOf = Callable[[Guide], str | None]
"""Tells what is wrong with a form, or None."""


@dataclass(frozen=True, slots=True)
class Tries:
    """What is tried of a form, one after the other."""

    compiled: FaultOf
    walked: FaultOf
    """Draws an output of a form that compiles; see `walk`."""


_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 1

_FROM_OUTSIDE = (0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGALRM)
"""How a process ends that somebody ended, the kernel when memory was short, or the clock on the
wall, which says nothing of the form."""


class Unavailable(Exception):  # noqa: N818 - it says how things are with the process
    """There is no process to try a guide; says why."""


class Lost(Exception):  # noqa: N818 - it says what happened to the process
    """The process ended, or stopped answering, with a form in it."""

    def __init__(self, *, by_form: bool) -> None:
        super().__init__("its process was lost")
        self.by_form = by_form
        """The form did it, and would again."""


class OutOfCpuTime(Exception):  # noqa: N818 - it says what happened to the form
    """The form took all the CPU time that it was given."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a form that was tried."""

    fault: str | None
    """What is wrong with it."""
    held_bytes: int = 0
    """Memory that the compiler keeps for it; 0 where it cannot be told."""
    cpu_s: float = 0.0
    """CPU time that it took to compile."""


class TrialProcess:
    """One process at a time, started for the first guide and again after it was lost.

    Used by one thread at a time; `stop` and `kill` may be called by any.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        """Starts nothing yet: most workers never see a guide.

        Args:
            module: run as the process; calls `answer`.
            arguments: its command line.
        """
        self._command = [sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_bytes: int | None = None
        """Memory of the process when it was ready; None: it is still to say so."""
        self._forms = 0
        self._spoilt = False
        """The process was stopped, though it may not have ended yet."""
        self._killed = False
        self._changing = threading.Lock()
        """Guards the process while it is started, killed or given up."""

    def ask(self, guide: Guide, cpu_s: float, wall_s: float) -> None:
        """Gives a form to the process, starting one where there is none.

        Raises:
            Unavailable: it could not be started.
            Lost: the process did not take it.
        """
        process = self._running()
        prefix = guide.free_prefix
        asked = {
            "form": guide.form.value,
            "text": guide.text,
            "options": guide.options,
            "free": (prefix.begin, prefix.end) if prefix else None,
            "cpu_s": cpu_s,
            "wall_s": wall_s,
        }
        self._forms += 1
        try:
            _send(process, asked)
        except OSError as error:
            raise self._lost() from error

    def answer(self, wait_s: float) -> Verdict:
        """Returns what the process says of the form that it was given.

        Raises:
            TimeoutError: nothing yet; may be called again.
            OutOfCpuTime: the process has ended, as the form took all its CPU time.
            Lost: the process has ended.
        """
        process = self._process
        if process is None:
            raise Lost(by_form=False)
        try:
            said = _receive(process, wait_s)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._lost() from error
        return Verdict(said["fault"], said["held_bytes"], said["cpu_s"])

    def cpu_s(self) -> float:
        """Returns the CPU time that the process has taken; 0 where it cannot be told or is gone."""
        process = self._process
        try:
            stat = Path(f"/proc/{process.pid}/stat").read_text() if process else ""
        except OSError:
            return 0.0
        times = stat.rpartition(")")[2].split()[11:13]  # of user and of kernel
        return sum(map(int, times)) / _TICKS_PER_S

    def stop(self) -> None:
        """Ends the process, from any thread: what it tries is lost. The next form has another."""
        with self._changing:
            self._spoilt = True
            if self._process is not None:
                self._process.kill()

    def kill(self) -> None:
        """Ends it for good, from any thread: from now on it is unavailable."""
        with self._changing:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def end(self) -> None:
        """Ends it until the next form, and keeps nothing of it."""
        with self._changing:
            process, self._process = self._process, None
            self._spoilt = False
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it did not live to read
                    pipe.close()

    def renew_if_worn(self) -> None:
        """Replaces the process by a new one where it has tried many forms; does not wait for it."""
        process = self._process
        if process is None or self._ready_bytes is None:
            return
        grown_bytes = resident_bytes(process.pid) - self._ready_bytes
        if self._forms < MOST_FORMS and grown_bytes < MOST_GROWTH_BYTES:
            return
        self.end()
        with suppress(Unavailable, OSError):  # the next form says so
            self._start()

    def _running(self) -> subprocess.Popen[bytes]:
        """Returns a process that is ready."""
        process = self._process
        if process is None or self._spoilt or process.poll() is not None:
            self.end()  # died with nothing to do: the next form is not to blame
        try:
            process = self._process or self._start()
            if self._ready_bytes is None:
                _receive(process, START_S)
                self._ready_bytes = resident_bytes(process.pid)
        except (Unavailable, OSError) as error:
            self.end()
            if self._killed:
                raise Unavailable(STOPPED) from error
            reason = getattr(error, "strerror", None) or str(error)
            raise Unavailable(f"its process did not start: {reason}") from error
        return process

    def _start(self) -> subprocess.Popen[bytes]:
        with self._changing:
            if self._killed:
                raise Unavailable(STOPPED)
            self._ready_bytes = None
            self._forms = 0
            with held_back():
                self._process = process = subprocess.Popen(  # noqa: S603 - our own module
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
        return process

    def _lost(self) -> Exception:
        """Ends what is left of the process, and returns what happened to it."""
        process, spoilt = self._process, self._spoilt or self._killed
        code: int | None = None
        if process is not None:
            with suppress(subprocess.TimeoutExpired):  # its pipes are closed, yet it lives
                code = process.wait(1)
        self.end()
        if self._killed:
            return Unavailable(STOPPED)
        if code == -signal.SIGPROF:
            return OutOfCpuTime()
        return Lost(by_form=code is not None and code not in _FROM_OUTSIDE and not spoilt)


def _send(process: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    if process.stdin is None:
        raise AssertionError("the process has pipes. This is a bug.")
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()


def _receive(process: subprocess.Popen[bytes], limit_s: float) -> Any:
    """Returns the next answer.

    Raises:
        TimeoutError: it does not come in time.
        OSError: the process is gone.
    """
    if process.stdout is None:
        raise AssertionError("the process has pipes. This is a bug.")
    # Answers are one at a time and short, so what is readable is a whole line.
    if not select.select([process.stdout], [], [], limit_s)[0]:
        raise TimeoutError(f"no answer within {limit_s:g} s")
    line = process.stdout.readline()
    if not line:
        raise BrokenPipeError("it has ended")
    return json.loads(line)


def answer(load: Callable[[], Tries]) -> None:
    """Runs as the process, until standard input ends.

    Args:
        load: loads the compiler, and returns how forms are tried on it.
    """
    leave_to_parent(*FROM_TERMINAL)
    # What libraries print goes elsewhere: standard output is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    tries = load()
    os.nice(NICE)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        prefix = FreePrefix(*asked["free"]) if asked["free"] else None
        guide = Guide(Ability(asked["form"]), asked["text"], tuple(asked["options"]), prefix)
        before_bytes, before_s = heap_bytes(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, asked["cpu_s"])
        # Should the parent die meanwhile, nobody else would end a compilation without end.
        signal.setitimer(signal.ITIMER_REAL, 2 * asked["wall_s"])
        fault = tries.compiled(guide)
        held_bytes, cpu_s = max(0, heap_bytes() - before_bytes), time.process_time() - before_s
        if fault is None:
            # A mask cannot be interrupted, so one without end is left to the clocks too. Where a
            # part of the output is free, all of a walk would be in it.
            fault = tries.walked(replace(guide, free_prefix=None))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if fault is not None:
            fault = fault[:LONGEST_FAULT]
        said = {"fault": fault, "held_bytes": held_bytes, "cpu_s": cpu_s}
        print(json.dumps(said), file=answers, flush=True)
