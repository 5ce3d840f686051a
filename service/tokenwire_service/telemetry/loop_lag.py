"""How late the event loop is: the first thing to look at when a service is slow but not busy.

gRPC does not tell when a call has come, only when its handler runs. So what a call has waited for
the loop before that is taken from the lag that was seen last.
"""

from __future__ import annotations

import asyncio
import time

from tokenwire_service.telemetry import registry
from tokenwire_service.telemetry.histogram import Histogram
from tokenwire_service.telemetry.metrics import Attributes

INTERVAL_S = 0.1
"""Often enough to see a stall of some hundred milliseconds, at no cost."""

TIMER_S = 0.002
"""What a timer may be late by in a loop that is idle: its clock counts milliseconds."""

_last_s = 0.0


def last_s() -> float:
    """Returns how late the loop was when last seen; 0 where that is no more than a timer's own."""
    return _last_s


async def watch(process: Attributes) -> None:
    """Records how late a timer runs, until cancelled.

    Args:
        process: which of several processes this is.
    """
    global _last_s  # noqa: PLW0603 - a process has one loop
    lag = Histogram(registry.EVENT_LOOP_LAG)
    while True:
        due_s = time.monotonic() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        late_s = max(time.monotonic() - due_s, 0.0)
        _last_s = late_s if late_s > TIMER_S else 0.0
        lag.record(late_s, process)
