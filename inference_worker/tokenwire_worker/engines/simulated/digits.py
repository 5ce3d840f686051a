"""Runs of token ids as one number each, which the next ids extend.

The ids are the digits of a number in base 2**32, taken modulo a prime. So the number of a run comes
from all of it at once, in C, or from one id after the other, and is the same.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

PRIME = 2**61 - 1
"""It fits a word of 64 bits. Of a million runs two have the same number with a probability of
2e-7."""

DIGIT_BITS = 32


def extended(number: int, ids: Sequence[int]) -> int:
    """Returns the number, below PRIME, of a run with these ids after it."""
    words = array("I", ids)
    if sys.byteorder == "little":
        words.byteswap()
    ahead = number * pow(2, DIGIT_BITS * len(words), PRIME)
    return (ahead + int.from_bytes(words.tobytes(), "big")) % PRIME
