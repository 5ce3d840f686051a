"""Log probabilities of one sequence's tokens, in columns.

As objects, a token with five alternatives takes some 600 bytes and twelve objects that the garbage
collector visits; in columns it takes 60 bytes and none.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenwire_frontend.core.token_bytes import NO_BYTES

TOKEN_BYTES = 20
ALTERNATIVE_BYTES = 8
"""Bytes in memory of a token and of an alternative: an id and a 32-bit float, as the contracts
have it, and of a token where its alternatives and its bytes on the wire end."""

TOKEN_WIRE_BYTES = 20
"""Most bytes on the wire of a token's log probability without alternatives and the token's own
bytes: an id, a float, the lengths of the token and of the message around them, and four tags."""

ALTERNATIVE_WIRE_BYTES = 19
"""The same of one alternative, in a message of its own."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of one token, with alternatives as pairs of id and logprob."""

    token_id: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


class Logprobs:
    """A row of TokenLogprob that grows at its end and is dropped from its beginning.

    Args:
        token_bytes: the bytes of each id, which go to the wire with it.
    """

    __slots__ = (
        "_dropped", "_ends", "_ids", "_other_ids", "_others", "_values", "_wire_dropped",
        "_wire_ends", "token_bytes",
    )  # fmt: skip

    def __init__(self, token_bytes: Mapping[int, bytes] = NO_BYTES) -> None:
        self.token_bytes = token_bytes
        self._ids = array("I")
        self._values = array("f")
        # Alternatives up to the end of each token's, from the first that there ever was.
        self._ends = array("I")
        self._other_ids = array("I")
        self._others = array("f")
        self._dropped = 0
        # Most bytes on the wire up to the end of each token, from the first that there ever was.
        self._wire_ends = array("Q")
        self._wire_dropped = 0

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def bytes_held(self) -> int:
        """Bytes in memory."""
        return TOKEN_BYTES * len(self._ids) + ALTERNATIVE_BYTES * len(self._others)

    @property
    def wire_bytes(self) -> int:
        """Most bytes on the wire of all that there ever was."""
        return self._wire_ends[-1] if self._wire_ends else self._wire_dropped

    def wire_end(self, count: int) -> int:
        """Returns the most bytes on the wire up to the end of the first `count`, or of all."""
        count = min(count, len(self._wire_ends))
        return self._wire_ends[count - 1] if count else self._wire_dropped

    def extend(self, values: Sequence[TokenLogprob]) -> None:
        """Adds values at the end."""
        other_ids, others, token_bytes = self._other_ids, self._others, self.token_bytes
        wire_end = self.wire_bytes
        for each in values:
            wire_end += TOKEN_WIRE_BYTES + len(token_bytes[each.token_id])
            self._ids.append(each.token_id)
            self._values.append(each.logprob)
            for token_id, logprob in each.alternatives:
                other_ids.append(token_id)
                others.append(logprob)
                wire_end += ALTERNATIVE_WIRE_BYTES + len(token_bytes[token_id])
            self._ends.append(self._dropped + len(others))
            self._wire_ends.append(wire_end)

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
        self._wire_dropped = self.wire_end(count)
        del self._other_ids[:begin], self._others[:begin]
        del self._ids[:count], self._values[:count], self._ends[:count], self._wire_ends[:count]

    def _end(self, count: int) -> int:
        """Returns the place after the alternatives of the first `count` tokens."""
        return self._ends[count - 1] - self._dropped if count else 0
