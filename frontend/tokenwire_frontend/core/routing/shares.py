"""Which workers got more than their share of what came of late."""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire_frontend.core.routing.candidate import Candidate

REMEMBERED = 128
"""Requests for each worker after which one counts a third: so many that chance alone seldom takes a
worker over its share."""

SHARE = 1.2
"""How many times its share a worker may get."""

SPARE = 8
"""Requests that it may get above its share in any case: of few requests the excess is chance."""

_LARGE = 1e12


class Shares:
    """Counts each worker's requests; earlier ones count less."""

    def __init__(self) -> None:
        self._counts: dict[str, float] = {}
        self._weight = 1.0
        """Of the next request. It grows, which is cheaper than to let all others shrink."""

    def excess(self, candidates: Sequence[Candidate]) -> list[float]:
        """Returns by how much each candidate, for its size, is over its share.

        0 is its share, and 1 the most that it may have. One that is new is taken to have its share.
        """
        counts = self._counts
        known = [each for each in candidates if each.name in counts]
        slots = sum(each.running_limit for each in known)
        a_slot = sum(counts[each.name] for each in known) / slots if known else 0.0
        spare = SPARE * self._weight
        found = []
        for each in candidates:
            share = a_slot * each.running_limit
            over = counts.setdefault(each.name, share) - share
            found.append(over / max((SHARE - 1) * share, spare))
        return found

    def add(self, name: str, workers: int) -> None:
        """Counts a request for one of so many workers, which `excess` has seen."""
        self._counts[name] += self._weight
        self._weight *= 1 + 1 / (REMEMBERED * workers)
        if self._weight > _LARGE:
            self._counts = {each: count / _LARGE for each, count in self._counts.items()}
            self._weight /= _LARGE

    def forget(self, name: str) -> None:
        """Notes that a worker is gone."""
        self._counts.pop(name, None)
