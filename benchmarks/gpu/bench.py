"""`tokenwire bench` as the load: as many processes of its own as it takes, for a time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, Self

from tokenwire import Client

from benchmarks.gpu.processes import ROOT, Service

STREAMS_A_PROCESS = 64
"""Concurrent requests of one load process: some 3,000 tokens a second of an 8B model on an H200,
for which it uses less than a tenth of a core."""

CONNECTIONS = 4
"""Of each load process, with a Session each. The kernel gives every connection to one of a
frontend's processes, at random: many of them spread evenly."""

RUNNING_S = 30.0
"""Bound of the time until so many requests run as are wanted."""

ENDING_S = 60.0
"""Beyond what a load is to take, for its processes to start and what is in flight to end."""


def load(concurrent: Sequence[int], warm_up_s: float, window_s: float) -> dict[str, str]:
    """Returns options of `tokenwire bench`: Sessions with so many requests at once, in turn."""
    processes = ceil(max(concurrent) / STREAMS_A_PROCESS)
    return {
        "scenario": "engine",
        "call": "session",
        "prompt": "ids",
        "concurrency": ",".join(map(str, concurrent)),
        "processes": str(processes),
        "connections": str(CONNECTIONS),
        "sessions": str(CONNECTIONS * processes),
        "warmup": f"{warm_up_s}s",
        "duration": f"{window_s}s",
        "drain": "30s",
    }


class Bench:
    """A run of the command against a frontend; it ends with its context at the latest."""

    def __init__(
        self, frontend: Service, name: str, logs: Path, options: Mapping[str, str]
    ) -> None:
        """Starts it; its output, JSON and report are in the folder of the logs."""
        self._out = logs / f"bench-{name}.json"
        self._out.unlink(missing_ok=True)
        self._log = self._out.with_suffix(".log")
        given = {
            **options,
            "target": frontend.address,
            "process": f"frontend={frontend.process.pid}",
            "out": str(self._out),
        }
        words = [given.pop("scenario")]
        for option, value in given.items():
            words += [f"--{option}", value]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tokenwire", "bench", *words],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def cut(self) -> None:
        """Ends the measured time now; what is in flight is given up and counts as unfinished."""
        self._process.send_signal(signal.SIGINT)

    def figures(self, limit_s: float) -> dict[str, dict[str, Any]]:
        """Waits for its end; returns the figures by the number of concurrent requests.

        Raises:
            RuntimeError: it measured nothing, or did not end in time.
        """
        try:
            self._process.wait(limit_s + ENDING_S)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the load has not ended; see {self._log.name}") from None
        if not self._out.exists():
            raise RuntimeError(f"the load failed:\n{self._log.read_text()[-2000:]}")
        phases = json.loads(self._out.read_text())["phases"]
        return {
            str(phase["plan"]["flows"][0]["arrivals"]["concurrency"]): of_phase(phase)
            for phase in phases
        }


def wait_until_running(frontend: Service, streams: int) -> None:
    """Waits until nearly all streams are in the engines; some are always between two requests.

    Raises:
        RuntimeError: that takes too long.
    """
    deadline_s = time.monotonic() + RUNNING_S
    with Client(frontend.address) as client:
        while sum(each.running for each in client.workers()) < 0.9 * streams:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{streams} requests do not run within {RUNNING_S:.0f} s")
            time.sleep(0.1)


def hold(loads: Sequence[Mapping[str, Any]]) -> None:
    """Raises RuntimeError where requests failed or did not end, or tokens were lost."""
    names = ("failed", "unfinished", "lost_or_repeated")
    wrong = [each for each in loads if any(each[name] for name in names)]
    if wrong:
        told = (", ".join(f"{each[name]} {name}" for name in names) for each in wrong)
        raise RuntimeError(f"{'; '.join(told)}: {[each['errors'] for each in wrong]}")


NAMES = {
    "tokens_per_s": ("output_tokens_per_s", 1.0),
    "ttft_p50_ms": ("ttft_p50_s", 1e3),
    "ttft_p99_ms": ("ttft_p99_s", 1e3),
    "gap_p50_ms": ("itl_p50_s", 1e3),
    "gap_p99_ms": ("itl_p99_s", 1e3),
    "gap_max_ms": ("itl_max_s", 1e3),
    "cached_share": ("cached_share", 1.0),
}
"""Our names of its figures, and what they are multiplied by."""


def of_phase(phase: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures of a phase of its result; those that were not measured are left out.

    `load_cores` is the share of a core that each load process used, and `machine_busy` that of all
    cores that were.
    """
    (flow,) = phase["flows"].values()
    found: dict[str, Any] = {}
    for name, (theirs, factor) in NAMES.items():
        value = flow["figures"].get(theirs, {}).get("value")
        if value is not None:
            found[name] = value * factor
    for process in phase["processes"]:
        if process["name"] == "frontend":
            found["frontend_us_per_token"] = process["cpu_us_per_token"]["value"]
            found["frontend_cores"] = process["cpu_share"]
    load = phase["load"]
    requests = flow["requests"]
    return {
        **found,
        **{name: requests[name] for name in ("completed", "failed", "unfinished")},
        "errors": flow["errors"],
        "lost_or_repeated": sum(flow["lost"].values()),
        "load_cores": [each["cpu_share"] for each in load["processes"]],
        "machine_busy": load["machine_busy_share"],
        "notes": phase["doubts"],
    }
