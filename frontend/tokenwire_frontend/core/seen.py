"""What a model has seen of a conversation, and how much of it a new prompt begins with.

A prompt of a conversation's next turn begins, most often, with the text of the turn before and its
answer. The ids of that text are kept, the model's own among them, although the tokenizer might have
split the answer otherwise; so the KV blocks of both can be used again. Only the rest is encoded.

Ids can be parted where an added token of the tokenizer, such as `<|end|>`, begins in the text: a
tokenizer finds these before anything else, so neither side of such a place depends on the other.
Anywhere else the rest might merge with what stands before it, or get a space of its own.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the added tokens of a text begin, in order."""

    places: Sequence[int] = ()
    """Bytes of UTF-8 before each."""
    token_ids: Sequence[int] = ()

    def part(self, start: int) -> Parts:
        """Returns those from a place on, by their places in the whole text."""
        first = bisect_right(self.places, start - 1)
        return Parts(self.places[first:], self.token_ids[first:])


def _empty() -> array[int]:
    return array("I")


@dataclass(frozen=True, slots=True)
class Seen:
    """Text that a model has seen, and the ids of it."""

    text: bytes = b""
    """UTF-8; at its end it need not be whole characters."""
    ids: array[int] = field(default_factory=_empty)
    places: array[int] = field(default_factory=_empty)
    """Where ids may be parted: bytes of the text before each place, in ascending order."""
    counts: array[int] = field(default_factory=_empty)
    """Ids before each place."""

    @property
    def bytes_held(self) -> int:
        """Bytes in memory, but for some objects around them."""
        return len(self.text) + 4 * (len(self.ids) + len(self.places) + len(self.counts))

    def kept(self, text: bytes, parts: Parts) -> tuple[int, int]:
        """Returns how much of a text begins as this one, up to the last place to part it.

        Args:
            text: UTF-8.
            parts: where it may be parted.

        Returns:
            Bytes of the text, and ids of them; 0 of both where nothing can be kept.
        """
        same = _common_bytes(self.text, text)
        for place in reversed(parts.places[: bisect_right(parts.places, same)]):
            count = self._count_before(place)
            if count is not None:
                return place, count
        return 0, 0

    def replaced(
        self, text: bytes, parts: Parts, kept: tuple[int, int], rest: Sequence[int]
    ) -> Seen:
        """Returns a text that keeps the beginning of this one.

        Args:
            text: UTF-8.
            parts: where it may be parted.
            kept: what `kept` has returned.
            rest: ids of the text after what is kept.
        """
        at, count = kept
        ids = self.ids[:count]
        ids.extend(rest)
        places, counts = array("I"), array("I")
        for place in parts.places[: bisect_right(parts.places, at - 1)]:
            before = self._count_before(place)
            if before is not None:
                places.append(place)
                counts.append(before)
        new = parts.part(at)
        found = _found(rest, new.token_ids)
        if found is not None:
            places.extend(new.places)
            counts.extend(count + index for index in found)
        return Seen(text, ids, places, counts)

    def with_output(self, token_ids: Sequence[int], token_bytes: Mapping[int, bytes]) -> Seen:
        """Returns this text with a model's output after it, which may be parted at every id.

        Args:
            token_ids: the output's, a stop token included.
            token_bytes: bytes of each id.
        """
        pieces = [token_bytes[each] for each in token_ids]
        places, counts = self.places[:], self.counts[:]
        start, count = len(self.text), len(self.ids)
        places.extend(accumulate(map(len, pieces), initial=start))
        counts.extend(range(count, count + len(pieces) + 1))
        ids = self.ids[:]
        ids.extend(token_ids)
        return Seen(self.text + b"".join(pieces), ids, places, counts)

    def _count_before(self, place: int) -> int | None:
        """Returns the ids before a place; None where they can't be parted there."""
        found = bisect_right(self.places, place) - 1
        return self.counts[found] if found >= 0 and self.places[found] == place else None


def _common_bytes(one: bytes, other: bytes) -> int:
    """Returns how many bytes two texts have in common at their beginning."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _found(ids: Sequence[int], token_ids: Sequence[int]) -> list[int] | None:
    """Returns where these tokens are, all that there are; None where others are among them."""
    wanted = frozenset(token_ids)
    found = [index for index, each in enumerate(ids) if each in wanted]
    return found if [ids[index] for index in found] == [*token_ids] else None
