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
    children = [each.read_text().split() for each in folder.glob("task/*/children")]
    return own_cpu_s(process_id) + sum(cpu_s(child) for each in children for child in each)


def own_cpu_s(process_id: int | str = "self") -> float:
    """Returns the seconds of CPU that a process without its children has used. Linux only."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
