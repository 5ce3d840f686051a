"""How fast requests leave a queue, and how long a generation takes: measured, and of late."""

from __future__ import annotations

import math

RENEWED_S = 10.0
"""Time in a queue after which what was measured before counts for about a third."""

FEWEST = 8
"""Requests that must have left before their rate is believed: fewer may have left at once."""

LATELY = 16
"""Generations, of which the last so many make up most of a mean."""


class Pace:
    """Events in the time in which they could happen.

    It has a clock of its own, which `begin` sets going; what was measured before stays. Times are
    time.monotonic()'s.
    """

    def __init__(self) -> None:
        self._events = 0.0
        self._time_s = 0.0
        self._seen_s = 0.0
        self._counted = 0

    def begin(self, now_s: float) -> None:
        """Notes that events can happen from now on."""
        self._seen_s = now_s

    def note(self, now_s: float) -> None:
        """Notes an event."""
        passed_s = now_s - self._seen_s
        kept = math.exp(-passed_s / RENEWED_S)
        self._events = self._events * kept + 1
        self._time_s = self._time_s * kept + passed_s
        self._seen_s = now_s
        self._counted += 1

    def rate(self, now_s: float) -> float | None:
        """Returns the events a second; None: not known yet."""
        time_s = self._time_s + (now_s - self._seen_s)
        if self._counted < FEWEST or time_s <= 0:
            return None
        return self._events / time_s


class Duration:
    """How long a generation most likely takes at a worker, by its output."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._token_s = 0.0

    def note(self, tokens: int, took_s: float) -> None:
        """Notes a generation that has ended.

        Args:
            tokens: of a sequence of its output, at least 1.
            took_s: its time at the worker.
        """
        share = 1 / LATELY if self._tokens else 1.0
        self._tokens += (tokens - self._tokens) * share
        self._token_s += (took_s / tokens - self._token_s) * share

    @property
    def mean_s(self) -> float:
        """Time of a generation; 0: not known."""
        return self._token_s * self._tokens

    def expected_s(self, most_tokens: int) -> float:
        """Returns the time of one with at most so many tokens a sequence; 0: not known."""
        return self._token_s * min(self._tokens, most_tokens)
