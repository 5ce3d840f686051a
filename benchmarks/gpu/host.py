"""What the figures depend on: the GPU and the host, and how fast both were during each part."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

PERIOD_MS = 500
"""Between two samples: several in the shortest part."""

STILL_S = 0.5
"""Time for which the host is looked at before a part begins."""

LOOP_ROUNDS = 7
LOOP_STEPS = 300_000
"""Some 10 ms of one core."""

UNTHROTTLED = 0x1
"""Of NVIDIA's reasons for a lower clock the one that says that there is nothing to do."""


def facts() -> dict[str, Any]:
    """Returns what the host is."""
    return {
        "gpu": _gpu(),
        "cpu": _cpu(),
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("vllm", "torch", "grpcio", "protobuf")},
    }


def _gpu() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _cpu() -> str:
    names = (
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return next(names, "unknown")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class _Sample:
    at_s: float
    """Of time.monotonic."""
    sm_mhz: float
    power_w: float
    gpu_busy: float
    """Share of the time in which a kernel ran, in percent."""
    reasons: int
    """Why the clock is not higher, as NVIDIA's flags."""


class Watch:
    """Samples the first GPU for as long as its context lasts, and says how a part had it."""

    _QUERY = "clocks.sm,power.draw,utilization.gpu,clocks_event_reasons.active"

    def __init__(self) -> None:
        self._samples: list[_Sample] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        command = ["nvidia-smi", "-i", "0", f"--query-gpu={self._QUERY}"]
        try:
            self._process = subprocess.Popen(
                [*command, "--format=csv,noheader,nounits", f"--loop-ms={PERIOD_MS}"],
                stdout=subprocess.PIPE,
                text=True,
            )
        except OSError:  # a dry run: no GPU
            return self
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            sm_mhz, power_w, busy, reasons = line.split(", ")
            try:
                self._samples.append(
                    _Sample(
                        time.monotonic(),
                        float(sm_mhz),
                        float(power_w),
                        float(busy),
                        int(reasons, 16),
                    )
                )
            except ValueError:  # a machine that does not tell one of them
                continue

    @contextmanager
    def part(self) -> Iterator[dict[str, Any]]:
        """Yields what is told of a part: at once what the host was before, in the end the rest."""
        told: dict[str, Any] = {"cores_busy_before": _cores_busy(_still()), "loop_ms": _loop_ms()}
        before, began_s = _ticks(), time.monotonic()
        try:
            yield told
        finally:
            ticks = [after - then for after, then in zip(_ticks(), before, strict=True)]
            told |= {"cores_busy": _cores_busy(ticks), "stolen": ticks[7] / max(1, sum(ticks))}
            told |= _of_gpu([each for each in self._samples if each.at_s >= began_s])


def _of_gpu(samples: Sequence[_Sample]) -> dict[str, Any]:
    at_work = [each for each in samples if each.gpu_busy]
    if not at_work:
        return {}
    reasons = 0
    for each in at_work:
        reasons |= each.reasons & ~UNTHROTTLED
    return {
        "sm_mhz": statistics.median(each.sm_mhz for each in at_work),
        "lowest_sm_mhz": min(each.sm_mhz for each in at_work),
        "power_w": statistics.median(each.power_w for each in at_work),
        "gpu_busy": statistics.mean(each.gpu_busy for each in samples) / 100,
        "clock_reasons": hex(reasons),
    }


def _ticks() -> list[int]:
    """Returns the time of all cores by its use, as /proc/stat has it."""
    return list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))


def _still() -> list[int]:
    before = _ticks()
    time.sleep(STILL_S)
    return [after - then for after, then in zip(_ticks(), before, strict=True)]


def _cores_busy(ticks: Sequence[int]) -> float:
    """Returns how many cores did something: neither idle nor waiting for a disk."""
    all_ = max(1, sum(ticks))
    return (all_ - ticks[3] - ticks[4]) / all_ * (os.cpu_count() or 1)


def _loop_ms() -> float:
    """Returns the time of a fixed loop in Python, which tells one host's speed from another's."""

    def once() -> float:
        start_s, total = time.perf_counter(), 0
        for number in range(LOOP_STEPS):
            total += number & 7
        return (time.perf_counter() - start_s) * 1e3

    return statistics.median(once() for _ in range(LOOP_ROUNDS))
