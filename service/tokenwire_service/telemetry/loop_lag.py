"""How late the event loop is: the first thing to look at when a service is slow but not busy."""

from __future__ import annotations

import asyncio

from tokenwire_service.telemetry import registry
from tokenwire_service.telemetry.histogram import Histogram
from tokenwire_service.telemetry.metrics import Attributes

INTERVAL_S = 0.25
"""Often enough to see a stall of some hundred milliseconds, at no cost."""


async def watch(process: Attributes) -> None:
    """Records how late a timer runs, until cancelled.

    Args:
        process: which of several processes this is.
    """
    lag = Histogram(registry.EVENT_LOOP_LAG)
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        lag.record(max(loop.time() - due_s, 0.0), process)
