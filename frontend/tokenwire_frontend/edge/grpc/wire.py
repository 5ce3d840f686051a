"""Events that every generation has, as bytes of the public contract: the hot path.

The protobuf runtime reads of them what it would read of its own. Deltas are those of a generation's
first sequence that have nothing but offsets, ids and text.
"""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.duration_pb2 import Duration
from tokenwire.frontend.v1.generation_pb2 import (
    ATTEMPT_MODE_CARRIED,
    ATTEMPT_MODE_FETCHED,
    ATTEMPT_MODE_NEW,
    ATTEMPT_MODE_PREFILL,
    ATTEMPT_MODE_REPLAYED,
    Accepted,
    Attempt,
    Completed,
    Delta,
    SessionEvent,
    SessionResponse,
    Stage,
    StreamGenerateResponse,
    Timings,
    Usage,
)
from tokenwire_service.wire import (
    NumberFields,
    bytes_tag,
    number_tag,
    varint,
)

from tokenwire_frontend.core import events
from tokenwire_frontend.core.fast_path import Plain

STREAM_ACCEPTED = bytes_tag(StreamGenerateResponse.ACCEPTED_FIELD_NUMBER)
STREAM_DELTA = bytes_tag(StreamGenerateResponse.DELTA_FIELD_NUMBER)
STREAM_COMPLETED = bytes_tag(StreamGenerateResponse.COMPLETED_FIELD_NUMBER)

SESSION_ACCEPTED = bytes_tag(SessionEvent.ACCEPTED_FIELD_NUMBER)
SESSION_DELTA = bytes_tag(SessionEvent.DELTA_FIELD_NUMBER)
SESSION_COMPLETED = bytes_tag(SessionEvent.COMPLETED_FIELD_NUMBER)
_EVENTS = bytes_tag(SessionResponse.EVENTS_FIELD_NUMBER)
_EVENT_ID = number_tag(SessionEvent.ID_FIELD_NUMBER)

# Tags of one byte, as numbers.
[_EVENTS_TAG] = _EVENTS
[_STREAM_DELTA_TAG] = STREAM_DELTA
[_TOKEN_OFFSET] = number_tag(Delta.TOKEN_OFFSET_FIELD_NUMBER)
[_TOKEN_IDS] = bytes_tag(Delta.TOKEN_IDS_FIELD_NUMBER)
[_TEXT] = bytes_tag(Delta.TEXT_FIELD_NUMBER)
[_TEXT_OFFSET] = number_tag(Delta.TEXT_OFFSET_FIELD_NUMBER)

_REQUEST_ID = bytes_tag(Accepted.REQUEST_ID_FIELD_NUMBER)
_PROMPT_TOKEN_COUNT = number_tag(Accepted.PROMPT_TOKEN_COUNT_FIELD_NUMBER)
_TRACE_ID = bytes_tag(Accepted.TRACE_ID_FIELD_NUMBER)

_USAGE = bytes_tag(Completed.USAGE_FIELD_NUMBER)
_PROMPT_TOKENS = number_tag(Usage.PROMPT_TOKENS_FIELD_NUMBER)
_COMPLETION_TOKENS = number_tag(Usage.COMPLETION_TOKENS_FIELD_NUMBER)
_CACHED_PROMPT_TOKENS = number_tag(Usage.CACHED_PROMPT_TOKENS_FIELD_NUMBER)

_TIMINGS = bytes_tag(Completed.TIMINGS_FIELD_NUMBER)
_FIRST = bytes_tag(Timings.TIME_TO_FIRST_TOKEN_FIELD_NUMBER)
_PER_TOKEN = bytes_tag(Timings.TIME_PER_OUTPUT_TOKEN_FIELD_NUMBER)
_TOTAL = bytes_tag(Timings.TOTAL_FIELD_NUMBER)
_STAGES = bytes_tag(Timings.STAGES_FIELD_NUMBER)
_WORKER = bytes_tag(Timings.WORKER_FIELD_NUMBER)

_STAGE_SERVICE = bytes_tag(Stage.SERVICE_FIELD_NUMBER)
_STAGE_NAME = bytes_tag(Stage.NAME_FIELD_NUMBER)
_STAGE_START = bytes_tag(Stage.START_FIELD_NUMBER)
_STAGE_DURATION = bytes_tag(Stage.DURATION_FIELD_NUMBER)
[_SECONDS] = number_tag(Duration.SECONDS_FIELD_NUMBER)
[_NANOS] = number_tag(Duration.NANOS_FIELD_NUMBER)

_MODES = {
    events.Mode.NEW: ATTEMPT_MODE_NEW,
    events.Mode.CARRIED: ATTEMPT_MODE_CARRIED,
    events.Mode.REPLAYED: ATTEMPT_MODE_REPLAYED,
    events.Mode.PREFILL: ATTEMPT_MODE_PREFILL,
    events.Mode.FETCHED: ATTEMPT_MODE_FETCHED,
}

# A field that is 0 or empty may be written too.

_SIZES = NumberFields()
_EVENT_SIZES = NumberFields(_EVENTS)
_STAGE_SIZES = NumberFields(_STAGES)


def stream_event(kind: bytes, body: bytes) -> bytes:
    """Returns a StreamGenerateResponse; `kind` is STREAM_ACCEPTED and so on, of the body."""
    return kind + varint(len(body)) + body


