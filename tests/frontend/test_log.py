"""The log of a sequence: readers with cursors of their own, deltas of a bounded size."""

from __future__ import annotations

import time
from copy import copy
from dataclasses import dataclass, field
from operator import attrgetter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire.frontend.v1 import generation_pb2 as pb
from tokenwire_frontend.core.fast_path import Cursor
from tokenwire_frontend.core.log import (
    Delta,
    End,
    Finish,
    SequenceLog,
)
from tokenwire_frontend.core.logprobs import TokenLogprob

LEAST_BYTES = 8 * 1024
MIB = 1 << 20
LENGTH = End(Finish.LENGTH)


class TokenBytes(dict):
    """Tokens of no bytes, of some, and of thousands, by their ids."""

    def __missing__(self, token_id: int) -> bytes:
        return b"x" * (token_id % 8 if token_id < 2**31 else token_id % 64)


def wire_bytes(delta: Delta) -> int:
    """The size of a session's message that carries the delta alone."""
    message = pb.Delta(
        sequence=delta.sequence,
        token_offset=delta.token_offset,
        text_offset=delta.text_offset,
        token_ids=delta.token_ids,
        text=delta.text,
        logprobs=[
            pb.TokenLogprob(
                token_id=each.token_id,
                logprob=each.logprob,
                token=delta.token_bytes[each.token_id],
                alternatives=[
                    pb.Alternative(
                        token_id=token_id, logprob=logprob, token=delta.token_bytes[token_id]
                    )
                    for token_id, logprob in each.alternatives
                ],
            )
            for each in delta.logprobs
        ],
    )
    if delta.end is not None:
        message.end.reason = pb.FINISH_REASON_STOP
        if delta.end.stop is not None:
            message.end.stop = delta.end.stop
        elif delta.end.stop_token_id is not None:
            message.end.stop_token_id = delta.end.stop_token_id
    event = pb.SessionEvent(id=2**32 - 1, delta=message)
    return pb.SessionResponse(events=[event]).ByteSize()


@dataclass
class Reader:
    """Puts deltas together again, and checks each."""

    log: SequenceLog
    max_bytes: int
    echo_bytes: int
    cursor: Cursor = None
    ids: list[int] = field(default_factory=list)
    raw: bytes = b""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: End | None = None

    def __post_init__(self) -> None:
        self.cursor = self.log.start()

    def read(self) -> bool:
        delta = self.log.slice(self.cursor, self.max_bytes)
        if delta is None:
            return False
        assert self.end is None, "nothing comes after the end"
        assert wire_bytes(delta) <= delta.wire_bytes
        assert delta.wire_bytes <= self.max_bytes or len(delta.token_ids) == 1
        assert delta.partial == (self.log.slice(copy(self.cursor), MIB) is not None)
        assert delta.token_offset == len(self.ids)
        assert delta.text_offset == max(len(self.raw) - self.echo_bytes, 0)
        assert len(delta.token_ids) or delta.text or delta.end
        self.ids += delta.token_ids
        self.raw += delta.text.encode()
        self.logprobs += delta.logprobs
        self.end = delta.end
        own = len(self.raw) - self.echo_bytes
        # All text that is certain after the last id, but where one id's text is too large.
        if len(delta.text) * 4 < self.max_bytes - LEAST_BYTES:
            assert own >= self.log.cut[len(self.ids)]
        assert self.end is not None or own <= max(self.log.cut[-1], 0) or self.log.end is not None
        return True


PIECE = st.tuples(
    st.sampled_from(["", "a", "é", "漢", "😀", "a😀漢é"]), st.sampled_from([1, 3, 100, 9_000])
).map(lambda part: part[0] * part[1])
LOGPROB = st.builds(
    TokenLogprob,
    st.integers(0, 2**32 - 1),
    st.floats(-20, 0, width=32),
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(-20, 0, width=32)), max_size=20).map(
        tuple
    ),
)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 600), PIECE),
        st.tuples(st.just("append"), st.just(1), PIECE),
        st.tuples(st.sampled_from(["first", "second", "trim"])),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    actions=ACTIONS,
    echo=PIECE,
    tail=PIECE,
    sample=st.one_of(st.none(), LOGPROB),
    sizes=st.tuples(*[st.sampled_from([LEAST_BYTES, 10_000, 70_000, MIB])] * 2),
    end=st.sampled_from([LENGTH, End(Finish.STOP, stop="😀" * 1024), End(Finish.STOP, None, 7)]),
)
def test_every_reader_gets_everything_once_in_bounded_deltas(
    actions, echo, tail, sample, sizes, end
):
    log = SequenceLog(3, echo=echo.encode(), token_bytes=TokenBytes())
    first, second = (Reader(log, size, len(echo.encode())) for size in sizes)
    ids, text, logprobs = [], echo, []
    for action in actions:
        if action[0] == "append":
            new = [(len(ids) + number) * 7919 % 2**32 for number in range(action[1])]
            values = [sample] * len(new) if sample is not None else []
            log.append(new, action[2], values)
            ids, text, logprobs = ids + new, text + action[2], logprobs + values
        elif action[0] == "trim":
            log.trim(min(first.cursor, second.cursor, key=attrgetter("token", "text")))
        else:
            (first if action[0] == "first" else second).read()
    log.close(tail, end)
    for reader in (first, second):
        steps = 0
        while reader.read():
            steps += 1
            log.trim(min(first.cursor, second.cursor, key=attrgetter("token", "text")))
        assert steps <= 4 + (len(text + tail) * 4 + len(ids) * 2_000) * 2 // (
            reader.max_bytes - 5000
        )
        assert reader.ids == ids
        assert reader.raw.decode() == text + tail
        assert reader.logprobs == logprobs
        assert reader.end == end
        assert log.slice(reader.cursor, MIB) is None


