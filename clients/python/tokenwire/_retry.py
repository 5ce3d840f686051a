"""When a failed call is made again, and how long to wait before."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tokenwire.errors import OverloadedError, TokenwireError, UnavailableError


@dataclass(frozen=True)
class RetryPolicy:
    """How often a call is made again, and how long to wait before.

    A call is repeated when the server could not be reached or takes no requests now, or when it is
    overloaded and says when to come back; a stream only before it was accepted.
    """

    attempts: int = 4
    """Attempts in all; 1 never repeats a call. The default rides out about a second."""
    first_delay_s: float = 0.2
    """Before the second attempt; a random half of it is left out, so that clients spread."""
    growth: float = 2.0
    """Each further delay is so many times the one before."""
    longest_delay_s: float = 10.0
    """Delays grow to this; if the server asks for a longer wait, the error is raised at once."""


class Attempts:
    """The attempts of one call: what is left of its time, and whether to go on after an error."""

    def __init__(
        self,
        policy: RetryPolicy,
        timeout_s: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._jitter = jitter
        self._deadline = math.inf if timeout_s is None else clock() + timeout_s
        self._failures = 0

    def remaining_s(self) -> float | None:
        """Returns the time that the next attempt may take; None means any."""
        return None if self._deadline == math.inf else max(0.0, self._deadline - self._clock())

    def delay_s(self, error: TokenwireError) -> float | None:
        """Returns how long to wait before the next attempt, or None if the error is the answer."""
        self._failures += 1
        if self._failures >= self._policy.attempts or not _is_retryable(error):
            return None
        policy = self._policy
        asked = error.retry_after_s or 0.0
        if asked > policy.longest_delay_s:
            return None
        backoff = policy.first_delay_s * policy.growth ** (self._failures - 1)
        delay = asked + min(backoff, policy.longest_delay_s) * (1 + self._jitter()) / 2
        return delay if self._clock() + delay < self._deadline else None


def _is_retryable(error: TokenwireError) -> bool:
    # RESOURCE_EXHAUSTED without a RetryInfo is no overload: gRPC says it of too large a message.
    overloaded = isinstance(error, OverloadedError) and error.retry_after_s is not None
    return overloaded or isinstance(error, UnavailableError)
