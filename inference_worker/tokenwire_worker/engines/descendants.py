"""Ends the processes that an engine has started, where the engine itself can't be asked to."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from contextlib import suppress
from pathlib import Path


def kill_descendants(pid: int) -> None:
    """Sends SIGKILL to every process below this one; a stopped process too ends by it.

    All are found before the first is killed, since an orphan no longer tells whose it was.
    """
    for descendant in descendants(pid):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(descendant, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Returns the processes below this one, parents first; none where there is no /proc."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in parentheses, may hold anything; state and parent follow it.
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
            children[parent].append(int(entry.parent.name))
    found = list(children[pid])
    for each in found:  # grows as it is read
        found += children[each]
    return found
