"""The generations that ended last, for people who look: how they ended and how long they took."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice

from tokenwire_frontend.core.events import Completion

WINDOW_S = 60.0
"""Quantiles are over the last minute: long enough for a p99 of a busy service, and short enough to
show what has just changed."""


TENANTS_LIMIT = 4096
"""Tenants whose counts are kept, about 500 bytes each. Of more, those that were active last."""


class Outcome(Enum):
    """How a generation ended."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(slots=True)
class Record:
    """A generation that has ended. It holds no text and no token ids."""

    request_id: str
    tenant: str
    trace_id: str
    received_at_s: float
    """Wall-clock time of its receipt, in seconds since 1970."""
    ended_s: float
    """time.monotonic() of its end."""
    model: str
    outcome: Outcome
    reason: str
    route_reason: str
    """Empty: it came to no worker."""
    completion: Completion
    """Tokens and times as far as it came."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution, by nearest rank; the quantiles mean nothing where `count` is 0."""

    count: int
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        """Returns the quantiles of the values, in any order."""
        if not values:
            return cls(0)
        ranked = sorted(values)
        # Nearest rank: the smallest value that at least this share of all values does not exceed.
        p50, p90, p99 = (ranked[-(-len(ranked) * percent // 100) - 1] for percent in (50, 90, 99))
        return cls(len(ranked), p50, p90, p99)


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long each of the generations took that completed within the window, in any order."""

    time_to_first_token_s: list[float]
    time_per_output_token_s: list[float]
    total_s: list[float]


@dataclass(slots=True)
class Counts:
    """What has ended of one tenant."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, record: Record) -> None:
        """Counts a generation."""
        self.outcomes[record.outcome] += 1
        self.prompt_tokens += record.completion.prompt_tokens
        self.completion_tokens += record.completion.completion_tokens


class Activity:
    """Remembers as many generations as it is told to. A tenant of None stands for all.

    Args:
        limit: records kept; the oldest goes first.
    """

    def __init__(self, limit: int) -> None:
        self._records: deque[Record] = deque(maxlen=limit)
        self._counts: OrderedDict[str, Counts] = OrderedDict()
        # By tenant, the one that was active last at the end.

    def add(self, record: Record) -> None:
        """Remembers a generation that has just ended."""
        self._records.append(record)
        counts = self._counts.get(record.tenant)
        if counts is None:
            counts = self._counts[record.tenant] = Counts()
            if len(self._counts) > TENANTS_LIMIT:
                self._counts.popitem(last=False)
        else:
            self._counts.move_to_end(record.tenant)
        counts.add(record)

    def counts(self, tenant: str) -> Counts:
        """Returns what has ended of a tenant."""
        return self._counts.get(tenant) or Counts()

    def latest(self, count: int, tenant: str | None = None) -> list[Record]:
        """Returns the last records, newest first."""
        return list(islice(self._newest_first(tenant), count))

    def find(self, request_id: str, tenant: str | None = None) -> Record | None:
        """Returns the newest record of this request id, or None."""
        found = (each for each in self._newest_first(tenant) if each.request_id == request_id)
        return next(found, None)

    def _newest_first(self, tenant: str | None) -> Iterator[Record]:
        every = reversed(self._records)
        return every if tenant is None else (each for each in every if each.tenant == tenant)

    def latencies(self, now_s: float, tenant: str | None = None) -> Latencies:
        """Returns how long what completed in the last WINDOW_S took.

        Args:
            now_s: time.monotonic().
            tenant: whose.
        """
        recent = [
            each.completion
            for each in self._records
            if each.ended_s > now_s - WINDOW_S
            and each.outcome is Outcome.COMPLETED
            and tenant in (None, each.tenant)
        ]

        def values(name: str) -> list[float]:
            told = (getattr(each, name) for each in recent)
            return [value for value in told if value is not None]

        return Latencies(
            values("time_to_first_token_s"),
            values("time_per_output_token_s"),
            values("total_s"),
        )
