"""Plain deltas as bytes of the public contract, without messages between: the hot path.

The same bytes as the protobuf runtime would write, but for the order of fields, for a delta that
has nothing but offsets, ids and text of a generation's first sequence. Numbers are below 2**32 and
sizes below 2**28.
"""

from __future__ import annotations

from tokenwire_frontend.core.log import Plain

_LOW_BITS = 14
_LOW = (1 << _LOW_BITS) - 1

_SHORT = [
    bytes((n,)) if n < 0x80 else bytes((n & 0x7F | 0x80, n >> 7)) for n in range(1 << _LOW_BITS)
]
"""Varints of one and two bytes."""

_FIRST_TWO = [bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(1 << _LOW_BITS)]
"""The first two bytes of longer varints, by the number's lowest 14 bits."""

# A field's number and wire type, as a varint before it; by the messages in generation.proto.
_DELTA_TOKEN_OFFSET = b"\x10"
_DELTA_TOKEN_IDS = b"\x1a"
_DELTA_TEXT = b"\x22"
_DELTA_TEXT_OFFSET = b"\x38"
_STREAM_DELTA = b"\x12"
_EVENTS = b"\x0a"
_EVENT_ID = b"\x08"
_EVENT_DELTA = b"\x1a"


def varint(number: int) -> bytes:
    """Returns a number of at most 42 bits as protobuf writes it."""
    if number <= _LOW:
        return _SHORT[number]
    return _FIRST_TWO[number & _LOW] + varint(number >> _LOW_BITS)


def stream_delta(plain: Plain) -> bytes:
    """Returns a StreamGenerateResponse that has the delta."""
    body = _delta(plain)
    return _STREAM_DELTA + varint(len(body)) + body


def session_delta(number: int, plain: Plain) -> bytes:
    """Returns a SessionResponse of one event, which is generation `number`'s delta.

    Several such messages one after the other are one message with all the events.
    """
    body = _delta(plain)
    event = _EVENT_ID + varint(number) + _EVENT_DELTA + varint(len(body)) + body
    return _EVENTS + varint(len(event)) + event


def _delta(plain: Plain) -> bytes:
    token_offset, text_offset, ids, text = plain
    packed = varint(ids[0]) if len(ids) == 1 else b"".join(map(varint, ids))
    parts: list[bytes | bytearray] = [_DELTA_TOKEN_IDS, varint(len(packed)), packed]
    if token_offset:
        parts += (_DELTA_TOKEN_OFFSET, varint(token_offset))
    if text:
        parts += (_DELTA_TEXT, varint(len(text)), text)
    if text_offset:
        parts += (_DELTA_TEXT_OFFSET, varint(text_offset))
    return b"".join(parts)
