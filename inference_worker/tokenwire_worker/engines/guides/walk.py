"""What a form may cost at each token, judged by a walk: the beginnings of outputs drawn at random.

An engine computes the mask of a guided sequence within the step of all that run, so a form whose
masks are expensive holds up everybody. Compiling tells nothing of that: an ambiguous expression
compiles in a millisecond, and a counted repetition is checked against the vocabulary at each token.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

TOKEN_CPU_S = 0.012
ID_CPU_S = 0.7e-6
"""CPU time that a form may take for each token, on average over WINDOW_TOKENS: the first, and the
second for each id of the vocabulary. Everyday forms take 0.1 to 0.5 ms with 4,096 ids and 1 to 3 ms
with 128,000, counted repetitions such as `maxLength` 2 and 40 to 80 ms. Models with large
vocabularies have long steps too."""

WINDOW_TOKENS = 8
"""Fewer may take more: some masks are computed once and kept."""

WALK_TOKENS = 96
"""Tokens of a walk: enough for half a dozen short properties."""

WALK_OUTPUTS = 4
"""Most outputs of a walk, where they are short: of several alternatives each has only one."""

WALK_CPU_S = 0.2
"""CPU time after which a walk has seen enough, where it is not two windows of the most expensive
tokens."""


class Walk:
    """Takes note of a walk's tokens, and what they cost."""

    def __init__(
        self, vocabulary_size: int, clock_s: Callable[[], float] = time.process_time
    ) -> None:
        """Begins a walk now.

        Args:
            vocabulary_size: ids of the model.
            clock_s: the process's CPU time.
        """
        self._limit_s = TOKEN_CPU_S + ID_CPU_S * vocabulary_size
        self._enough_s = max(WALK_CPU_S, 2 * WINDOW_TOKENS * self._limit_s)
        self._clock_s = clock_s
        self._began_s = clock_s()
        self._stamps: deque[float] = deque([self._began_s], WINDOW_TOKENS + 1)
        self._tokens = 0
        self._most_s = 0.0
        self.is_over = False
        """Enough is known."""

    def take(self) -> None:
        """Takes note of a token."""
        now_s = self._clock_s()
        self._stamps.append(now_s)
        self._tokens += 1
        self._most_s = max(self._most_s, (now_s - self._stamps[0]) / WINDOW_TOKENS)
        self.is_over = (
            self._most_s > self._limit_s
            or self._tokens >= WALK_TOKENS
            or now_s - self._began_s >= self._enough_s
        )

    def fault(self) -> str | None:
        """Returns what is wrong with the form, or None."""
        if self._most_s <= self._limit_s:
            return None
        return (
            f"takes more than {1000 * self._limit_s:.0f} ms of CPU time for each token, "
            f"on average over {WINDOW_TOKENS}"
        )
