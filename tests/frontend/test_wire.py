"""Deltas written as bytes: what the protobuf runtime reads of them, and when they are taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenwire.frontend.v1 import generation_pb2 as pb
from tokenwire_frontend.core.events import Completion, Stage
from tokenwire_frontend.core.fast_path import Cursor, Plain
from tokenwire_frontend.core.log import End, Finish, SequenceLog
from tokenwire_frontend.edge.grpc import to_proto, wire
from tokenwire_frontend.workers.messages import duration
from tokenwire_service.wire import NumberFields, varint

UINT32 = st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1))
PLAINS = st.tuples(
    UINT32,
    st.one_of(st.integers(0, 2**15), st.integers(0, 2**40)),
    st.one_of(st.lists(UINT32, max_size=3), st.lists(UINT32, min_size=100)),
    st.one_of(st.text(max_size=3), st.text(min_size=50), st.just("é" * 9000)).map(str.encode),
)  # fmt: skip
"""Every combination of fields set and unset, and sizes on both sides of a varint's bounds."""


def delta(plain: Plain) -> pb.Delta:
    token_offset, text_offset, ids, text = plain
    return pb.Delta(
        token_offset=token_offset, text_offset=text_offset, token_ids=ids, text=bytes(text).decode()
    )


@given(PLAINS)
def test_a_stream_response_is_what_the_runtime_reads(plain):
    read = pb.StreamGenerateResponse.FromString(wire.stream_delta(plain))
    assert read == pb.StreamGenerateResponse(delta=delta(plain))


@given(st.lists(st.tuples(st.integers(1, 2**32 - 1), PLAINS), max_size=4))
def test_session_responses_one_after_the_other_are_one(deltas):
    message = bytearray()
    for number, plain in deltas:
        wire.put_session_delta(message, wire.session_head(number, wire.SESSION_DELTA), plain)
    read = pb.SessionResponse.FromString(bytes(message))
    events = [pb.SessionEvent(id=number, delta=delta(plain)) for number, plain in deltas]
    assert read == pb.SessionResponse(events=events)


@given(
    st.lists(st.lists(st.tuples(UINT32, st.text(max_size=4)), max_size=4), max_size=5),
    st.booleans(),
)
def test_a_plain_delta_is_what_the_message_would_say(runs, ended):
    """Two readers of the same log, one of them by the plain way where there is one."""
    log = SequenceLog(0)
    fast, slow = Cursor(), Cursor()
    for number, run in enumerate(runs):
        for token_id, text in run:
            log.append_one(token_id, text.encode())
        if ended and number == len(runs) - 1:
            log.close("rest", End(Finish.LENGTH))
        plain, told = log.plain(fast, 2**20), log.slice(slow, 2**20)
        if plain is None:
            assert told is None or told.end is not None
            log.slice(fast, 2**20)
        else:
            message = pb.Delta()
            to_proto.put_delta(told, message)
            assert pb.StreamGenerateResponse.FromString(wire.stream_delta(plain)).delta == message
        assert (fast.token, fast.text) == (slow.token, slow.text)


TIMES = st.floats(0, 1e6)
NAMES = st.text(max_size=5)
COMPLETIONS = st.builds(
    Completion,
    prompt_tokens=UINT32,
    completion_tokens=UINT32,
    cached_prompt_tokens=st.none() | UINT32,
    time_to_first_token_s=st.none() | TIMES,
    time_per_output_token_s=st.none() | TIMES,
    total_s=TIMES,
    stages=st.lists(st.builds(Stage, NAMES, NAMES, TIMES, TIMES), max_size=3),
    worker=NAMES,
)


@given(COMPLETIONS)
def test_a_completion_is_what_the_runtime_reads(value):
    usage = pb.Usage(prompt_tokens=value.prompt_tokens, completion_tokens=value.completion_tokens)
    if value.cached_prompt_tokens is not None:
        usage.cached_prompt_tokens = value.cached_prompt_tokens
    timings = pb.Timings(total=duration(value.total_s), worker=value.worker)
    if value.time_to_first_token_s is not None:
        timings.time_to_first_token.CopyFrom(duration(value.time_to_first_token_s))
    if value.time_per_output_token_s is not None:
        timings.time_per_output_token.CopyFrom(duration(value.time_per_output_token_s))
    for stage in value.stages:
        timings.stages.add(
            service=stage.service,
            name=stage.name,
            start=duration(stage.start_s),
            duration=duration(stage.duration_s),
        )
    read = pb.StreamGenerateResponse.FromString(
        wire.stream_event(wire.STREAM_COMPLETED, wire.completed(value))
    )
    assert read.completed == pb.Completed(usage=usage, timings=timings)


@given(NAMES, UINT32, NAMES)
def test_an_acceptance_is_what_the_runtime_reads(request_id, prompt_tokens, trace_id):
    read = pb.Accepted.FromString(wire.accepted(request_id, prompt_tokens, trace_id))
    assert read == pb.Accepted(
        request_id=request_id, prompt_token_count=prompt_tokens, trace_id=trace_id
    )


def test_fields_of_large_numbers_are_not_remembered():
    fields, numbers = NumberFields(b"\x08"), (0, 2**14 - 1, 2**14, 2**40)
    assert [fields[n] for n in numbers] == [b"\x08" + varint(n) for n in numbers]
    assert fields.keys() == {0, 2**14 - 1}


def test_what_is_too_large_or_has_an_echo_is_not_plain():
    log, echo = SequenceLog(0), SequenceLog(0, echo=b"prompt")
    log.append_one(1, b"x" * 100)
    echo.append_one(1, b"x")
    assert log.plain(log.start(), 104) is None
    assert log.plain(log.start(), 105) == (0, 0, (1,), b"x" * 100)
    assert echo.plain(echo.start(), 1000) is None