def stream_delta(plain: Plain) -> bytes:
    """Returns a StreamGenerateResponse of a delta."""
    out = bytearray()
    packed = _ids_size(plain)
    out.append(_STREAM_DELTA_TAG)
    _put_number(out, _delta_size(plain, packed))
    _put_delta(out, plain, packed)
    return bytes(out)


def put_session_delta(out: bytearray, head: bytes, plain: Plain) -> None:
    """Adds a SessionResponse of a delta; `head` is of `session_head`. See `session_event`."""
    packed = _ids_size(plain)
    size = _delta_size(plain, packed)
    out.append(_EVENTS_TAG)
    _put_number(out, len(head) + _number_size(size) + size)
    out += head
    _put_number(out, size)
    _put_delta(out, plain, packed)


def _put_delta(out: bytearray, plain: Plain, packed: int) -> None:
    token_offset, text_offset, ids, text = plain
    out.append(_TOKEN_IDS)
    _put_number(out, packed)
    for token_id in ids:
        _put_number(out, token_id)
    out.append(_TOKEN_OFFSET)
    _put_number(out, token_offset)
    out.append(_TEXT_OFFSET)
    _put_number(out, text_offset)
    out.append(_TEXT)
    _put_number(out, len(text))
    out += text


def _delta_size(plain: Plain, packed: int) -> int:
    """Returns a Delta's bytes; `packed`: those of its ids."""
    token_offset, text_offset, _, text = plain
    size = len(text)
    lengths = _number_size(packed) + _number_size(size)
    return 4 + lengths + _number_size(token_offset) + _number_size(text_offset) + packed + size


def _ids_size(plain: Plain) -> int:
    """Returns the bytes of a delta's ids."""
    packed = 0
    for token_id in plain[2]:
        packed += _number_size(token_id)
    return packed


def _put_number(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _number_size(number: int) -> int:
    size = 1
    while number > 0x7F:
        number >>= 7
        size += 1
    return size


def session_head(number: int, kind: bytes) -> bytes:
    """Returns what `session_event` takes for a generation's number.

    `kind` is SESSION_ACCEPTED and so on, of the body.
    """
    return _EVENT_ID + varint(number) + kind


def session_event(head: bytes, body: bytes) -> bytes:
    """Returns a SessionResponse of one event; `head` is of `session_head`.

    Several such messages one after the other are one message with all the events.
    """
    size = len(body)
    told = _SIZES[size]
    return b"".join((_EVENT_SIZES[len(head) + len(told) + size], head, told, body))


def accepted(request_id: str, prompt_tokens: int, trace_id: str) -> bytes:
    """Returns an Accepted."""
    asked = request_id.encode()
    return b"".join(
        (
            _REQUEST_ID,
            varint(len(asked)),
            asked,
            _PROMPT_TOKEN_COUNT,
            varint(prompt_tokens),
            _text(_TRACE_ID, trace_id),
        )
    )


def completed(value: events.Completion) -> bytes:
    """Returns a Completed."""
    told, times = usage(value), timings(value)
    body = b"".join((_USAGE, varint(len(told)), told, _TIMINGS, varint(len(times)), times))
    if value.parts:
        body += Completed(attempts=attempts(value)).SerializeToString()
    return body


def attempts(value: events.Completion) -> list[Attempt]:
    """Returns the workers' parts in it."""
    return [
        Attempt(
            worker=part.worker,
            sequence=part.sequence,
            token_offset=part.token_offset,
            mode=_MODES[part.mode],
            left_because=part.left_because,
        )
        for part in value.parts
    ]


def usage(value: events.Completion) -> bytes:
    """Returns a Usage."""
    told = (
        _PROMPT_TOKENS
        + varint(value.prompt_tokens)
        + _COMPLETION_TOKENS
        + varint(value.completion_tokens)
    )
    if value.cached_prompt_tokens is not None:
        told += _CACHED_PROMPT_TOKENS + varint(value.cached_prompt_tokens)
    return told


def timings(value: events.Completion) -> bytes:
    """Returns a Timings."""
    parts = [_duration(_TOTAL, value.total_s), _known(_WORKER, value.worker)]
    if value.time_to_first_token_s is not None:
        parts.append(_duration(_FIRST, value.time_to_first_token_s))
    if value.time_per_output_token_s is not None:
        parts.append(_duration(_PER_TOKEN, value.time_per_output_token_s))
    for stage in value.stages:
        name = _stage_name(stage.service, stage.name)
        start = _duration(_STAGE_START, stage.start_s)
        took = _duration(_STAGE_DURATION, stage.duration_s)
        parts += (_STAGE_SIZES[len(name) + len(start) + len(took)], name, start, took)
    return b"".join(parts)


def _duration(tag: bytes, seconds: float) -> bytes:
    # Only what a clock that was set back would give is below 0.
    nanos = max(round(seconds * 1e9), 0)
    body = bytearray()
    if nanos >= 10**9:
        body.append(_SECONDS)
        _put_number(body, nanos // 10**9)
        nanos %= 10**9
    body.append(_NANOS)
    _put_number(body, nanos)
    return tag + _SIZES[len(body)] + body


def _text(tag: bytes, text: str) -> bytes:
    raw = text.encode()
    return tag + varint(len(raw)) + raw


_known = lru_cache(maxsize=1024)(_text)
"""For names of workers, of which there are few."""


@lru_cache(maxsize=64)
def _stage_name(service: str, name: str) -> bytes:
    return _text(_STAGE_SERVICE, service) + _text(_STAGE_NAME, name)
