"""Whether a time is over: by a client's timer, which ends a little before ours, and by our own."""

from __future__ import annotations

import asyncio
import time

TRANSIT_S = 0.02
"""A client's timer starts before its call arrives, so it ends the call a little before ours."""

ROUNDING = 0.01
"""gRPC sends a deadline rounded up, by at most this share of it."""


def has_passed(left_s: float | None, whole_s: float | None) -> bool:
    """Tells whether so little is left of a deadline that the client's own timer has run out.

    Args:
        left_s: what is left of it by the clock here; None: there is no deadline.
        whole_s: what was left of it when the call arrived.
    """
    return left_s is not None and left_s <= TRANSIT_S + ROUNDING * (whole_s or 0.0)


async def reached(ends_s: float) -> None:
    """Returns not before this time.monotonic().

    For whoever was woken by a timer of the event loop: uvloop's fire up to 1.5 ms early.
    """
    while (left_s := ends_s - time.monotonic()) > 0:  # noqa: ASYNC110 - no event tells the time
        await asyncio.sleep(left_s)
