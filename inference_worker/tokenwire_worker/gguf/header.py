"""Reads the header of a GGUF file, and tells whether the file is whole.

    magic "GGUF", version u32, tensors u64, pairs u64
    pairs:    key, value type u32, value
    tensors:  name, dimensions u32, each u64, type u32, offset u64 into the data
    data:     from the next multiple of the alignment on

All numbers are little-endian; a string is its length, u64, and its bytes.
Source: docs/gguf.md of ggml.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tokenwire_service.wording import cut

from tokenwire_worker.gguf.types import TENSOR_TYPES, TensorType
from tokenwire_worker.model_files import SHOWN_BYTES, ModelError

VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"
ALIGNMENT = 32
"""Bytes, where the file does not say."""

DIMENSIONS_MOST = 8
"""More than any tensor has; a file that says more is no GGUF, whatever it begins with."""

_NUMBERS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""Form of a value in struct's terms, by its type."""
_STRING, _ARRAY = 8, 9

_LEAST_TENSOR_BYTES = 24
"""What the description of a tensor takes at least, so that a count can be told to be too high."""
_LEAST_PAIR_BYTES = 13


class GgufError(ModelError):
    """The file is not a whole GGUF file, or holds something that cannot be served."""


@dataclass(frozen=True)
class Tensor:
    """A tensor's description."""

    name: str
    shape: tuple[int, ...]
    """As numpy has it: rows first, the reverse of the file's order."""
    type: TensorType


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its data."""

    pairs: dict[str, Any]
    """Numbers, booleans, texts, and lists of these, by key."""
    tensors: tuple[Tensor, ...]
    sha256: str
    """Of all bytes before the data, 64 lower-case hex digits."""

    @property
    def architecture(self) -> str:
        """Name of the model's architecture, such as `llama`.

        Raises:
            GgufError: it does not say.
        """
        return self.text("general.architecture")

    def text(self, key: str, default: str | None = None) -> str:
        """Returns the text of a key.

        Raises:
            GgufError: it has another type, or is missing without a default.
        """
        value = self.pairs.get(key, default)
        if not isinstance(value, str):
            raise self._fault(key, value, "no text")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Returns the number of a key; errors as of `text`."""
        value = self.pairs.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._fault(key, value, "no number")
        return value

    def _fault(self, key: str, value: object, what: str) -> GgufError:
        if value is None:
            return GgufError(f"it does not have {key}")
        return GgufError(f"its {key} is {cut(repr(value), SHOWN_BYTES)}, which is {what}")


def read(path: Path) -> Header:
    """Reads the header of a file that is whole.

    Raises:
        GgufError: it is no GGUF file, a tensor lies outside it, or it can't be read.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise GgufError("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).read()
    except OSError as error:
        raise GgufError(error.strerror or str(error)) from error


class _Reader:
    """Reads from the beginning of the file on."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def read(self) -> Header:
        if self._data[:4] != b"GGUF":
            raise GgufError("it does not begin as a GGUF file does")
        self._at = 4
        version = self._number("I")
        if version.to_bytes(4, "little")[::-1] in [each.to_bytes(4, "little") for each in VERSIONS]:
            raise GgufError("it is big-endian, which is not supported")
        if version not in VERSIONS:
            raise GgufError(f"it is GGUF version {version}; versions 2 and 3 are supported")
        tensors, pairs = self._number("Q"), self._number("Q")
        self._expect(tensors * _LEAST_TENSOR_BYTES + pairs * _LEAST_PAIR_BYTES)
        values = dict(self._pair() for _ in range(pairs))
        read = [self._tensor() for _ in range(tensors)]
        self._check_ends(values, read)
        digest = hashlib.sha256(self._data[: self._at]).hexdigest()
        return Header(values, tuple(tensor for tensor, _ in read), digest)

    def _check_ends(self, pairs: dict[str, Any], tensors: list[tuple[Tensor, int]]) -> None:
        alignment = pairs.get(ALIGNMENT_KEY, ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise GgufError(f"its {ALIGNMENT_KEY} is {cut(repr(alignment), SHOWN_BYTES)}")
        begin = -(-self._at // alignment) * alignment
        for tensor, end in tensors:
            if begin + end > len(self._data):
                raise GgufError(
                    f"it is cut short: tensor {tensor.name} ends at byte {begin + end:,}, "
                    f"the file at {len(self._data):,}; download or copy it again"
                )

    def _pair(self) -> tuple[str, Any]:
        key = self._string()
        return key, self._value(self._number("I"))

    def _tensor(self) -> tuple[Tensor, int]:
        """Returns a tensor and where it ends in the data."""
        name = cut(self._string(), SHOWN_BYTES)
        dimensions = self._number("I")
        if dimensions > DIMENSIONS_MOST:
            raise GgufError(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))
        kind, offset = self._number("I"), self._number("Q")
        if kind not in TENSOR_TYPES:
            raise GgufError(f"tensor {name} is of type {kind}, which is not known")
        of_type = TENSOR_TYPES[kind]
        blocks = -(-prod(shape) // of_type.block_elements)
        return Tensor(name, shape[::-1], of_type), offset + blocks * of_type.block_bytes

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        raise GgufError(f"it has a value of type {kind}, which is not known")

    def _array(self) -> list[Any]:
        kind, count = self._number("I"), self._number("Q")
        if kind in _NUMBERS:
            form = _NUMBERS[kind]
            size = count * struct.calcsize(form)
            self._expect(size)
            values = list(struct.unpack_from(f"<{count}{form}", self._data, self._at))
            self._at += size
            return values
        if kind == _STRING:
            self._expect(count * 8)
            return [self._string() for _ in range(count)]
        # GGUF allows arrays of arrays, and no model has them.
        raise GgufError(f"it has an array of type {kind}, which is not known")

    def _string(self) -> str:
        size = self._number("Q")
        self._expect(size)
        start, self._at = self._at, self._at + size
        # Some vocabularies hold tokens that are no UTF-8; llama.cpp keeps their bytes.
        return self._data[start : self._at].decode(errors="replace")

    def _number(self, form: str) -> Any:
        start = self._at
        size = struct.calcsize(f"<{form}")
        self._expect(size)
        self._at += size
        return struct.unpack_from(f"<{form}", self._data, start)[0]

    def _expect(self, size: int) -> None:
        if self._at + size > len(self._data):
            raise GgufError(
                f"it is cut short: it ends at byte {len(self._data):,}, within its header; "
                f"download or copy it again"
            )
