"""When a failed call is made again, and how long to wait before."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from tokenwire.errors import OverloadedError, TokenwireError, UnavailableError


@dataclass(frozen=True)
class RetryPolicy:
    """How often a call is made again, and how long to wait before.

    A call is repeated when the server could not be reached or takes no requests now, or when it is
    overloaded, or a conversation has yet to end its turn, and it says when to come back. A
    generation that had begun is not repeated but continued, at another frontend where there is one:
    nothing that was received comes again.
    """

    attempts: int = 6
    """Attempts in all; 1 never repeats a call. The default rides out some four seconds: a frontend
    that came back is connected to within two, and another may be lost just then."""
    continuations: int = 10
    """Attempts to continue a generation that had begun, over all its time; 0 never does. More than
    `attempts`, since more is lost; the default rides out half a minute."""
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
        """In a row."""
        self.has_begun = False
        """Whether it is a generation that was accepted."""
        self._continuations = 0

    def remaining_s(self) -> float | None:
        """Returns the time that the next attempt may take; None means any."""
        return None if self._deadline == math.inf else max(0.0, self._deadline - self._clock())

    def delay_s(
        self, error: TokenwireError, *, elsewhere: bool = False, heard: bool = False
    ) -> float | None:
        """Returns how long to wait before the next attempt, or None if the error is the answer.

        Args:
            error: what the last attempt failed with.
            elsewhere: the next goes to another frontend, of which nothing bad is known.
            heard: it was a stream that had been accepted.
        """
        self._failures += 1
        policy = self._policy
        if self.has_begun:
            self._continuations += 1
            exhausted = self._continuations > policy.continuations
        else:
            exhausted = self._failures >= policy.attempts
        if exhausted or not is_retryable(error, heard=heard):
            return None
        asked = error.retry_after_s or 0.0
        if asked > policy.longest_delay_s and not elsewhere:
            return None
        if elsewhere:
            # A part of the shortest delay, so that what one frontend had does not come at once.
            delay = policy.first_delay_s * self._jitter()
        else:
            backoff = policy.first_delay_s * policy.growth ** min(self._failures - 1, _STEPS)
            delay = asked + min(backoff, policy.longest_delay_s) * (1 + self._jitter()) / 2
        return delay if self._clock() + delay < self._deadline else None

    def begin(self) -> None:
        """Notes that a generation was accepted: from now on it is continued."""
        self.has_begun = True
        self._failures = 0


_STEPS = 64
"""Steps by which delays grow at most, to bound the power: they have met their bound long before."""


def is_retryable(error: TokenwireError, *, heard: bool = False) -> bool:
    """Returns whether another attempt may succeed; `heard`: the failed one had been accepted."""
    if isinstance(error, UnavailableError) or error.is_break:
        return True
    # RESOURCE_EXHAUSTED without a RetryInfo is no overload: gRPC says it of too large a message.
    # After the acceptance it is a bound that this generation has met. ABORTED with one is a
    # conversation whose turn before is about to end.
    may_pass = isinstance(error, OverloadedError) or error.code is grpc.StatusCode.ABORTED
    return may_pass and error.retry_after_s is not None and not heard
