"""Ends what tests have started, whatever happens to the runner: also where that is killed.

The processes of a run, and their children, carry a mark in their environment. The guardian is a
process that waits for the end of the runner, which closes the pipe between them, and then kills
what has the mark.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "TEST_RUN_OF_TOKENWIRE"
"""Not among the names that tests leave out of a service's environment."""


@contextmanager
def guarded() -> Iterator[None]:
    """Marks what is started inside the block, and kills what is left of it after the runner's end.

    Linux only; elsewhere it does nothing.
    """
    if sys.platform != "linux":
        yield
        return
    mark = f"{MARK}={os.getpid()}-{os.urandom(8).hex()}"
    # Not a part of the runner's process group: Ctrl-C and a killed group do not reach it.
    guardian = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), mark],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    os.environ[MARK] = mark.partition("=")[2]
    try:
        yield
    finally:
        del os.environ[MARK]
        guardian.communicate()


def main() -> None:
    """Waits for the end of standard input, and kills every process that has the mark."""
    sys.stdin.read()
    mark = sys.argv[1].encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


if __name__ == "__main__":
    main()
