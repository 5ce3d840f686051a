"""Pieces of protobuf's encoding, for messages that are written as bytes on a hot path."""

from __future__ import annotations

_LOW_BITS = 14
_LOW = (1 << _LOW_BITS) - 1

_SHORT = [
    bytes((n,)) if n < 0x80 else bytes((n & 0x7F | 0x80, n >> 7)) for n in range(1 << _LOW_BITS)
]
"""Varints of one and two bytes."""

_FIRST_TWO = [bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(1 << _LOW_BITS)]
"""The first two bytes of longer varints, by the number's lowest 14 bits."""


def varint(number: int) -> bytes:
    """Returns a number, not below 0, as protobuf writes it."""
    if number <= _LOW:
        return _SHORT[number]
    high = number >> _LOW_BITS
    return _FIRST_TWO[number & _LOW] + (_SHORT[high] if high <= _LOW else varint(high))


class NumberFields(dict[int, bytes]):
    """What each number is as a field, by number: its tag and the number, as bytes.

    Made when they are asked for first; a look-up costs a third of what making one does. Numbers of
    up to 14 bits are kept, of which one takes some 150 bytes.

    Args:
        tag: what stands before the number; empty: the varint alone.
    """

    def __init__(self, tag: bytes = b"") -> None:
        super().__init__()
        self._tag = tag

    def __missing__(self, number: int) -> bytes:
        field = self._tag + varint(number)
        if number <= _LOW:
            self[number] = field
        return field


def number_tag(field: int) -> bytes:
    """Returns what stands before a field's varint."""
    return varint(field << 3)


def bytes_tag(field: int) -> bytes:
    """Returns what stands before the size and the bytes of a field: text, message or packed."""
    return varint(field << 3 | 2)
