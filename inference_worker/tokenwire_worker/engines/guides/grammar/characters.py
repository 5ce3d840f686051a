"""Sets of characters, as sorted ranges of code points that neither overlap nor touch."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise

Ranges = tuple[tuple[int, int], ...]
"""First and last code point of each range."""

EVERY: Ranges = ((1, 0xD7FF), (0xE000, sys.maxunicode))
"""What an output may hold: text has no surrogates, and NUL ends a text in the grammar compilers."""


def ranges(parts: Iterable[tuple[int, int]]) -> Ranges:
    """Returns the union of ranges in any order, without what no output may hold."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(parts):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return intersection(tuple(merged), EVERY)


def characters(text: str) -> Ranges:
    """Returns the set of the characters of a text."""
    return ranges((ord(each), ord(each)) for each in text)


def intersection(some: Ranges, others: Ranges) -> Ranges:
    """Returns what is in both."""
    return tuple(_common(some, others))


def _common(some: Ranges, others: Ranges) -> Iterator[tuple[int, int]]:
    a = b = 0
    while a < len(some) and b < len(others):
        first, last = max(some[a][0], others[b][0]), min(some[a][1], others[b][1])
        if first <= last:
            yield first, last
        if some[a][1] < others[b][1]:
            a += 1
        else:
            b += 1


def without(some: Ranges, others: Ranges) -> Ranges:
    """Returns what is in the first and not in the second."""
    bounds = ((-1, -1), *others, (sys.maxunicode + 1, sys.maxunicode + 1))
    gaps = tuple((a[1] + 1, b[0] - 1) for a, b in pairwise(bounds) if a[1] + 1 <= b[0] - 1)
    return intersection(some, gaps)


def includes(some: Ranges, code_point: int) -> bool:
    """Tells whether a character is in a set."""
    return any(first <= code_point <= last for first, last in some)


ASCII: Ranges = ((1, 0x7F),)
DIGITS = characters("0123456789")
WORD = ranges([(48, 57), (65, 90), (95, 95), (97, 122)])
SPACE = characters(" \t\n\r\f\v")


@cache
def widest(letter: str) -> Ranges:
    r"""Returns what `\d`, `\w` or `\s` means to any regular expression engine, ASCII or Unicode.

    Its complement is what `\D`, `\W` or `\S` means to all of them.
    """
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    runs = re.finditer(rf"\{letter}+", every)
    extra = [(0xFEFF, 0xFEFF)] if letter == "s" else []  # ECMAScript's alone
    return ranges([*((run.start(), run.end() - 1) for run in runs), *extra])
