"""A mean of what was measured of late."""

from __future__ import annotations

VALUES = 32
"""About so many of the last values make the mean: enough that one odd value among them is not
taken for the rule, and few enough to follow a change of load within some steps."""


class RecentMean:
    """An exponential mean; of few values the plain one."""

    def __init__(self) -> None:
        self.value: float | None = None
        """None before the first value."""
        self._count = 0

    def add(self, value: float, least_weight: float = 0.0) -> None:
        """Adds a value.

        Args:
            value: it.
            least_weight: its share of the mean at least, 0 to 1: what is known already may be old.
        """
        if self.value is None:
            self.value = value
        self._count = min(self._count + 1, VALUES)
        self.value += (value - self.value) * max(1 / self._count, least_weight)
