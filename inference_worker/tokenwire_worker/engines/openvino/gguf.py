"""Tells whether a GGUF file is whole. OpenVINO does not look and dies of one that ends early.

    magic "GGUF", version u32, tensors u64, pairs u64
    pairs:    key, value type u32, value
    tensors:  name, dimensions u32, each u64, type u32, offset u64 into the data
    data:     from the next multiple of the alignment on

All numbers are little-endian; a string is its length, u64, and its bytes.
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path

VERSIONS = (2, 3)
ALIGNMENT_KEY = b"general.alignment"
ALIGNMENT = 32
"""Bytes, where the file does not say."""

DIMENSIONS_MOST = 8
"""More than any tensor has; a file that says more is no GGUF, whatever it begins with."""

_NUMBERS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by its type."""
_STRING, _ARRAY, _UINT32 = 8, 9, 4

_LEAST_TENSOR_BYTES = 24
"""What the description of a tensor takes at least, so that a count can be told to be too high."""
_LEAST_PAIR_BYTES = 13

_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    30: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 36),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    29: (256, 56),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
}
"""Elements and bytes of a block, by the tensor's type (ggml.h)."""


class GgufError(ValueError):
    """The file is no whole GGUF file."""


def check(path: Path) -> None:
    """Raises GgufError unless every tensor lies within the file; OSError where it can't be read."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise GgufError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Header(data).check()


class _Header:
    """Reads from the beginning of the file on."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def check(self) -> None:
        """Raises GgufError where anything lies outside the file."""
        if self._data[:4] != b"GGUF":
            raise GgufError("it does not begin as a GGUF file does")
        self._at = 4
        version = self._number("<I")
        if version not in VERSIONS:
            raise GgufError(f"it is GGUF version {version}; versions 2 and 3 can be read")
        tensors, pairs = self._number("<Q"), self._number("<Q")
        self._expect(tensors * _LEAST_TENSOR_BYTES + pairs * _LEAST_PAIR_BYTES)
        alignment = self._pairs(pairs)
        ends = [self._tensor() for _ in range(tensors)]
        begin = -(-self._at // alignment) * alignment
        for name, end in ends:
            if begin + end > len(self._data):
                raise GgufError(
                    f"it is cut short: tensor {name} ends at byte {begin + end:,}, "
                    f"the file at {len(self._data):,}; download or copy it again"
                )

    def _pairs(self, count: int) -> int:
        """Skips the pairs and returns the alignment."""
        alignment = ALIGNMENT
        for _ in range(count):
            key, kind = self._string(), self._number("<I")
            if key == ALIGNMENT_KEY and kind == _UINT32:
                alignment = self._number("<I")
                if alignment < 1:
                    raise GgufError(f"its alignment is {alignment}")
            else:
                self._skip_value(kind)
        return alignment

    def _tensor(self) -> tuple[str, int]:
        """Returns a tensor's name and where it ends in the data."""
        name = self._string().decode(errors="replace")
        dimensions = self._number("<I")
        if dimensions > DIMENSIONS_MOST:
            raise GgufError(f"tensor {name} has {dimensions} dimensions")
        elements = prod(self._number("<Q") for _ in range(dimensions))
        kind, offset = self._number("<I"), self._number("<Q")
        if kind not in _BLOCKS:
            raise GgufError(f"tensor {name} is of type {kind}, which is not known")
        block_elements, block_bytes = _BLOCKS[kind]
        return name, offset + -(-elements // block_elements) * block_bytes

    def _skip_value(self, kind: int) -> None:
        if kind in _NUMBERS:
            self._skip(_NUMBERS[kind])
        elif kind == _STRING:
            self._string()
        elif kind == _ARRAY:
            self._skip_array()
        else:
            raise GgufError(f"it has a value of type {kind}, which is not known")

    def _skip_array(self) -> None:
        kind, count = self._number("<I"), self._number("<Q")
        if kind in _NUMBERS:
            self._skip(count * _NUMBERS[kind])
        elif kind == _STRING:
            self._expect(count * 8)
            for _ in range(count):
                self._string()
        else:  # GGUF allows arrays of arrays, and no model has them
            raise GgufError(f"it has an array of type {kind}, which is not known")

    def _string(self) -> bytes:
        size = self._number("<Q")
        start = self._at
        self._skip(size)
        return self._data[start : self._at]

    def _number(self, form: str) -> int:
        start = self._at
        self._skip(struct.calcsize(form))
        number: int = struct.unpack_from(form, self._data, start)[0]
        return number

    def _skip(self, size: int) -> None:
        self._expect(size)
        self._at += size

    def _expect(self, size: int) -> None:
        if self._at + size > len(self._data):
            raise GgufError(
                f"it is cut short: it ends at byte {len(self._data):,}, within its header; "
                f"download or copy it again"
            )
