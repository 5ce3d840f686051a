"""A process that tries guides and may be lost to one: both of its ends.

Compiling a form may overflow the stack or take for ever, and no validation of reasonable length can
tell. So a process of its own compiles it first. It says `{}` once it is ready, and answers each
line of standard input, `{"form": ..., "text": ..., "options": [...], "limit_s": ...}`, with one
line, `{"fault": null or what is wrong}`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tokenwire_worker.engines.port import Ability, Guide

START_S = 120.0
"""Longest time that the process may take to import its compiler and load the tokenizer."""

LONGEST_FAULT = 300
"""Characters of what is wrong: some compilers repeat the form. It also keeps an answer, of up to 12
bytes for each of them, below the 4 KiB that a pipe takes whole."""

FaultOf = Callable[[Guide], str | None]
"""Tells what is wrong with a form, or None."""


class Unavailable(Exception):  # noqa: N818 - it says how things are with the process
    """There is no process to try a guide; says why."""


class TrialProcess:
    """One process at a time, started for the first guide and again after it was lost.

    Used by one thread at a time, and killed by any.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        """Starts nothing yet: most workers never see a guide.

        Args:
            module: run as the process; calls `answer`.
            arguments: its command line.
        """
        self._command = [sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._changing = threading.Lock()
        """Guards the process while it is started, killed or given up."""

    def fault(self, guide: Guide, limit_s: float) -> str | None:
        """Returns what is wrong with a form, or None.

        Raises:
            Unavailable: it could not be tried.
            TimeoutError: it took longer than the limit.
            OSError: the process was lost to it.
        """
        asked = {
            "form": guide.form.value,
            "text": guide.text,
            "options": guide.options,
            "limit_s": limit_s,
        }
        try:
            process = self._running()
            _send(process, asked)
            answered = _receive(process, limit_s)
        except (Unavailable, OSError) as error:  # TimeoutError is one
            self.end()
            if self._killed:
                raise Unavailable("the worker is being stopped") from error
            raise
        fault: str | None = answered["fault"]
        return fault

    def kill(self) -> None:
        """Ends it for good, from any thread; `fault` raises Unavailable, also while it waits."""
        with self._changing:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def end(self) -> None:
        """Ends it until the next form, and keeps nothing of it."""
        with self._changing:
            process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it did not live to read
                    pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.end()  # died with nothing to do: the next form is not to blame
        try:
            process = self._start()
            _receive(process, START_S)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unavailable(f"its process did not start: {reason}") from error
        return process

    def _start(self) -> subprocess.Popen[bytes]:
        with self._changing:
            if self._killed:
                raise Unavailable("it is not to be started any more")
            self._process = process = subprocess.Popen(  # noqa: S603 - our own module
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return process


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


def answer(load: Callable[[], FaultOf]) -> None:
    """Runs as the process, until standard input ends.

    Args:
        load: loads the compiler, and returns what tries forms on it.
    """
    # Ctrl-C reaches every process of a terminal; when this one ends is its parent's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print goes elsewhere: standard output is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    fault_of = load()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        guide = Guide(Ability(asked["form"]), asked["text"], tuple(asked["options"]))
        # Should the parent die meanwhile, nobody else would end a compilation without end.
        signal.setitimer(signal.ITIMER_REAL, 2 * asked["limit_s"])
        fault = fault_of(guide)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if fault is not None:
            fault = fault[:LONGEST_FAULT]
        print(json.dumps({"fault": fault}), file=answers, flush=True)
