"""Steps of many generations, merged into the columns of one message."""

from __future__ import annotations

import itertools
import time

import pytest
from google.protobuf import duration_pb2
from hypothesis import given
from hypothesis import strategies as st
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_service.errors import Code, ServiceError
from tokenwire_worker.core.frame import FAILURE_BYTES, Frame
from tokenwire_worker.core.generations import Completion, Ending, Reason
from tokenwire_worker.edge.to_proto import exchange_response, execute_responses
from tokenwire_worker.engines.port import Alternative, PromptLogprobs, TokenLogprob


def entries(message: pb.ExchangeResponse) -> list[tuple[int, int, list[int]]]:
    """Reads a message as a caller does: (handle, sequence, ids) of each entry."""
    sequences = list(message.sequences) or [0] * len(message.handles)
    counts = list(message.counts) or [1] * len(message.handles)
    assert len(sequences) == len(counts) == len(message.handles)
    ids = iter(message.token_ids)
    read = [
        (handle, sequence, [next(ids) for _ in range(count)])
        for handle, sequence, count in zip(message.handles, sequences, counts, strict=True)
    ]
    assert list(ids) == [], "ids beyond the entries"
    return read


def test_one_step_of_many_needs_two_columns():
    frame = Frame()
    for handle in range(32):
        frame.add_tokens(handle, 0, [handle + 100], None)
    message = exchange_response(frame)
    assert list(message.sequences) == []
    assert list(message.counts) == []
    assert entries(message) == [(handle, 0, [handle + 100]) for handle in range(32)]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1),
            st.integers(0, 3),
            st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5),
        )
    ),
    st.data(),
)
def test_a_frame_carries_each_entry_in_order(steps, data):
    frame = Frame()
    single = data.draw(st.integers(0, len(steps)), "entries that do not come in columns")
    for handle, sequence, ids in steps[:single]:
        frame.add_tokens(handle, sequence, list(ids), None)
    if columns := steps[single:]:
        handles, sequences, ids = (list(column) for column in zip(*columns, strict=True))
        counts = [len(each) for each in ids]
        frame.add_columns(handles, sequences, counts, list(itertools.chain(*ids)))
    assert frame.dirty == bool(steps)
    assert entries(exchange_response(frame)) == steps


def test_logprobs_point_at_their_entries():
    frame = Frame()
    frame.add_tokens(1, 0, [5], None)
    alternatives = (Alternative(6, -1.0), Alternative(7, -2.0))
    logprobs = [TokenLogprob(6, -0.5, alternatives), TokenLogprob(8, -3.0)]
    frame.add_tokens(2, 0, [6, 8], logprobs)
    message = exchange_response(frame)
    (entry,) = message.logprobs
    assert entry.entry == 1
    assert [token.token_id for token in entry.tokens] == [6, 8]
    assert [other.token_id for other in entry.tokens[0].alternatives] == [6, 7]
    assert list(message.counts) == [1, 2]


def test_ends_and_failures_go_with_their_tokens():
    frame = Frame()
    frame.add_accepted(4)
    frame.add_tokens(3, 1, [9], None)
    frame.add_ending(3, 1, Ending(Reason.STOP, 9))
    frame.add_ending(3, 0, Ending(Reason.TIME_BUDGET))
    frame.add_completion(3, Completion(7, 2, None, 0.5, 1.25, None))
    frame.add_failure(5, ServiceError(Code.UNAVAILABLE, "DRAINING", "bye", retry_after_s=2))
    message = exchange_response(frame)
    assert list(message.accepted) == [4]
    assert [(each.handle, each.sequence) for each in message.endings] == [(3, 1), (3, 0)]
    assert message.endings[0].ending.stop_token_id == 9
    assert not message.endings[1].ending.HasField("stop_token_id")
    assert message.endings[1].ending.reason == pb.FINISH_REASON_TIME_BUDGET
    completed = message.completions[0].completed
    assert (completed.prompt_tokens, completed.completion_tokens) == (7, 2)
    assert completed.queue == duration_pb2.Duration(nanos=500_000_000)
    assert completed.prefill == duration_pb2.Duration(seconds=1, nanos=250_000_000)
    assert not completed.HasField("decode")
    assert not completed.HasField("cached_prompt_tokens")
    assert message.failures[0].status.code == 14


def test_execute_gets_one_message_for_each_sequence_with_news():
    frame = Frame()
    for step in range(3):
        for sequence in (1, 0):
            frame.add_tokens(0, sequence, [step * 10 + sequence], [TokenLogprob(step, -1.0)])
    frame.add_ending(0, 1, Ending(Reason.LENGTH))
    frame.add_ending(0, 2, Ending(Reason.CANCELLED))
    frame.add_completion(0, Completion(1, 6, 4, 0.0, 0.0, 0.0))
    first, second, third, last = execute_responses(frame)
    assert (first.tokens.sequence, list(first.tokens.token_ids)) == (1, [1, 11, 21])
    assert first.tokens.ending.reason == pb.FINISH_REASON_LENGTH
    assert (second.tokens.sequence, list(second.tokens.token_ids)) == (0, [0, 10, 20])
    assert len(second.tokens.logprobs) == 3
    assert not second.tokens.HasField("ending")
    assert third.tokens.sequence == 2
    assert list(third.tokens.token_ids) == []
    assert last.completed.cached_prompt_tokens == 4


