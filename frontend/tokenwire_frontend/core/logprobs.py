"""Log probabilities of one sequence's tokens, in columns.

As objects, a token with five alternatives takes some 600 bytes and twelve objects that the garbage
collector visits; in columns it takes 52 bytes and none.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

TOKEN_BYTES = 12
ALTERNATIVE_BYTES = 8
"""Bytes in memory of a token and of an alternative: an id and a 32-bit float, as the contracts
have it, and of a token where its alternatives end."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of one token, with alternatives as pairs of id and logprob."""

    token_id: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


class Logprobs:
    """A row of TokenLogprob that grows at its end and is dropped from its beginning."""

    __slots__ = ("_dropped", "_ends", "_ids", "_other_ids", "_others", "_values", "most")

    def __init__(self) -> None:
        self.most = 0
        """Most alternatives that a token has had."""
        self._ids = array("I")
        self._values = array("f")
        # Alternatives up to the end of each token's, from the first that there ever was.
        self._ends = array("I")
        self._other_ids = array("I")
        self._others = array("f")
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def bytes_held(self) -> int:
        """Bytes in memory."""
        return TOKEN_BYTES * len(self._ids) + ALTERNATIVE_BYTES * len(self._others)

    def extend(self, values: Sequence[TokenLogprob]) -> None:
        """Adds values at the end."""
        other_ids, others = self._other_ids, self._others
        for each in values:
            self._ids.append(each.token_id)
            self._values.append(each.logprob)
            for token_id, logprob in each.alternatives:
                other_ids.append(token_id)
                others.append(logprob)
            self._ends.append(self._dropped + len(others))
            self.most = max(self.most, len(each.alternatives))

    def part(self, start: int, end: int) -> list[TokenLogprob]:
        """Returns the values of these places, as far as there are any."""
        start, end = (min(place, len(self._ids)) for place in (start, end))
        begin, values = self._end(start), []
        for place in range(start, end):
            until = self._end(place + 1)
            alternatives = zip(self._other_ids[begin:until], self._others[begin:until], strict=True)
            values.append(TokenLogprob(self._ids[place], self._values[place], tuple(alternatives)))
            begin = until
        return values

    def drop(self, count: int) -> None:
        """Drops so many values from the beginning, or all."""
        count = min(count, len(self._ids))
        begin = self._end(count)
        self._dropped += begin
        del self._other_ids[:begin], self._others[:begin]
        del self._ids[:count], self._values[:count], self._ends[:count]

    def _end(self, count: int) -> int:
        """Returns the place after the alternatives of the first `count` tokens."""
        return self._ends[count - 1] - self._dropped if count else 0
