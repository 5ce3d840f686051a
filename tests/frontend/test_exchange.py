"""Frames of one Exchange stream: who hears of them, and how little a bad one harms."""

from __future__ import annotations

import pytest
import structlog
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.log import Finish
from tokenwire_service.errors import Code, ServiceError

from tests.frontend.exchange_here import (
    BAD_FRAMES,
    STOP,
    TRACE_ID,
    Receiver,
    deliver,
    done,
    ending,
    exchange,
    request,
    scored,
    sent,
    started,
)

# --- what is right -------------------------------------------------------------------------------


def test_one_frame_may_bring_all_of_a_generation():
    stream, receiver = exchange(), Receiver()
    handle = stream.submit(request(), receiver)
    deliver(
        stream,
        pb.ExchangeResponse(
            accepted=[handle],
            handles=[handle],
            token_ids=[5],
            endings=[ending(handle, reason=STOP, stop_token_id=2)],
            completions=[done(handle, cached_prompt_tokens=1)],
        ),
    )
    assert receiver.names == ["accepted", "tokens", "ending", "completed"]
    assert receiver.heard[1] == ("tokens", 0, [5], [])
    assert receiver.heard[2] == ("ending", 0, Finish.STOP, 2)
    assert receiver.heard[3][1].cached_prompt_tokens == 1
    assert len(stream) == 0


def test_columns_bring_several_sequences_of_several_generations():
    stream = exchange()
    one, first = started(stream, sequence_count=2)
    two, second = started(stream)
    deliver(
        stream,
        pb.ExchangeResponse(
            handles=[one, two, one],
            sequences=[1, 0, 0],
            counts=[2, 1, 1],
            token_ids=[10, 11, 20, 30],
        ),
    )
    assert first.heard[1:] == [("tokens", 1, [10, 11], []), ("tokens", 0, [30], [])]
    assert second.heard[1:] == [("tokens", 0, [20], [])]


def test_log_probabilities_go_to_those_that_asked():
    stream = exchange()
    one, asked = started(stream, logprobs=True)
    two, silent = started(stream)
    logprobs = [scored(0, 5), scored(1, 6)]
    deliver(stream, pb.ExchangeResponse(handles=[one, two], token_ids=[5, 6], logprobs=logprobs))
    [(_, _, _, [logprob])] = asked.heard[1:]
    assert (logprob.token_id, logprob.logprob) == (5, -1.0)
    assert silent.heard[1:] == [("tokens", 0, [6], [])]


# --- what is wrong, of one generation ------------------------------------------------------------


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_bad_frame_ends_the_generation_that_it_names_and_no_other(frame, lines):
    stream = exchange()
    handle, bad = started(stream)
    other, good = started(stream)
    assert handle == 1
    frames = [{key: value for key, value in frame.items() if key != "then"}]
    frames += [frame["then"]] if "then" in frame else []
    for each in frames:
        deliver(stream, pb.ExchangeResponse(**each))
    [error] = bad.errors
    assert (error.code, error.reason) == (Code.INTERNAL, "WORKER_PROTOCOL")
    assert TRACE_ID in error.message
    assert [line["trace_id"] for line in lines if line.get("handle") == 1] == [TRACE_ID]
    # The worker may go on with it for a while, which reaches nobody.
    deliver(stream, pb.ExchangeResponse(handles=[1, other], token_ids=[5, 6]))
    assert good.heard == [("accepted",), ("tokens", 0, [6], [])]


@pytest.mark.parametrize(
    "frame",
    [
        {"handles": [1], "token_ids": [5]},
        {"handles": [1], "counts": [1], "token_ids": [5]},
        {"endings": [ending(1)]},
        {"completions": [done(1)]},
    ],
)
def test_nothing_comes_before_the_acceptance(frame):
    stream, receiver = exchange(), Receiver()
    stream.submit(request(), receiver)
    deliver(stream, pb.ExchangeResponse(**frame))
    assert [error.reason for error in receiver.errors] == ["WORKER_PROTOCOL"]


@pytest.mark.parametrize(
    "logprobs", [[], [scored(0)], [scored(0, 6)], [scored(0, 5, 5)], [scored(1, 5)], [scored(9)]]
)
def test_log_probabilities_that_are_missing_end_the_generation(logprobs):
    stream = exchange()
    handle, receiver = started(stream, logprobs=True)
    deliver(stream, pb.ExchangeResponse(handles=[handle], token_ids=[5], logprobs=logprobs))
    assert [error.reason for error in receiver.errors] == ["WORKER_PROTOCOL"]


