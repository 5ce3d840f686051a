"""How often texts that were encoded before need not be encoded again."""

from __future__ import annotations

from typing import NamedTuple


class CacheCounts(NamedTuple):
    """Of a process's models together; a text here is what stands between two special tokens."""

    hits: int = 0
    """Texts that were remembered."""
    misses: int = 0
    hit_bytes: int = 0
    """Their UTF-8."""
    miss_bytes: int = 0
    held_bytes: int = 0
    """Texts and ids that are remembered now."""

    def __add__(self, other: object) -> CacheCounts:
        """Returns the counts of both."""
        if not isinstance(other, CacheCounts):
            return NotImplemented
        return CacheCounts(*(one + another for one, another in zip(self, other, strict=True)))

    def without_held(self) -> CacheCounts:
        """Returns the counts of a process that has ended."""
        return self._replace(held_bytes=0)
