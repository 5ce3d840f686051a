"""CPU time that processes have used."""

from __future__ import annotations

import os
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(process_id: int | str = "self") -> float:
    """Returns the seconds of CPU, user and system, that a process and its live children have used.

    Linux only.
    """
    folder = Path(f"/proc/{process_id}")
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    own_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    children = [each.read_text().split() for each in folder.glob("task/*/children")]
    return own_s + sum(cpu_s(child) for each in children for child in each)