@pytest.mark.parametrize(
    ("each", "told"), [({}, 2), ({"counts": [1]}, 2), ({"counts": [2], "token_ids": [5, 6]}, 1)]
)
@pytest.mark.parametrize("so_far", [[], [3, 4, 5]])
def test_more_tokens_than_were_asked_for_end_the_generation(each, told, so_far):
    stream = exchange()
    stopping = pb.Stopping(max_tokens=len(so_far) + 2)
    handle, receiver = started(stream, stopping=stopping, output_so_far=so_far)
    for _ in range(told + 1):
        deliver(stream, pb.ExchangeResponse(**{"handles": [handle], "token_ids": [5], **each}))
    assert receiver.names == ["accepted", *["tokens"] * told, "failed"]
    [error] = receiver.errors
    assert error.reason == "WORKER_PROTOCOL"
    assert "more tokens than were asked for" in error.message


def test_more_alternatives_than_were_asked_for_end_the_generation():
    stream = exchange()
    handle, receiver = started(stream, logprobs=True, top_logprobs=1)
    for count in (1, 2):
        tokens = scored(0, 5)
        for token_id in range(count):
            tokens.tokens[0].alternatives.add(token_id=token_id, logprob=-2.0)
        deliver(stream, pb.ExchangeResponse(handles=[handle], token_ids=[5], logprobs=[tokens]))
    assert receiver.names == ["accepted", "tokens", "failed"]
    [error] = receiver.errors
    assert "more alternatives to a token than were asked for" in error.message


async def test_what_was_ended_here_is_cancelled_at_the_worker_and_its_handle_kept():
    stream = exchange()
    handle, _ = started(stream)
    deliver(stream, pb.ExchangeResponse(handles=[handle], token_ids=[4096]))
    [message] = await sent(stream)
    assert [cancel.handle for cancel in message.cancels] == [handle]
    assert len(stream) == 1
    deliver(stream, pb.ExchangeResponse(completions=[done(handle)]))
    assert len(stream) == 0


@pytest.mark.parametrize("reason", [0, 9, 2**31 - 1])
def test_an_unknown_reason_is_unspecified_and_one_line(reason, lines):
    stream = exchange()
    receivers = [started(stream) for _ in range(20)]
    for handle, _ in receivers:
        deliver(
            stream,
            pb.ExchangeResponse(
                endings=[ending(handle, reason=reason)], completions=[done(handle)]
            ),
        )
    for _, receiver in receivers:
        assert receiver.heard[1] == ("ending", 0, Finish.UNSPECIFIED, None)
        assert receiver.names[-1] == "completed"
    [line] = [each for each in lines if each["event"] == "worker_protocol"]
    assert (line["fault"], line["value"]) == ("unknown finish reason", reason)


@pytest.mark.parametrize(
    "frame",
    [
        {"accepted": [77]},
        {"handles": [77], "token_ids": [5]},
        {"token_ids": [5]},
        {"handles": [77]},
        {"counts": [1]},
        {"logprobs": [scored(3, 5)]},
        {"endings": [ending(77)]},
        {"completions": [done(77)]},
        {"failures": [pb.Failure(handle=77)]},
    ],
)
def test_what_belongs_to_no_generation_is_one_line(frame, lines):
    stream = exchange()
    _, receiver = started(stream)
    for _ in range(50):
        deliver(stream, pb.ExchangeResponse(**frame))
    assert receiver.names == ["accepted"]
    assert len(lines) <= 1


def test_numbers_that_nobody_can_mean_are_left_out():
    stream = exchange()
    handle, receiver = started(stream)
    never = duration_pb2.Duration(seconds=-(2**62))
    deliver(
        stream,
        pb.ExchangeResponse(
            endings=[ending(handle)],
            completions=[done(handle, queue=never, prefill=never, decode=never)],
        ),
    )
    report = receiver.heard[-1][1]
    assert (report.queue_s, report.prefill_s, report.decode_s) == (None, None, None)


