"""Whether a call that was cancelled had run out of time."""

from __future__ import annotations

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
