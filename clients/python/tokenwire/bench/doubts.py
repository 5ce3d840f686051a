"""What makes a phase's figures less than they seem: the load's own limits, and too little data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import mean
from typing import Any

from tokenwire.bench.figures import duration, value
from tokenwire.bench.measures import AT_LIMIT

BUSY_SHARE = 0.85
"""Of a core: above it, what comes waits for the load process to read it."""

LATE_S = 0.02
"""About what a person or a GPU's step would not notice; beyond it the load's delay shows."""

MACHINE_SHARE = 0.95
GROWTH_WINDOW_S = 60.0
"""In less time nothing is told of memory: caches still fill."""

GROWTH_SHARE, GROWTH_MIB = 0.05, 16.0
"""What allocators take and give beside a load that differs from moment to moment."""

FEW_REQUESTS = 100
"""Below it, a 99th percentile is the one or two slowest requests."""


def found(phase: Mapping[str, Any]) -> list[str]:
    """Returns sentences about a phase of a result."""
    return [
        *_of_load(phase["load"]),
        *(each for flow in phase["flows"].items() for each in _of(*flow)),
        *_of_memory(phase),
    ]


def _of_memory(phase: Mapping[str, Any]) -> Iterator[str]:
    """Compares the second tenth of the time with the last; the first may fill caches."""
    for process in phase["processes"]:
        points = [mib for _, mib in process["memory_mib"]]
        size = len(points) // 10
        if phase["window_s"] < GROWTH_WINDOW_S or not size:
            return
        before, after = mean(points[size : 2 * size]), mean(points[-size:])
        if after - before > max(GROWTH_MIB, GROWTH_SHARE * before):
            yield f"memory of {process['name']} grew from {before:,.0f} to {after:,.0f} MiB"


def _of_load(load: Mapping[str, Any]) -> Iterator[str]:
    shares = [each["cpu_share"] for each in load["processes"]]
    busiest = max(shares)
    if busiest > BUSY_SHARE:
        yield (
            f"a load process used {busiest:.0%} of a core: latencies include its own delay; "
            f"use more than --processes {len(shares)}"
        )
    lag_s = load["loop_lag_p99_s"]
    if lag_s is not None and lag_s > LATE_S:
        yield f"the load's event loop was {duration(lag_s)} late (p99): gaps include it"
    busy = load["machine_busy_share"]
    if busy is not None and busy > MACHINE_SHARE:
        yield f"this machine's CPUs were {busy:.0%} busy: the load waited for a core too"


def _of(name: str, flow: Mapping[str, Any]) -> Iterator[str]:
    requests, which = flow["requests"], "" if name == "all" else f"{name}: "
    late_s = flow["late_p99_s"]
    if late_s is not None and late_s > LATE_S:
        yield f"{which}requests were sent {duration(late_s)} late (p99), which latencies count"
    if requests["unfinished"]:
        yield (
            f"{which}{requests['unfinished']} requests had not ended when --drain was over; "
            "latencies leave them out"
        )
    if AT_LIMIT in flow["errors"]:
        yield f"{which}{flow['errors'][AT_LIMIT]} requests were not sent: too many were in flight"
    if requests["completed"] < FEW_REQUESTS:
        yield f"{which}{requests['completed']} requests are few for percentiles"
    for what, count in flow["lost"].items():
        if count:
            yield f"{which}NOT ALL CAME AS IT SHOULD: {what.replace('_', ' ')} {count}"
    if value(flow["figures"], "requests_per_s") is None:
        yield f"{which}nothing was measured: the phase ended in its warm-up"
