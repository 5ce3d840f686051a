"""What the generations of a flow add up to, in slices of the measured time.

The memory is bounded whatever comes: distributions are histograms with a resolution of 1 %, and of
single requests a sample is kept.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any, Self

from tokenwire.bench.plan import Objective
from tokenwire.frontend.v1.generation_pb2 import FinishReason

if TYPE_CHECKING:
    from tokenwire.bench.reading import Reading

SLICES = 60
"""Points of a plot over time, and six for each of the ten parts from which noise is told."""

SAMPLE = 2000
"""Single requests that are kept: a plot shows no more."""

METRICS = ("ttft", "itl", "tpot", "e2e", "frontend_ttft")
"""Time to first token, gap between two messages with tokens, mean time between a request's tokens,
time to the end, and the time to the first token as the frontend told it; all but `itl` have one
value for a request."""

CUT = "STREAM_CUT"
"""The reason of a stream that ended well, but before its generation did."""

TIMEOUT = "TIMEOUT"
"""The reason of a request that took longer than `--timeout`."""

AT_LIMIT = "LOAD_LIMIT"
"""The reason of a request that a load process did not send, having too many in flight."""

_LEAST_S = 1e-6
_GROWTH = math.log(1.01)


class Histogram:
    """Times in buckets that grow by 1 %, from 1 us; sum, least and largest are exact."""

    __slots__ = ("buckets", "count", "largest_s", "sum_s")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.sum_s = 0.0
        self.largest_s = 0.0

    def add(self, value_s: float) -> None:
        """Adds a time."""
        bucket = int(math.log(value_s / _LEAST_S) / _GROWTH) if value_s > _LEAST_S else 0
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1
        self.sum_s += value_s
        self.largest_s = max(self.largest_s, value_s)

    def merge(self, other: Histogram) -> None:
        """Adds all of another's."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.count += other.count
        self.sum_s += other.sum_s
        self.largest_s = max(self.largest_s, other.largest_s)

    @property
    def mean_s(self) -> float:
        """The mean; NaN of nothing."""
        return self.sum_s / self.count if self.count else math.nan

    def quantile_s(self, share: float) -> float:
        """Returns the time that this share of all is at most (nearest rank); NaN of nothing."""
        rank, seen = max(1, math.ceil(share * self.count)), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return min(self.time_s(bucket), self.largest_s)
        return math.nan

    @staticmethod
    def time_s(bucket: int) -> float:
        """Returns the middle of a bucket."""
        return _LEAST_S * math.exp((bucket + 0.5) * _GROWTH)

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON has it; each bucket as its number and its count."""
        return {
            "count": self.count,
            "sum_s": self.sum_s,
            "largest_s": self.largest_s,
            "buckets": sorted(self.buckets.items()),
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Returns the histogram of `to_json`."""
        made = cls()
        made.buckets = {int(bucket): int(count) for bucket, count in given["buckets"]}
        made.count = given["count"]
        made.sum_s, made.largest_s = given["sum_s"], given["largest_s"]
        return made


