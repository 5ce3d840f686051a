"""How much memory a process holds."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any


class _MallInfo(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@cache
def _mallinfo() -> Any:
    try:
        function = ctypes.CDLL(None).mallinfo2  # glibc 2.33 and later
    except (OSError, AttributeError, TypeError):
        return None
    function.restype = _MallInfo
    return function


def heap_bytes() -> int:
    """Returns what this process has allocated and not freed; 0 where it cannot be told.

    Unlike the resident size it does not depend on what was freed before.
    """
    function = _mallinfo()
    if function is None:
        return 0
    info = function()
    return int(info.uordblks + info.hblkhd)


def resident_bytes(pid: int) -> int:
    """Returns the memory in which a process lives; 0 where it cannot be told or is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
