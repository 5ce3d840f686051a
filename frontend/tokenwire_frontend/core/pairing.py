"""Whether it pays to have one worker compute a prompt and another fetch it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

WINDOW = 16
"""Prompts by which it is judged whether to go on: as many as come at once to a busy pair, so that
one burst that met a busy network does not decide alone."""

TRIALS = 3
"""Prompts by which it is judged whether to begin again."""

RETURN = 0.5
"""Share of the bound within which trials have to be. They are fetched one at a time, and so faster
than many at once."""

TRIAL_FIRST_S = 60.0
TRIAL_MOST_S = 960.0
"""Bounds of the time between two trials. It doubles each time that trials looked good and many
prompts at once did not."""


@dataclass(frozen=True, slots=True)
class Handed:
    """How long one prompt took that one worker has computed and another fetched."""

    sent_s: float
    """time.monotonic() when the first worker was sent it."""
    alone_s: float
    """Time that the second worker would have taken to compute it."""
    fetched_s: float
    """Time from its being taken up there to its first token."""


class Pairing:
    """What is known of the workers of one transfer group. Times are time.monotonic()'s.

    While it does not pay, one prompt at a time tries it.

    Args:
        factor: times as long as computing prompts that fetching them may take.
    """

    __slots__ = ("_changed_s", "_factor", "_seen", "_trial_s", "_until_s", "pays")

    def __init__(self, factor: float) -> None:
        self.pays = True
        """Whether every long prompt is to be paired."""
        self._factor = factor
        self._seen: deque[Handed] = deque(maxlen=WINDOW)
        """The last ones, all of them sent since `pays` has changed."""
        self._changed_s = -math.inf
        self._until_s = 0.0
        self._trial_s = TRIAL_FIRST_S

    @property
    def ratio(self) -> float:
        """How many times as long as computing the last prompts it took to fetch them."""
        alone_s = sum(each.alone_s for each in self._seen)
        return sum(each.fetched_s for each in self._seen) / alone_s if alone_s else 0.0

    def allows(self, now_s: float) -> bool:
        """Returns whether a prompt may be paired."""
        return self.pays or now_s >= self._until_s

    def sent(self, now_s: float) -> None:
        """Notes that a prompt is on its way: the trial, where it does not pay."""
        if not self.pays:
            self._until_s = now_s + self._trial_s

    def note(self, handed: Handed, now_s: float) -> float | None:
        """Notes a prompt that has gone both ways; returns the ratio that has changed `pays`, if so.

        One that was sent before the last change tells nothing new.
        """
        if handed.sent_s < self._changed_s:
            return None
        self._seen.append(handed)
        if len(self._seen) < (WINDOW if self.pays else TRIALS):
            return None
        ratio = self.ratio
        if self.pays and ratio <= self._factor:
            self._trial_s = TRIAL_FIRST_S
            return None
        if not self.pays and ratio > self._factor * RETURN:
            self._seen.popleft()
            return None
        self._change(now_s)
        return ratio

    def _change(self, now_s: float) -> None:
        self.pays = not self.pays
        self._seen.clear()
        self._changed_s = now_s
        if self.pays:
            self._trial_s = min(self._trial_s * 2, TRIAL_MOST_S)
        else:
            self._until_s = now_s + self._trial_s