class Slice:
    """One part of the measured time: what started in it, and the tokens that came in it."""

    __slots__ = ("completed", "failed", "finished", "good", "started", "times", "tokens")

    COUNTS = ("started", "completed", "failed", "good", "finished", "tokens")
    """The first four count requests that started in it; `finished` those that ended well in it."""

    def __init__(self) -> None:
        self.started = self.completed = self.failed = self.good = 0
        self.finished = self.tokens = 0
        self.times = {name: Histogram() for name in METRICS}

    def merge(self, other: Slice) -> None:
        """Adds all of another's."""
        for name in self.COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, histogram in self.times.items():
            histogram.merge(other.times[name])

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        counts = {name: getattr(self, name) for name in self.COUNTS}
        return {**counts, "times": {name: each.to_json() for name, each in self.times.items()}}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Returns the slice of `to_json`."""
        made = cls()
        for name in cls.COUNTS:
            setattr(made, name, given[name])
        made.times = {name: Histogram.from_json(each) for name, each in given["times"].items()}
        return made


class Measures:
    """One flow in one load process.

    Requests count that were to start in the measured time, whenever they end; tokens and gaps count
    by their own time. So neither the warm-up nor the slack end of a run is in any figure.
    """

    TOTALS = (
        "started",
        "completed",
        "failed",
        "unfinished",
        "good",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "cached_known",
        "lost",
        "repeated",
        "text_gaps",
    )

    def __init__(self, begin_s: float, end_s: float, objective: Objective, seed: int = 0) -> None:
        self.begin_s = begin_s
        self.end_s = end_s
        self._width_s = (end_s - begin_s) / SLICES
        self._objective = objective
        self.keeps_gaps = objective.itl_s is not None
        self._random = Random(seed)  # noqa: S311 - a sample
        self.slices = [Slice() for _ in range(SLICES)]
        self.totals = dict.fromkeys(self.TOTALS, 0)
        self.errors: Counter[str] = Counter()
        self.finish_reasons: Counter[str] = Counter()
        self.late = Histogram()
        self.sample: list[list[Any]] = []
        self._sampled = 0
        # Of all requests, for the line that is shown while it runs.
        self.tokens_so_far = self.ended_so_far = self.failed_so_far = self.in_flight = 0
        self.recent_ttft_s: list[float] = []

    def started(self, reading: Reading) -> None:
        """Notes that a request was sent."""
        self.in_flight += 1
        part = self._slice(reading.intended_s)
        if part is not None:
            part.started += 1
            self.totals["started"] += 1
            self.late.add(max(0.0, time.monotonic() - reading.intended_s))

    def tokens(self, now_s: float, count: int) -> None:
        """Notes tokens that have come."""
        self.tokens_so_far += count
        part = self._slice(now_s)
        if part is not None:
            part.tokens += count

    def gap(self, begin_s: float, gap_s: float) -> None:
        """Notes the time between two messages with tokens, which began at `begin_s`."""
        part = self._slice(begin_s)
        if part is not None:
            part.times["itl"].add(gap_s)

    def first_token(self, reading: Reading) -> None:
        """Notes a request's first token."""
        ttft_s = reading.first_s - reading.intended_s
        self.recent_ttft_s.append(ttft_s)
        part = self._slice(reading.intended_s)
        if part is not None:
            part.times["ttft"].add(ttft_s)

    def ended(self, reading: Reading, now_s: float) -> None:
        """Notes that a request has ended, well or not."""
        self.in_flight -= 1
        self.ended_so_far += 1
        # What is lost is lost in the warm-up too.
        for name in ("lost", "repeated", "text_gaps"):
            self.totals[name] += getattr(reading, name)
        end = self._slice(now_s)
        if reading.reason:
            self.failed_so_far += 1
        elif end is not None:
            end.finished += 1
        part = self._slice(reading.intended_s)
        if part is None:
            return
        if reading.reason:
            part.failed += 1
            self.totals["failed"] += 1
            self.errors[reading.reason] += 1
        else:
            self._note_completed(reading, part, now_s)
        self._keep(reading, now_s)

    def not_sent(self, intended_s: float) -> None:
        """Notes a request that the load process itself could not send."""
        self.failed_so_far += 1
        part = self._slice(intended_s)
        if part is not None:
            part.failed += 1
            self.totals["failed"] += 1
            self.errors[AT_LIMIT] += 1

    def cut(self, reading: Reading) -> None:
        """Notes a request that the load process gave up at the end of the phase."""
        self.in_flight -= 1
        if self._slice(reading.intended_s) is not None:
            self.totals["unfinished"] += 1

    def _note_completed(self, reading: Reading, part: Slice, now_s: float) -> None:
        totals = self.totals
        part.completed += 1
        totals["completed"] += 1
        totals["prompt_tokens"] += reading.prompt_tokens
        totals["completion_tokens"] += reading.tokens
        if reading.cached_tokens is not None:
            totals["cached_known"] += reading.prompt_tokens
            totals["cached_tokens"] += reading.cached_tokens
        self.finish_reasons[_FINISH_REASONS.get(reading.finish, "unknown")] += 1
        e2e_s, tpot_s = now_s - reading.intended_s, _tpot_s(reading)
        part.times["e2e"].add(e2e_s)
        if tpot_s is not None:
            part.times["tpot"].add(tpot_s)
        if reading.frontend_ttft_s is not None:
            part.times["frontend_ttft"].add(reading.frontend_ttft_s)
        if self._objective and self._meets(reading, e2e_s, tpot_s):
            part.good += 1
            totals["good"] += 1

    def _meets(self, reading: Reading, e2e_s: float, tpot_s: float | None) -> bool:
        wanted = self._objective
        # A whole answer at once has its first token with its last.
        ttft_s = reading.first_s - reading.intended_s if reading.first_s else e2e_s
        itl_s = 0.0
        if wanted.itl_s is not None and reading.gaps_s:
            gaps_s = sorted(reading.gaps_s)
            itl_s = gaps_s[math.ceil(0.99 * len(gaps_s)) - 1]
        found = (
            (wanted.ttft_s, ttft_s),
            (wanted.itl_s, itl_s),
            (wanted.tpot_s, tpot_s or 0.0),
            (wanted.e2e_s, e2e_s),
        )
        return all(limit is None or value <= limit for limit, value in found)

    def _keep(self, reading: Reading, now_s: float) -> None:
        """Keeps the request if the sample has a place for it: each request is as likely to stay."""
        self._sampled += 1
        place = len(self.sample)
        if place >= SAMPLE:
            place = self._random.randrange(self._sampled)
            if place >= SAMPLE:
                return
        else:
            self.sample.append([])
        self.sample[place] = [
            round(reading.intended_s - self.begin_s, 4),
            round(reading.first_s - reading.intended_s, 5) if reading.first_s else None,
            round(now_s - reading.intended_s, 5),
            reading.prompt_tokens,
            reading.tokens,
            reading.reason,
        ]

    def _slice(self, at_s: float) -> Slice | None:
        if self.begin_s <= at_s < self.end_s:
            return self.slices[min(SLICES - 1, int((at_s - self.begin_s) / self._width_s))]
        return None

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON has it, for `merged`."""
        return {
            "slices": [each.to_json() for each in self.slices],
            "totals": self.totals,
            "errors": self.errors,
            "finish_reasons": self.finish_reasons,
            "late": self.late.to_json(),
            "sample": self.sample,
        }


_FINISH_REASONS = {
    int(number): name.removeprefix("FINISH_REASON_").lower()
    for name, number in FinishReason.items()
}


def _tpot_s(reading: Reading) -> float | None:
    if reading.tokens < 2 or not reading.first_s:
        return None
    return (reading.last_s - reading.first_s) / (reading.tokens - 1)


class Merged:
    """The measures of one flow from all load processes."""

    def __init__(self, parts: list[Mapping[str, Any]]) -> None:
        self.slices = [Slice() for _ in range(SLICES)]
        self.totals: Counter[str] = Counter(dict.fromkeys(Measures.TOTALS, 0))
        self.errors: Counter[str] = Counter()
        self.finish_reasons: Counter[str] = Counter()
        self.late = Histogram()
        self.sample: list[list[Any]] = []
        for part in parts:
            for mine, its in zip(self.slices, part["slices"], strict=True):
                mine.merge(Slice.from_json(its))
            self.totals.update(part["totals"])
            self.errors.update(part["errors"])
            self.finish_reasons.update(part["finish_reasons"])
            self.late.merge(Histogram.from_json(part["late"]))
            self.sample += part["sample"]
        self.sample.sort(key=lambda each: each[0])
        self.sample = self.sample[:: max(1, math.ceil(len(self.sample) / SAMPLE))]