def test_the_longest_tokens_are_counted_and_come_one_by_one_where_none_fits():
    log = SequenceLog(0, token_bytes=dict.fromkeys(range(30), b"x" * 700))
    value = TokenLogprob(5, -0.5, tuple((each, -1.5) for each in range(20)))
    log.append([5] * 40, "word " * 40, [value] * 40)
    log.close("", LENGTH)
    for max_bytes, tokens in ((LEAST_BYTES, 1), (100_000, 6)):
        reader = Reader(log, max_bytes, 0)
        assert reader.read()
        assert len(reader.ids) == tokens
        while reader.read():
            pass
        assert reader.logprobs == [value] * 40


def test_a_late_reader_gets_few_full_messages():
    """8,000 tokens with five alternatives each are some messages of nearly a mebibyte."""
    log = SequenceLog(0)
    value = TokenLogprob(300, -0.5, tuple((300 + each, -1.5) for each in range(5)))
    for _ in range(16):
        log.append([300] * 500, "word " * 500, [value] * 500)
    log.close("", LENGTH)
    cursor, sizes = log.start(), []
    while (delta := log.slice(cursor, MIB)) is not None:
        sizes.append(wire_bytes(delta))
    assert sum(sizes) > 500_000
    assert len(sizes) <= 2


def test_a_delta_ends_between_ids_with_the_text_that_is_certain_there():
    log = SequenceLog(0)
    for number in range(3000):
        log.append([number], "" if number % 3 else "x" * 9)
    cursor = log.start()
    while (delta := log.slice(cursor, LEAST_BYTES)) is not None:
        assert delta.text_offset == 9 * -(-delta.token_offset // 3)
        taken = delta.token_offset + len(delta.token_ids)
        assert delta.text_offset + len(delta.text) == 9 * -(-taken // 3)
        assert not delta.logprobs


def test_what_was_held_back_comes_with_the_end():
    log = SequenceLog(0)
    log.append([1], "a")
    cursor = log.start()
    assert log.slice(cursor, LEAST_BYTES).text == "a"
    log.append([2], "")
    log.close("b\ufffd", LENGTH)
    delta = log.slice(cursor, LEAST_BYTES)
    assert (list(delta.token_ids), delta.text, delta.text_offset) == ([2], "b\ufffd", 1)
    assert delta.end == LENGTH
    assert log.slice(cursor, LEAST_BYTES) is None


def test_an_echoed_prompt_of_megabytes_comes_in_pieces_and_counts_for_nothing():
    echo = "漢a😀" * 500_000
    log = SequenceLog(0, echo=echo.encode())
    log.append([5], "own")
    reader = Reader(log, MIB, len(echo.encode()))
    count = 0
    while reader.read():
        log.trim(reader.cursor)
        count += 1
    assert count == 4
    assert reader.raw.decode() == echo + "own"
    assert log.bytes_held < 5_000


def test_trimmed_text_and_log_probabilities_are_given_back_and_ids_stay():
    log = SequenceLog(0)
    value = TokenLogprob(1, -1.0, ((1, -1.0),) * 20)
    ids = list(range(5_000))
    log.append(ids, "x" * 100_000, [value] * 5_000)
    before, cursor = log.bytes_held, log.start()
    while log.slice(cursor, MIB) is not None:
        log.trim(cursor)
    assert before > 100_000 + 5_000 * 20 * 8
    assert log.bytes_held <= 8 * 5_000
    assert list(log.ids) == ids
    late = log.start()
    assert (late.token, late.text) == (5_000, 100_000)
    log.append([7], "more")
    assert log.slice(late, MIB).text == "more"


@pytest.mark.parametrize("with_logprobs", [False, True])
def test_a_delta_costs_what_is_new_however_long_the_sequence_is(with_logprobs):
    def seconds(length: int) -> float:
        log = SequenceLog(0)
        value = [TokenLogprob(1, -1.0)] if with_logprobs else []
        log.append([1] * length, "word" * length, value * length)
        cursor, best = log.start(), 1.0
        while log.slice(cursor, MIB) is not None:
            pass
        for _ in range(30):
            start_s = time.thread_time()
            for _ in range(30):
                log.append([1], "word", value)
                assert len(log.slice(cursor, MIB).token_ids) == 1
            best = min(best, time.thread_time() - start_s)
        return best

    # A hundred times the length; a cost that grew with it would show far more.
    assert seconds(100_000) < 8 * seconds(1_000)


def test_taking_a_long_log_in_small_deltas_costs_in_proportion_to_it():
    def seconds(length: int) -> float:
        log = SequenceLog(0)
        for _ in range(length):
            log.append([1], "word" * 4)
        cursor, start_s = log.start(), time.thread_time()
        while log.slice(cursor, LEAST_BYTES) is not None:
            log.trim(cursor)
        return time.thread_time() - start_s

    short = min(seconds(10_000) for _ in range(5))
    assert min(seconds(80_000) for _ in range(3)) < 8 * 4 * short


def test_log_probabilities_of_some_ids_only_are_a_fault():
    """A worker that sends them so is at fault; what it sent before can still be read."""
    value = TokenLogprob(1, -1.0)
    log = SequenceLog(0)
    log.append([1, 2], "a", [value, value])
    log.append([3], "b")
    with pytest.raises(ValueError, match="for some ids and not for others"):
        log.append([4], "c", [value])
    cursor = log.start()
    assert log.slice(cursor, MIB).logprobs[:2] == [value, value]
    log.trim(cursor)
    assert log.slice(cursor, MIB) is None
