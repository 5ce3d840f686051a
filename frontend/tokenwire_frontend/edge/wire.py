"""Plain deltas as bytes of the public contract, without messages between: the hot path.

The protobuf runtime reads of them what it would read of its own, for a delta that has nothing but
offsets, ids and text of a generation's first sequence.
"""

from __future__ import annotations

from tokenwire.frontend.v1.generation_pb2 import (
    Delta,
    SessionEvent,
    SessionResponse,
    StreamGenerateResponse,
)
from tokenwire_service.wire import bytes_tag, number_tag, varint

from tokenwire_frontend.core.log import Plain

_TOKEN_OFFSET = number_tag(Delta.TOKEN_OFFSET_FIELD_NUMBER)
_TOKEN_IDS = bytes_tag(Delta.TOKEN_IDS_FIELD_NUMBER)
_TEXT = bytes_tag(Delta.TEXT_FIELD_NUMBER)
_TEXT_OFFSET = number_tag(Delta.TEXT_OFFSET_FIELD_NUMBER)
_STREAM_DELTA = bytes_tag(StreamGenerateResponse.DELTA_FIELD_NUMBER)
_EVENTS = bytes_tag(SessionResponse.EVENTS_FIELD_NUMBER)
_EVENT_ID = number_tag(SessionEvent.ID_FIELD_NUMBER)
_EVENT_DELTA = bytes_tag(SessionEvent.DELTA_FIELD_NUMBER)


def stream_delta(plain: Plain) -> bytes:
    """Returns a StreamGenerateResponse that has the delta."""
    body = _delta(plain)
    return _STREAM_DELTA + varint(len(body)) + body


def session_number(number: int) -> bytes:
    """Returns what `session_delta` takes for a generation's number."""
    return _EVENT_ID + varint(number) + _EVENT_DELTA


def session_delta(number: bytes, plain: Plain) -> bytes:
    """Returns a SessionResponse of one event, which is a generation's delta.

    Several such messages one after the other are one message with all the events.
    """
    body = _delta(plain)
    size = len(body)
    head = number + varint(size)
    return b"".join((_EVENTS, varint(len(head) + size), head, body))


def _delta(plain: Plain) -> bytes:
    token_offset, text_offset, ids, text = plain
    packed = varint(ids[0]) if len(ids) == 1 else b"".join(map(varint, ids))
    # A field that is 0 may be written too.
    return b"".join(
        (
            _TOKEN_IDS,
            varint(len(packed)),
            packed,
            _TOKEN_OFFSET,
            varint(token_offset),
            _TEXT_OFFSET,
            varint(text_offset),
            _TEXT,
            varint(len(text)),
            text,
        )
    )