ITEMS = st.one_of(
    st.tuples(st.just("accepted"), st.integers(0, 9)),
    st.tuples(
        st.just("tokens"),
        st.integers(0, 9),
        st.integers(0, 2),
        st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9),
        st.booleans(),
    ),
    st.tuples(st.just("prompt"), st.integers(0, 9), st.integers(1, 30), st.integers(0, 20)),
    st.tuples(st.just("ending"), st.integers(0, 9), st.integers(0, 2)),
    st.tuples(st.just("completion"), st.integers(0, 9)),
    st.tuples(st.just("failure"), st.integers(0, 9)),
)
"""What may be added to a frame."""


def scored(tokens: int, alternatives: int) -> PromptLogprobs:
    found = PromptLogprobs(alternatives)
    found.add([2**32 - 1], [0.0])
    for number in range(1, tokens):
        found.add([number] * (1 + alternatives), [-1.0] * (1 + alternatives))
    return found


def filled(items) -> Frame:
    frame = Frame()
    for what, handle, *rest in items:
        if what == "accepted":
            frame.add_accepted(handle)
        elif what == "tokens":
            sequence, ids, told = rest
            frame.add_tokens(
                handle,
                sequence,
                list(ids),
                [TokenLogprob(each, -1.0) for each in ids] if told else None,
            )
        elif what == "prompt":
            prompt = scored(rest[0], rest[1])
            frame.add_prompt_logprobs(handle, prompt, 0, len(prompt))
        elif what == "ending":
            frame.add_ending(handle, rest[0], Ending(Reason.LENGTH))
        elif what == "completion":
            frame.add_completion(handle, Completion(1, 1, None, 0.0, None, None))
        else:
            frame.add_failure(handle, ServiceError(Code.UNAVAILABLE, "DRAINING", "bye"))
    return frame


def read(messages: list[pb.ExchangeResponse]) -> list[object]:
    """Reads messages as a caller does, one after the other: all that they say, in order."""
    said: list[object] = []
    for message in messages:
        said += [("accepted", handle) for handle in message.accepted]
        for told in message.prompt_logprobs:
            said += [
                ("prompt", told.handle, place, each.token_id, len(each.alternatives))
                for place, each in enumerate(told.tokens, told.token_offset)
            ]
        logprobs = {each.entry: [one.token_id for one in each.tokens] for each in message.logprobs}
        for entry, (handle, sequence, ids) in enumerate(entries(message)):
            said += [("id", handle, sequence, each) for each in ids]
            assert logprobs.get(entry, ids) == ids
        said += [("ending", each.handle, each.sequence) for each in message.endings]
        said += [("completed", each.handle) for each in message.completions]
        said += [("failed", each.handle) for each in message.failures]
    return said


@given(st.lists(ITEMS, max_size=30), st.integers(1, 400))
def test_parts_say_the_same_in_the_same_order(items, most_bytes):
    frame = filled(items)
    parts = list(frame.parts(most_bytes)) if frame.dirty else []
    whole = [exchange_response(frame)] if frame.dirty else []
    assert read([exchange_response(part) for part in parts]) == read(whole)
    for part in parts:
        message = exchange_response(part)
        assert message.ByteSize() <= part.size_bytes
        assert len(parts) == 1 or part.size_bytes < most_bytes + FAILURE_BYTES


def test_an_entry_of_very_many_ids_is_divided():
    frame = Frame()
    frame.add_tokens(1, 0, list(range(500_000)), None)
    messages = [exchange_response(part) for part in frame.parts(2**16)]
    assert max(message.ByteSize() for message in messages) < 2**17
    assert [each for message in messages for each in message.token_ids] == list(range(500_000))


@pytest.mark.parametrize("first", [0, 20])
def test_an_entry_of_many_alternatives_is_divided_by_its_size(first):
    """The first token's alternatives say nothing of those of the others."""
    ids = list(range(1000))
    others = tuple(Alternative(2**32 - 1, -2.0) for _ in range(20))
    logprobs = [TokenLogprob(each, -1.0, others) for each in ids]
    logprobs[0] = TokenLogprob(0, -1.0, others[:first])
    frame = Frame()
    frame.add_tokens(1, 0, ids, logprobs)
    messages = [exchange_response(part) for part in frame.parts(2**16)]
    assert max(message.ByteSize() for message in messages) < 2**17
    assert read(messages) == read([exchange_response(frame)])


def test_what_each_handle_has_is_told_apart():
    frame = filled(
        [
            ("accepted", 1),
            ("tokens", 1, 0, [5], False),
            ("tokens", 2, 0, [6], False),
            ("failure", 2),
        ]
    )
    apart = {handle: read([exchange_response(own)]) for handle, own in frame.of_each_handle()}
    assert apart == {
        1: [("accepted", 1), ("id", 1, 0, 5)],
        2: [("id", 2, 0, 6), ("failed", 2)],
    }


def test_a_thousand_steps_merge_in_linear_time():
    frame = Frame()
    started = time.process_time()
    for step in range(1000):
        for handle in range(32):
            frame.add_tokens(handle, 0, [step], None)
    message = exchange_response(frame)
    assert len(message.token_ids) == 32_000
    assert time.process_time() - started < 5, "about 0.05 s where nothing else runs"
