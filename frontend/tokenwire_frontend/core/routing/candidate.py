"""A worker as routing sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Candidate:
    """A worker that is ready for the request's model."""

    name: str
    running_sequences: int
    """As the worker last reported, from all frontends."""
    waiting_requests: int
    """As the worker last reported, from all frontends."""
    unreported_requests: int
    """What this frontend has submitted, less what has ended, since that report; below 0 where more
    has ended."""
    running_limit: int
    """Sequences that the worker's engine runs at once."""
    waiting_limit: int = 0
    """Requests that may wait there; 0: none, or it does not say."""
    step_s: float | None = None
    """Mean time of an engine step, as the worker last reported; None: it does not say."""
    queue_s: float | None = None
    """Time that one more request would wait for the engine, likewise."""
    block_tokens: int = 0
    """Tokens of one of its KV blocks; 0: it does not say."""
    kv_blocks: int = 0
    """Blocks of its KV cache; 0: it does not say."""

    @property
    def full(self) -> bool:
        """Whether one more request would find its queue full, as far as the report tells."""
        return 0 < self.waiting_limit <= self._waiting_requests

    def room(self, ahead: float | None) -> float:
        """Returns how many more requests it is to be sent, as far as the report tells.

        Args:
            ahead: requests that may wait there, as a share of what its engine runs at once, within
                its own bound; None: as many as its own bound lets wait.
        """
        if ahead is None:
            return 0 if self.full else math.inf
        limit = min(math.ceil(ahead * self.running_limit), self.waiting_limit)
        requests = self.running_sequences + self.waiting_requests + self.unreported_requests
        return max(self.running_limit + limit - requests, 0)

    @property
    def wait_s(self) -> float | None:
        """Time that one more request waits for its first token, in seconds; None: not known.

        0 where the engine has room. Else it waits for those before it, which with what came since
        the report are more, or fewer, than the report knows of, and then for a step.
        """
        if not self.queue_s:
            return self.queue_s
        ahead = max(self._waiting_requests + 1, 0) / (self.waiting_requests + 1)
        return self.queue_s * ahead + (self.step_s or 0.0) if ahead else 0.0

    @property
    def _waiting_requests(self) -> int:
        """Requests that wait by the report and by what came since, below 0 where places are free.

        What came goes to the engine first, as far as there is room.
        """
        since = self.unreported_requests
        if since > 0:
            since = max(since - max(self.running_limit - self.running_sequences, 0), 0)
        return self.waiting_requests + since

    @property
    def load(self) -> float:
        """Requests for each that the engine runs at once; above 1 some wait."""
        requests = self.running_sequences + self.waiting_requests + self.unreported_requests
        return requests / self.running_limit
