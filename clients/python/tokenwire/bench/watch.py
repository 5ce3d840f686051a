"""CPU time and memory of the watched processes, while a phase is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from tokenwire.bench.figures import cost_us
from tokenwire.bench.processes import Held, Watched, busy_share, named, together

INTERVAL_S = 1.0
MOST_POINTS = 600
"""Of a plot of memory over time; then every second point goes, and the interval doubles."""


class Watch:
    """Looks at processes from the begin of the measured time to its end."""

    def __init__(self, watched: Sequence[Watched], load: Sequence[int]) -> None:
        self._watched = [*watched, *named("load", load)]
        self._points: list[tuple[float, list[Held | None]]] = []
        self._machine: list[tuple[float, float]] = []
        self._begin_s = 0.0
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Ends `run` early."""
        self._stopped.set()

    async def run(self, begin_s: float, end_s: float) -> None:
        """Looks once a second, and at both ends; times are of time.monotonic."""
        self._begin_s = begin_s
        interval_s = INTERVAL_S
        if not await self._pause(begin_s):
            return
        self._look()
        while (now_s := time.monotonic()) < end_s and await self._pause(
            min(end_s, now_s + interval_s)
        ):
            self._look()
            if len(self._points) > MOST_POINTS:
                del self._points[1:-1:2]
                interval_s *= 2

    async def _pause(self, until_s: float) -> bool:
        """Waits; returns whether the time came before the stop."""
        try:
            async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                await self._stopped.wait()
        except TimeoutError:
            return True
        return False

    def _look(self) -> None:
        busy = busy_share()
        if busy is not None:
            self._machine.append(busy)
        at_s = time.monotonic() - self._begin_s
        self._points.append((at_s, [together(each.pids) for each in self._watched]))

    def machine_busy_share(self) -> float | None:
        """Returns the share of the machine's CPUs that was busy, with whatever else runs there."""
        if len(self._machine) < 2:
            return None
        (busy_0, all_0), *_, (busy_1, all_1) = self._machine
        return round((busy_1 - busy_0) / (all_1 - all_0), 3) if all_1 > all_0 else None

    def processes(self, tokens: Sequence[int], width_s: float) -> list[dict[str, Any]]:
        """Returns what each process used, also for each token, and its memory over time.

        `tokens` are those that came in each slice of the measured time, `width_s` long.
        """
        found = []
        for place, each in enumerate(self._watched):
            seen = [(at_s, points[place]) for at_s, points in self._points]
            points = [(at_s, one) for at_s, one in seen if one is not None]
            if len(points) < 2:
                continue
            (begin_s, first), (end_s, last) = points[0], points[-1]
            cpu_s = last.cpu_s - first.cpu_s
            found.append(
                {
                    "name": each.name,
                    "pids": each.pids,
                    "cpu_s": round(cpu_s, 3),
                    "cpu_share": round(cpu_s / (end_s - begin_s), 3),
                    "cpu_us_per_token": cost_us(
                        [(at_s, one.cpu_s) for at_s, one in points], tokens, width_s
                    ),
                    "memory_mib": [
                        [round(at_s, 1), round(one.memory_mib, 1)] for at_s, one in points
                    ],
                }
            )
        return found
