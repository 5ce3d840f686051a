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
DIGIT_BYTES = 4

_PRIME_BITS = 61


def digits(ids: Sequence[int]) -> bytes:
    """Returns ids as the digits of a number, DIGIT_BYTES each."""
    words = array("I", ids)
    if sys.byteorder == "little":
        words.byteswap()
    return words.tobytes()


def extended(number: int, run: bytes) -> int:
    """Returns the number, below PRIME, of a run with these digits after it."""
    # 2**61 is 1 here, so a shift by more is one by what is left of it.
    ahead = number << len(run) * 8 % _PRIME_BITS
    return (ahead + _folded(int.from_bytes(run, "big"))) % PRIME


def _folded(number: int) -> int:
    """Returns a number of few digits that has the same remainder.

    Halves are added where both count alike, which takes a tenth of what a division takes.
    """
    while (bits := number.bit_length()) > 16 * _PRIME_BITS:
        half = bits // (2 * _PRIME_BITS) * _PRIME_BITS
        number = (number >> half) + (number & (1 << half) - 1)
    return number
