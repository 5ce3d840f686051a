"""Ends an engine's processes where the worker dies and can't: by SIGKILL, or by a crash.

They would go on without it, and hold the GPU's memory that the next worker needs. So a process of
its own waits for the worker's end, which it knows by the end of its standard input, and kills
what bears the worker's mark: a variable of the environment that every process below it inherits.

Run by its path, and so with the standard library alone: python -I -S guard.py MARK
"""

import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

VARIABLE = "ENGINE_OF_TOKENWIRE_WORKER"

ROUNDS = 10
"""A process may start another while it is looked for; each round finds what the last one missed."""


_held: list[subprocess.Popen[bytes]] = []
"""Guards, for as long as this process lives: it has the other end of each one's standard input."""


def start() -> None:
    """Marks what this process starts from now on, and starts the guard of it."""
    mark = os.environ[VARIABLE] = uuid.uuid4().hex
    process = subprocess.Popen(  # noqa: S603 - Python, of this file
        [sys.executable, "-I", "-S", __file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's signals are for the worker
    )
    _held.append(process)


def _guard(mark: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a unit's too
    sys.stdin.buffer.read()
    for _ in range(ROUNDS):
        found = _marked(mark)
        if not found:
            return
        for pid in found:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)


def _marked(mark: str) -> list[int]:
    """Returns the other processes with the mark; none where there is no /proc."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # another user's, or one that has ended
            variables = file.read_bytes().split(b"\0")
            if f"{VARIABLE}={mark}".encode() in variables:
                found.append(int(file.parent.name))
    return [pid for pid in found if pid != os.getpid()]


if __name__ == "__main__":
    _guard(sys.argv[1])