def test_a_failure_is_the_workers_own_word():
    stream = exchange()
    handle, receiver = started(stream)
    status = status_pb2.Status(code=8, message="full")
    forever = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2**60))
    for detail in (error_details_pb2.ErrorInfo(domain="tokenwire", reason="QUEUE_FULL"), forever):
        status.details.add().Pack(detail)
    deliver(stream, pb.ExchangeResponse(failures=[pb.Failure(handle=handle, status=status)]))
    [error] = receiver.errors
    assert (error.code, error.message) == (Code.RESOURCE_EXHAUSTED, "full")
    assert error.reason == "QUEUE_FULL"
    assert error.retry_after_s == 24 * 3600


# --- faults of a receiver ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["inlet", "accepted", "tokens", "ending", "completed"])
def test_an_exception_of_a_receiver_ends_its_own_generation(method, lines):
    stream = exchange()
    broken, good = Receiver(method), Receiver()
    handles = [stream.submit(request(), each) for each in (broken, good)]
    deliver(
        stream,
        pb.ExchangeResponse(
            accepted=handles,
            handles=handles,
            token_ids=[5, 5],
            endings=[ending(each) for each in handles],
            completions=[done(each) for each in handles],
        ),
    )
    assert good.names == ["accepted", "tokens", "ending", "completed"]
    [fault] = [line for line in lines if line["event"] == "generation_fault"]
    assert fault["trace_id"] == TRACE_ID
    [error] = broken.errors
    assert (error.code, error.reason) == (Code.INTERNAL, "INTERNAL_FAULT")
    assert TRACE_ID in error.message


def test_an_exception_in_the_last_word_reaches_nobody(lines):
    stream = exchange()
    receivers = [started(stream, broken)[1] for broken in ("failed", "", "failed")]
    stream.fail_all(lambda: ServiceError(Code.UNAVAILABLE, "WORKER_LOST", "lost"))
    assert [receiver.names[-1] for receiver in receivers] == ["accepted", "failed", "accepted"]
    assert [line["event"] for line in lines] == ["generation_fault"] * 2
    assert len(stream) == 0


# --- anything at all -----------------------------------------------------------------------------

SMALL = st.integers(0, 5)
FRAMES = st.builds(
    pb.ExchangeResponse,
    handles=st.lists(SMALL, max_size=4),
    sequences=st.lists(SMALL, max_size=4),
    counts=st.lists(SMALL, max_size=4),
    token_ids=st.lists(st.sampled_from([5, 6, 1000]), max_size=6),
    logprobs=st.lists(st.builds(scored, SMALL, st.just(5)), max_size=2),
    accepted=st.lists(SMALL, max_size=3),
    prompt_logprobs=st.lists(
        st.builds(
            pb.PromptLogprobs,
            handle=SMALL,
            token_offset=st.integers(0, 2),
            tokens=st.lists(
                st.builds(pb.TokenLogprob, token_id=st.sampled_from([5, 1000])), max_size=3
            ),
        ),
        max_size=2,
    ),
    endings=st.lists(st.builds(ending, SMALL, st.integers(0, 2), SMALL), max_size=3),
    completions=st.lists(st.builds(done, SMALL), max_size=2),
    failures=st.lists(
        st.builds(
            pb.Failure,
            handle=SMALL,
            status=st.builds(status_pb2.Status, code=st.integers(0, 20), message=st.text()),
        ),
        max_size=2,
    ),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(FRAMES, max_size=8))
def test_whatever_comes_each_generation_ends_once_and_nothing_is_raised(frames):
    stream = exchange()
    receivers = [Receiver() for _ in range(4)]
    for place, receiver in enumerate(receivers):
        fields = {"prompt_logprobs": 0} if place in (0, 3) else {}
        asked = request(sequence_count=1 + place % 2, logprobs=place > 1, **fields)
        stream.submit(asked, receiver)
    with structlog.testing.capture_logs():
        for frame in frames:
            deliver(stream, frame)
        stream.fail_all(lambda: ServiceError(Code.UNAVAILABLE, "WORKER_LOST", "lost"))
    for receiver in receivers:
        assert receiver.names[-1] in ("completed", "failed")
        assert {error.reason for error in receiver.errors} != {"INTERNAL_FAULT"}
    assert len(stream) == 0
    assert [stream._inlets, stream._heard, stream._owed] == [{}, {}, {}]
