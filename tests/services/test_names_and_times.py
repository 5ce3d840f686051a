"""What a generation is called and traced by, what its timings tell, and the pace of its deltas."""

from __future__ import annotations

import itertools
import re

import pytest
from tokenwire.frontend.v1 import generation_pb2

from tests.services.calls import (
    duration,
    endless,
    generation,
    read,
    read_to_first_token,
)
from tests.services.prompts import STORY, chat

# --- names, traces, times ------------------------------------------------------------------------

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def test_the_callers_request_id_comes_back(frontend):
    name = "Az09._:-" * 16
    what = generation(STORY, 2, request_id=name)
    assert frontend.generate(what).request_id == name
    assert frontend.stream(what).accepted.request_id == name
    with frontend.session() as session:
        session.open(7, what)
        assert session.finish(7)[0].accepted.request_id == name


def test_without_one_each_request_gets_an_id(frontend):
    names = {frontend.generate(generation(STORY, 1)).request_id for _ in range(3)}
    names.add(frontend.stream(generation(STORY, 1)).accepted.request_id)
    assert len(names) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", name) for name in names)


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_callers_trace_goes_on(frontend, flags):
    metadata = [("traceparent", TRACEPARENT[:-2] + flags)]
    what = generation(STORY, 2)
    assert frontend.generate(what, metadata=metadata).trace_id == TRACE_ID
    assert frontend.stream(what, metadata=metadata).accepted.trace_id == TRACE_ID
    with frontend.session(metadata=metadata) as session:
        session.open(1, what)
        own = TRACE_ID[::-1]
        context = {"traceparent": f"00-{own}-00f067aa0ba902b7-{flags}"}
        session.open(2, what, trace_context=context)
        without, of_its_own = session.finish(1, 2)
    # A session may live for days, so its generations do not share its trace.
    assert without.accepted.trace_id not in (TRACE_ID, own)
    assert of_its_own.accepted.trace_id == own


@pytest.mark.parametrize("traceparent", [None, "", "nonsense", "00-" + "0" * 32 + "-1-01"])
def test_without_a_trace_each_request_gets_one(frontend, traceparent):
    metadata = [] if traceparent is None else [("traceparent", traceparent)]
    ids = [
        frontend.stream(generation(STORY, 1), metadata=metadata).accepted.trace_id,
        frontend.generate(generation(STORY, 1), metadata=metadata).trace_id,
    ]
    assert ids[0] != ids[1]
    for trace_id in ids:
        assert re.fullmatch("[0-9a-f]{32}", trace_id)
        assert int(trace_id, 16)


def seconds(value) -> float:
    return value.ToNanoseconds() / 1e9


def check_timings(timings: generation_pb2.Timings, frontend_stages: list[str]) -> None:
    stages = list(timings.stages)
    frontend = [stage.name for stage in stages if stage.service == "frontend"]
    # Whether the event loop was behind is the machine's affair.
    assert [name for name in frontend if name != "loop"] == frontend_stages
    assert [stage.name for stage in stages if stage.service == "worker"] == [
        "queue",
        "prefill",
        "decode",
    ]
    assert {stage.service for stage in stages} == {"frontend", "worker"}
    starts = [seconds(stage.start) for stage in stages]
    assert starts == sorted(starts)
    assert starts[0] >= 0
    total = seconds(timings.total)
    for stage, following in itertools.pairwise(stages):
        # One after the other: no stage begins before the one before it has ended.
        assert seconds(stage.start) + seconds(stage.duration) <= seconds(following.start) + 1e-6
    assert seconds(stages[-1].start) + seconds(stages[-1].duration) <= total
    first = seconds(timings.time_to_first_token)
    prefill = stages[-2]
    assert seconds(prefill.start) + seconds(prefill.duration) <= first + 1e-6
    assert 0 < first <= total


def test_timings_tell_the_stages_of_both_hops(frontend):
    by_text = frontend.stream(generation(STORY, 30)).completed.timings
    check_timings(by_text, ["tokenize", "route"])
    check_timings(
        frontend.generate(generation(chat("Hello!"), 30)).timings, ["render", "tokenize", "route"]
    )
    check_timings(frontend.generate(generation([5, 6, 7], 30)).timings, ["route"])
    [worker] = frontend.workers()
    assert by_text.worker == worker.name
    each = seconds(by_text.time_per_output_token)
    assert each > 0
    decode = by_text.stages[-1]
    # Both clocks saw the same 29 gaps, the frontend's with the way of the messages.
    assert each * 29 == pytest.approx(seconds(decode.duration), rel=0.5, abs=0.05)


def test_times_that_do_not_exist_are_unset(frontend):
    one = frontend.stream(generation(STORY, 1)).completed.timings
    assert one.HasField("time_to_first_token")
    assert not one.HasField("time_per_output_token")
    none = frontend.stream(generation(STORY, 5, time_budget=duration(1e-9))).completed
    assert none.usage.completion_tokens == 0
    assert not none.timings.HasField("time_to_first_token")
    assert not none.timings.HasField("time_per_output_token")
    assert none.timings.HasField("total")


# --- the pace of deltas --------------------------------------------------------------------------


def test_max_delay_merges_deltas_into_fewer_messages_of_the_same_text(frontend):
    plain = frontend.stream(generation(STORY, 60))
    held = frontend.stream(generation(STORY, 60), stream={"max_delay": duration(10)})
    assert held.text() == plain.text()
    assert held.ids() == plain.ids()
    # The first token and the end are never held; all between fits into one delay, or into two where
    # the clock comes to a multiple of it meanwhile.
    assert len(held.deltas) <= 3
    assert len(held.deltas[0].token_ids) < 60
    assert len(plain.deltas) > len(held.deltas)


def test_max_delay_holds_no_end_back(frontend):
    """Ten seconds of delay on a call that has five: it ends when the text does."""
    what = generation(STORY, 30)
    held = read(frontend.start(what, timeout=5, stream={"max_delay": duration(10)}))
    assert len(held.ids()) == 30


def test_max_delay_in_a_session_is_each_generations_own(frontend):
    with frontend.session() as session:
        session.open(1, generation(STORY, 60), stream={"max_delay": duration(10)})
        session.open(2, generation(STORY, 60))
        held, plain = session.finish(1, 2)
    assert held.text() == plain.text()
    assert len(held.deltas) <= 3 < len(plain.deltas)


def test_the_first_token_of_each_sequence_is_not_held(frontend):
    call = frontend.start(
        endless(STORY, sequence_count=3, sampling={"temperature": 1.0}),
        stream={"max_delay": duration(10)},
    )
    streamed = read_to_first_token(call)
    while {delta.sequence for delta in streamed.deltas} != {0, 1, 2}:
        streamed.take(next(call))
    call.cancel()
    assert all(len(delta.token_ids) < 50 for delta in streamed.deltas)
