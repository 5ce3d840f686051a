"""Values in tensors, and tensors of values.

Requests have a tensor's elements either in the field of its datatype or raw; responses have them
raw, as Triton's have.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tokenwire_service.errors import InvalidRequestError, invalid
from tokenwire_service.wording import counted, cut

from tokenwire_frontend.edge.kserve.stubs.grpc_service_pb2 import ModelInferRequest

BYTES = "BYTES"
BOOL = "BOOL"
INT32 = "INT32"
UINT32 = "UINT32"
UINT64 = "UINT64"
FP32 = "FP32"

Value = str | bool | int | float

_FORMATS = {
    BOOL: "?",
    "INT8": "b",
    "INT16": "h",
    INT32: "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    UINT32: "I",
    UINT64: "Q",
    FP32: "f",
    "FP64": "d",
}
"""Of `struct`, by datatype."""

_CONTENTS = {
    BYTES: "bytes_contents",
    BOOL: "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    INT32: "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    UINT32: "uint_contents",
    UINT64: "uint64_contents",
    FP32: "fp32_contents",
    "FP64": "fp64_contents",
}

_INTEGERS = tuple(name for name in _FORMATS if "INT" in name)
_ACCEPTED = {
    BYTES: (BYTES,),
    BOOL: (BOOL,),
    INT32: _INTEGERS,
    UINT64: _INTEGERS,
    FP32: (FP32, "FP64"),
}
"""Datatypes that an input may have, by the one that it is described with: of the same number,
Triton's backends have had several."""

ELEMENTS_LIMIT = 1024
"""Of a tensor: more than any list of values may have."""

ENTRIES_LIMIT = 128
"""Of a request's inputs, outputs or parameters: more than there are."""

_SIZE = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input of a request, not read yet."""

    message: ModelInferRequest.InferInputTensor
    raw: bytes | None
    """Its elements, where they do not stand in the message."""

    @property
    def name(self) -> str:
        """As the caller named it."""
        return cut(self.message.name, 64)

    def values(self, datatype: str) -> list[Any]:
        """Returns its elements: text of BYTES, and numbers.

        Args:
            datatype: with which the input is described.

        Raises:
            InvalidRequestError: the datatype, the shape or the elements are at fault.
        """
        given = self.message.datatype
        if given not in _ACCEPTED[datatype]:
            raise self.invalid(f"has datatype {cut(given, 16)!r}; {datatype} is required")
        count = self._count()
        contents = getattr(self.message.contents, _CONTENTS[given])
        if self.raw is None:
            if len(contents) != count:
                raise self.invalid(f"has {len(contents)} elements; its shape has {count}")
            values = list(contents)
        elif self.message.HasField("contents"):
            raise self.invalid("has `contents`, and an entry of `raw_input_contents` too")
        elif given == BYTES:
            values = self._raw_texts(self.raw, count)
        else:
            values = self._raw_numbers(self.raw, count, given)
        return list(map(self._text, values)) if given == BYTES else values

    def one(self, datatype: str) -> Any:
        """Returns its only element; raises as `values`."""
        values = self.values(datatype)
        if len(values) != 1:
            raise self.invalid(f"has shape {_shape(self.message.shape)}; one element is required")
        return values[0]

    def invalid(self, description: str) -> InvalidRequestError:
        """Returns the error that names this input."""
        return invalid(self.name, description)

    def _count(self) -> int:
        """Returns the number of elements."""
        if "shared_memory_region" in self.message.parameters:
            raise self.invalid("is in shared memory, which is not supported")
        shape = self.message.shape
        if len(shape) > 2 or any(size < 0 for size in shape):
            raise self.invalid(f"has shape {_shape(shape)}; [n] or [1, n] is required")
        if len(shape) == 2 and shape[0] != 1:
            raise self.invalid(f"has shape {_shape(shape)}; batches are not supported")
        count = prod(shape)
        if count > ELEMENTS_LIMIT:
            raise self.invalid(f"has {count} elements; at most {ELEMENTS_LIMIT}")
        return count

    def _raw_numbers(self, raw: bytes, count: int, datatype: str) -> list[Any]:
        elements = struct.Struct(f"<{count}{_FORMATS[datatype]}")
        if len(raw) != elements.size:
            raise self.invalid(f"has {counted(len(raw), 'byte')}; its shape has {elements.size}")
        return list(elements.unpack(raw))

    def _raw_texts(self, raw: bytes, count: int) -> list[bytes]:
        texts: list[bytes] = []
        place = 0
        while place < len(raw) and len(texts) <= count:
            end = place + _SIZE.size
            if end <= len(raw):
                end += _SIZE.unpack_from(raw, place)[0]
            if end > len(raw):
                raise self.invalid("ends within an element")
            texts.append(raw[place + _SIZE.size : end])
            place = end
        if len(texts) != count:
            raise self.invalid(f"has {len(texts)} elements or more; its shape has {count}")
        return texts

    def _text(self, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise self.invalid(f"is not UTF-8 at byte {error.start}") from error


def tensors(message: ModelInferRequest) -> dict[str, Tensor]:
    """Returns a request's inputs by name.

    Raises:
        InvalidRequestError: there are too many, a name comes twice, or raw contents do not fit to
            the inputs.
    """
    raws, inputs = message.raw_input_contents, message.inputs
    if len(inputs) > ENTRIES_LIMIT:
        raise invalid("inputs", f"has {len(inputs)}; at most {ENTRIES_LIMIT}")
    if raws and len(raws) != len(inputs):
        raise invalid(
            "raw_input_contents",
            f"has {len(raws)}; one for each of {counted(len(inputs), 'input')}",
        )
    found: dict[str, Tensor] = {}
    for place, each in enumerate(inputs):
        if each.name in found:
            raise invalid(f"inputs[{place}].name", f"{cut(each.name, 64)!r} came before")
        found[each.name] = Tensor(each, raws[place] if raws else None)
    return found


def raw(datatype: str, values: Sequence[Any]) -> bytes:
    """Returns a tensor's elements as responses have them; those of BYTES are bytes."""
    if datatype == BYTES:
        return b"".join(part for value in values for part in (_SIZE.pack(len(value)), value))
    return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)


def _shape(shape: Sequence[int]) -> str:
    return cut(str(list(shape[:8])), 80)
