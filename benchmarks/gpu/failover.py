"""Workers that are killed under load while others live: part `failover`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu import bench
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.context import Run
from benchmarks.gpu.processes import Service

STREAMS = 128
LENGTHS = {"input": "256", "output": "uniform:192-320"}
"""Each request takes some seconds, so that nearly all are under way when the workers are killed."""

WINDOW_S = 8.0
KILLED_AFTER_S = 1.0
"""After all streams run, which takes a second or two."""


def failover(run: Run) -> None:
    """SIGKILL of one of two workers of one frontend, under 128 streams."""
    workers = [run.engines.pair(name).worker for name in ("bf16", "whole-prompts")]
    frontend = run.services.frontend("failover", workers)
    found: dict[str, Any] = {}
    run.results["failover"] = found
    for name, victims in (("calm", []), ("killed", workers[1:])):
        found[name] = under_load(run, frontend, name, victims, STREAMS)
        bench.hold([found[name]])


def under_load(
    run: Run, frontend: Service, name: str, victims: Sequence[Service], streams: int
) -> dict[str, Any]:
    """Kills the victims, if any, at once under load; returns what the clients saw.

    Raises:
        RuntimeError: there was no load to speak of, or no generation moved.
    """
    load = {**bench.load([streams], 0.0, WINDOW_S), **LENGTHS}
    with Bench(frontend, name, run.logs, load) as running:
        bench.wait_until_running(frontend, streams)
        time.sleep(KILLED_AFTER_S)
        for each in victims:
            each.process.kill()
        (figures,) = running.figures(WINDOW_S).values()
    moved = len(frontend.events("generation_moved"))
    longest_ms = figures.pop("gap_max_ms")
    found = {"streams": streams, "moved": moved, "longest_gap_ms": longest_ms, **figures}
    run.say(f"{name}: {found}")
    if victims and not moved:
        raise RuntimeError("no generation moved: the workers had nothing when they were killed")
    return found
