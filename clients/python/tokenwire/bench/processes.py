"""CPU time and memory of processes on this machine, from /proc (Linux; elsewhere nothing is seen).

The processes are named on the command line, or found: those that listen on the frontend's port and
on its workers', where these are addresses of this machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_LISTEN = "0A"
_LOCAL_HOSTS = ("127.", "localhost", "[::1]", "0.0.0.0", "[::]")


@dataclass(frozen=True)
class Watched:
    """One or several processes, with all of their descendants."""

    name: str
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Held:
    """What a process and its live descendants have used and hold."""

    cpu_s: float
    memory_mib: float


def together(pids: Iterable[int]) -> Held | None:
    """Returns what processes have used; None where one of them is gone or not to be seen."""
    found = [held(pid) for pid in pids]
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return None
    return Held(sum(each.cpu_s for each in known), sum(each.memory_mib for each in known))


def held(pid: int) -> Held | None:
    """Returns what a process has used; None where it is gone or not to be seen."""
    try:
        own = _stat(pid)
        pages = int((_PROC / f"{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    cpu_s = (int(own[11]) + int(own[12])) / os.sysconf("SC_CLK_TCK")
    memory_mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    below = [each for each in map(held, _children(pid)) if each is not None]
    return Held(
        cpu_s + sum(each.cpu_s for each in below),
        memory_mib + sum(each.memory_mib for each in below),
    )


def busy_share() -> tuple[float, float] | None:
    """Returns the machine's CPU time so far, busy and in all, in seconds of one core."""
    with suppress(OSError, ValueError, IndexError):
        line = (_PROC / "stat").read_text().split("\n", 1)[0]
        ticks = [int(each) for each in line.split()[1:9]]
        idle = ticks[3] + ticks[4]
        per_s = os.sysconf("SC_CLK_TCK")
        return (sum(ticks) - idle) / per_s, sum(ticks) / per_s
    return None


def discovered(frontend: str, workers: Iterable[str]) -> list[Watched]:
    """Returns the processes that listen on the addresses (HOST:PORT) of this machine."""
    found: list[Watched] = []
    for role, addresses in (("frontend", [frontend]), ("worker", sorted(workers))):
        known = {pid for each in found for pid in each.pids}
        # One process may listen on several ports, and several on one.
        every = dict.fromkeys(pid for address in addresses for pid in _listeners(address))
        found += named(role, [pid for pid in every if pid not in known])
    return found


def named(role: str, pids: Sequence[int]) -> list[Watched]:
    """Returns the processes of a role: all together, and each where there are several."""
    if not pids:
        return []
    each = [Watched(f"{role} {n}", (pid,)) for n, pid in enumerate(pids, 1)]
    return [Watched(role, tuple(pids)), *(each if len(pids) > 1 else [])]


def _listeners(address: str) -> list[int]:
    """Returns the processes that listen on a port, of each family only the eldest."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("dns:").lstrip("/")
    if not port.isdecimal() or not host.startswith(_LOCAL_HOSTS):
        return []
    sockets = _sockets(int(port))
    if not sockets:
        return []
    pids = sorted(pid for pid in _all() if _has_one(pid, sockets))
    return [pid for pid in pids if not any(pid in _descendants(other) for other in pids)]


def _sockets(port: int) -> set[str]:
    """Returns the inodes of the sockets that listen on a port."""
    found = set()
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found


def _has_one(pid: int, sockets: set[str]) -> bool:
    with suppress(OSError):
        for each in (_PROC / f"{pid}/fd").iterdir():
            with suppress(OSError):
                if str(each.readlink()) in sockets:
                    return True
    return False


def _all() -> list[int]:
    with suppress(OSError):
        return [int(each.name) for each in _PROC.iterdir() if each.name.isdecimal()]
    return []


def _stat(pid: int) -> Sequence[str]:
    return (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for each in (_PROC / f"{pid}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, each.read_text().split())
    return found


def _descendants(pid: int) -> set[int]:
    children = _children(pid)
    return set(children).union(*(_descendants(each) for each in children))
