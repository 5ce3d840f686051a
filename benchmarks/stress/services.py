"""The pair of services that is put under stress, and what its logs and /proc say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.pair import Pair

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/demo/openvino"
LOGS = ROOT / "build/stress"
WORKER_PORT, FRONTEND_PORT = 50981, 50971
"""Not the services' default ports, so that a running pair does not collide."""


def pair(worker_options: Sequence[str] = ()) -> Pair:
    """Returns the pair, not started."""
    return Pair(MODEL, WORKER_PORT, FRONTEND_PORT, LOGS, worker_options)


def faults() -> list[str]:
    """Returns the lines of both logs that tell a fault of a service's own."""
    marks = ('"level": "error"', '"level": "critical"', "Traceback")
    return [
        f"{name}: {line[:400]}"
        for name in ("worker", "frontend")
        for line in (LOGS / f"{name}.log").read_text(errors="replace").splitlines()
        if any(mark in line for mark in marks)
    ]


@dataclass(frozen=True)
class Held:
    """What a process and its children hold."""

    memory_mib: int
    descriptors: int
    threads: int

    @classmethod
    def by(cls, process_id: int) -> Held:
        """Reads /proc. Linux only."""
        memory = descriptors = threads = 0
        for each in (process_id, *_descendants(process_id)):
            folder = Path(f"/proc/{each}")
            fields = dict(
                line.split(":", 1) for line in (folder / "status").read_text().splitlines()
            )
            memory += int(fields["VmRSS"].split()[0]) // 1024
            threads += int(fields["Threads"])
            descriptors += sum(1 for _ in (folder / "fd").iterdir())
        return cls(memory, descriptors, threads)


def _descendants(process_id: int) -> list[int]:
    children = [
        int(child)
        for each in Path(f"/proc/{process_id}").glob("task/*/children")
        for child in each.read_text().split()
    ]
    return children + [below for child in children for below in _descendants(child)]
