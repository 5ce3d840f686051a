"""Frames of one Exchange stream: who hears of them, and how little a bad one harms."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire.channel_arguments import REQUEST_BYTES
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.call_order import HANDLES, Handles
from tokenwire_frontend.core.link_state import AwakeClock, LinkState
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.model import ModelLimits
from tokenwire_frontend.workers import outgoing
from tokenwire_frontend.workers.exchange import Exchange
from tokenwire_frontend.workers.messages import WorkerInfo
from tokenwire_frontend.workers.outgoing import Outgoing
from tokenwire_service.errors import Code, ServiceError

from tests.frontend.frontend_here import frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker
from tests.services.calls import generation, refusal_of

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

LENGTH, STOP = pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_STOP


class Receiver:
    """Writes down what it hears; `broken` names a method that raises."""

    def __init__(self, broken: str = "") -> None:
        self.heard: list[tuple[Any, ...]] = []
        self._broken = broken

    @property
    def errors(self) -> list[ServiceError]:
        return [event[1] for event in self.heard if event[0] == "failed"]

    @property
    def names(self) -> list[str]:
        return [event[0] for event in self.heard]

    def _hear(self, name: str, *what: Any) -> None:
        assert not {"completed", "failed"} & set(self.names), f"{name} after the end"
        if name == self._broken:
            raise LookupError("a fault of the receiver")
        self.heard.append((name, *what))

    def on_accepted(self) -> None:
        self._hear("accepted")

    def on_tokens(self, sequence: int, token_ids: Any, logprobs: Any = ()) -> None:
        self._hear("tokens", sequence, list(token_ids), list(logprobs))

    def on_ending(self, sequence: int, finish: Finish, stop_token_id: int | None) -> None:
        self._hear("ending", sequence, finish, stop_token_id)

    def on_completed(self, report: Any) -> None:
        self._hear("completed", report)

    def on_failed(self, error: ServiceError) -> None:
        self._hear("failed", error)


def exchange(revision: int = 2, last_handle: int = 0) -> Exchange:
    limits = ModelLimits(4096, 4095, 1000, 32, 20, (2,), frozenset(), ())
    info = WorkerInfo("w", "demo", "scripted 0", revision, "", 64, 64, limits)
    commands = Outgoing("127.0.0.1:1", revision, REQUEST_BYTES)
    return Exchange("127.0.0.1:1", info, commands, Handles(last_handle), AwakeClock())


def request(**fields: Any) -> pb.Request:
    trace = pb.TraceContext(traceparent=f"00-{TRACE_ID}-b7ad6b7169203331-01")
    return pb.Request(**{"prompt_token_ids": [7, 8], "trace_context": trace, **fields})


def started(stream: Exchange, broken: str = "", **fields: Any) -> tuple[int, Receiver]:
    """Returns a generation that the worker has accepted."""
    receiver = Receiver(broken)
    handle = stream.submit(request(**fields), receiver)
    stream.deliver(pb.ExchangeResponse(accepted=[handle]))
    return handle, receiver


def ending(handle: int, sequence: int = 0, reason: int = LENGTH, **how: Any) -> pb.SequenceEnding:
    return pb.SequenceEnding(
        handle=handle, sequence=sequence, ending=pb.Ending(reason=reason, **how)
    )


def done(handle: int, **counted: Any) -> pb.GenerationEnd:
    return pb.GenerationEnd(handle=handle, completed=pb.Completed(**counted))


def scored(entry: int, *ids: int) -> pb.EntryLogprobs:
    tokens = [pb.TokenLogprob(token_id=each, logprob=-1.0) for each in ids]
    return pb.EntryLogprobs(entry=entry, tokens=tokens)


async def sent(stream: Exchange) -> list[pb.ExchangeRequest]:
    """Returns the messages that wait to be sent."""
    found = []
    commands = stream.commands()
    while stream._outgoing._waiting:
        found.append(pb.ExchangeRequest.FromString(await anext(commands)))
    await commands.aclose()
    return found


@pytest.fixture
def lines():
    """The log lines of the test."""
    with structlog.testing.capture_logs() as captured:
        yield captured


# --- what is right -------------------------------------------------------------------------------


def test_one_frame_may_bring_all_of_a_generation():
    stream, receiver = exchange(), Receiver()
    handle = stream.submit(request(), receiver)
    stream.deliver(
        pb.ExchangeResponse(
            accepted=[handle],
            handles=[handle],
            token_ids=[5],
            endings=[ending(handle, reason=STOP, stop_token_id=2)],
            completions=[done(handle, cached_prompt_tokens=1)],
        )
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
    stream.deliver(
        pb.ExchangeResponse(
            handles=[one, two, one],
            sequences=[1, 0, 0],
            counts=[2, 1, 1],
            token_ids=[10, 11, 20, 30],
        )
    )
    assert first.heard[1:] == [("tokens", 1, [10, 11], []), ("tokens", 0, [30], [])]
    assert second.heard[1:] == [("tokens", 0, [20], [])]


def test_log_probabilities_go_to_those_that_asked():
    stream = exchange()
    one, asked = started(stream, logprobs=True)
    two, silent = started(stream)
    logprobs = [scored(0, 5), scored(1, 6)]
    stream.deliver(pb.ExchangeResponse(handles=[one, two], token_ids=[5, 6], logprobs=logprobs))
    [(_, _, _, [logprob])] = asked.heard[1:]
    assert (logprob.token_id, logprob.logprob) == (5, -1.0)
    assert silent.heard[1:] == [("tokens", 0, [6], [])]


# --- what is wrong, of one generation ------------------------------------------------------------

BAD_FRAMES: dict[str, dict[str, Any]] = {
    "accepted twice": {"accepted": [1]},
    "a sequence that was not asked for": {"handles": [1], "sequences": [3], "token_ids": [5]},
    "an id outside the vocabulary": {"handles": [1], "token_ids": [4096]},
    "an id outside, in columns": {"handles": [1], "counts": [2], "token_ids": [5, 2**32 - 1]},
    "an entry without tokens": {"handles": [1], "counts": [0]},
    "more counts than handles": {"handles": [1], "counts": [1, 1], "token_ids": [5, 5]},
    "more handles than tokens": {"handles": [1, 1], "token_ids": [5]},
    "more tokens than handles": {"handles": [1], "token_ids": [5, 6]},
    "counts that are not those of the ids": {"handles": [1], "counts": [9], "token_ids": [5]},
    "more sequences than handles": {"handles": [1], "sequences": [0, 1], "token_ids": [5]},
    "the end of a sequence that was not asked for": {"endings": [ending(1, 3)]},
    "two ends of a sequence": {"endings": [ending(1), ending(1)]},
    "tokens after the end": {"endings": [ending(1)], "then": {"handles": [1], "token_ids": [5]}},
    "a stop token outside the vocabulary": {"endings": [ending(1, 0, STOP, stop_token_id=9999)]},
    "complete with an open sequence": {"completions": [done(1)]},
    "a failure without a code": {"failures": [pb.Failure(handle=1)]},
    "a failure with a code of nobody's": {
        "failures": [pb.Failure(handle=1, status=status_pb2.Status(code=99))]
    },
    "a failure with details that can't be parsed": {
        "failures": [
            pb.Failure(
                handle=1,
                status=status_pb2.Status(
                    code=8,
                    details=[
                        any_pb2.Any(
                            type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff"
                        )
                    ],
                ),
            )
        ]
    },
}
"""Frames about an accepted generation of handle 1; `then` is a second frame."""


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_bad_frame_ends_the_generation_that_it_names_and_no_other(frame, lines):
    stream = exchange()
    handle, bad = started(stream)
    other, good = started(stream)
    assert handle == 1
    frames = [{key: value for key, value in frame.items() if key != "then"}]
    frames += [frame["then"]] if "then" in frame else []
    for each in frames:
        stream.deliver(pb.ExchangeResponse(**each))
    [error] = bad.errors
    assert (error.code, error.reason) == (Code.INTERNAL, "WORKER_PROTOCOL")
    assert TRACE_ID in error.message
    assert [line["trace_id"] for line in lines if line.get("handle") == 1] == [TRACE_ID]
    # The worker may go on with it for a while, which reaches nobody.
    stream.deliver(pb.ExchangeResponse(handles=[1, other], token_ids=[5, 6]))
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
    stream.deliver(pb.ExchangeResponse(**frame))
    assert [error.reason for error in receiver.errors] == ["WORKER_PROTOCOL"]


@pytest.mark.parametrize(
    "logprobs", [[], [scored(0)], [scored(0, 6)], [scored(0, 5, 5)], [scored(1, 5)], [scored(9)]]
)
def test_log_probabilities_that_are_missing_end_the_generation(logprobs):
    stream = exchange()
    handle, receiver = started(stream, logprobs=True)
    stream.deliver(pb.ExchangeResponse(handles=[handle], token_ids=[5], logprobs=logprobs))
    assert [error.reason for error in receiver.errors] == ["WORKER_PROTOCOL"]


async def test_what_was_ended_here_is_cancelled_at_the_worker_and_its_handle_kept():
    stream = exchange()
    handle, _ = started(stream)
    stream.deliver(pb.ExchangeResponse(handles=[handle], token_ids=[4096]))
    [message] = await sent(stream)
    assert [cancel.handle for cancel in message.cancels] == [handle]
    assert len(stream) == 1
    stream.deliver(pb.ExchangeResponse(completions=[done(handle)]))
    assert len(stream) == 0


@pytest.mark.parametrize("reason", [0, 9, 2**31 - 1])
def test_an_unknown_reason_is_unspecified_and_one_line(reason, lines):
    stream = exchange()
    receivers = [started(stream) for _ in range(20)]
    for handle, _ in receivers:
        stream.deliver(
            pb.ExchangeResponse(endings=[ending(handle, reason=reason)], completions=[done(handle)])
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
        stream.deliver(pb.ExchangeResponse(**frame))
    assert receiver.names == ["accepted"]
    assert len(lines) <= 1


def test_numbers_that_nobody_can_mean_are_left_out():
    stream = exchange()
    handle, receiver = started(stream)
    never = duration_pb2.Duration(seconds=-(2**62))
    stream.deliver(
        pb.ExchangeResponse(
            endings=[ending(handle)],
            completions=[done(handle, queue=never, prefill=never, decode=never)],
        )
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
    stream.deliver(pb.ExchangeResponse(failures=[pb.Failure(handle=handle, status=status)]))
    [error] = receiver.errors
    assert (error.code, error.message) == (Code.RESOURCE_EXHAUSTED, "full")
    assert error.reason == "QUEUE_FULL"
    assert error.retry_after_s == 24 * 3600


# --- faults of a receiver ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["accepted", "tokens", "ending", "completed"])
def test_an_exception_of_a_receiver_ends_its_own_generation(method, lines):
    stream = exchange()
    broken, good = Receiver(method), Receiver()
    handles = [stream.submit(request(), each) for each in (broken, good)]
    stream.deliver(
        pb.ExchangeResponse(
            accepted=handles,
            handles=handles,
            token_ids=[5, 5],
            endings=[ending(each) for each in handles],
            completions=[done(each) for each in handles],
        )
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


# --- commands ------------------------------------------------------------------------------------


async def test_what_waits_goes_in_one_message():
    stream = exchange()
    handles = [stream.submit(request(), Receiver()) for _ in range(5)]
    stream.cancel(handles[0])
    stream.cancel(handles[1], 0)
    [message] = await sent(stream)
    assert [submit.handle for submit in message.submits] == handles
    assert [(each.handle, list(each.sequences)) for each in message.cancels] == [
        (handles[0], []),
        (handles[1], [0]),
    ]
    assert message.WhichOneof("command") is None


async def test_a_worker_of_revision_1_gets_one_command_a_message():
    stream = exchange(revision=1)
    handle = stream.submit(request(), Receiver())
    stream.cancel(handle)
    first, second = await sent(stream)
    assert first.submit.handle == second.cancel.handle == handle
    assert [len(first.submits), len(second.cancels)] == [0, 0]


async def test_messages_stay_within_what_a_worker_reads():
    stream = exchange()
    third = request(prompt_token_ids=[300] * (REQUEST_BYTES // 6))
    for _ in range(4):
        stream.submit(third, Receiver())
    messages = await sent(stream)
    assert [len(message.submits) for message in messages] == [2, 2]
    assert all(message.ByteSize() <= REQUEST_BYTES for message in messages)


async def test_a_request_that_is_too_large_is_refused_by_name():
    stream = exchange()
    with pytest.raises(ServiceError) as refusal:
        stream.submit(request(prompt_token_ids=[300] * (REQUEST_BYTES // 2)), Receiver())
    assert refusal.value.reason == "REQUEST_TOO_LARGE"
    assert [each.field for each in refusal.value.violations] == ["prompt"]
    assert len(stream) == 0
    assert await sent(stream) == []


async def test_a_worker_that_does_not_read_gets_no_more(monkeypatch):
    monkeypatch.setattr(outgoing, "WAITING_BYTES", 10_000)
    stream = exchange()
    large = request(prompt_token_ids=[300] * 3000)
    stream.submit(large, Receiver())
    with pytest.raises(ServiceError) as refusal:
        stream.submit(large, Receiver())
    assert refusal.value.reason == "WORKER_BEHIND"
    await sent(stream)
    stream.submit(request(), Receiver())


async def test_a_cancel_is_sent_once():
    stream = exchange()
    handle, _ = started(stream, sequence_count=2)
    for _ in range(9):
        stream.cancel(handle, 1)
    for _ in range(9):
        stream.cancel(handle)
    stream.cancel(handle, 0)
    stream.cancel(77)
    cancels = [each for message in await sent(stream) for each in message.cancels]
    assert [list(each.sequences) for each in cancels] == [[1], []]


async def test_who_is_detached_hears_nothing_more():
    stream = exchange()
    handle, receiver = started(stream)
    stream.detach(handle)
    stream.deliver(
        pb.ExchangeResponse(
            handles=[handle],
            token_ids=[5],
            endings=[ending(handle)],
            completions=[done(handle)],
        )
    )
    assert receiver.names == ["accepted"]
    assert len(stream) == 0


def test_handles_of_live_generations_are_not_given_again():
    stream = exchange(last_handle=HANDLES - 1)
    receivers = [Receiver() for _ in range(3)]
    handles = [stream.submit(request(), each) for each in receivers]
    assert handles == [HANDLES, 1, 2]
    stream.deliver(pb.ExchangeResponse(accepted=handles, handles=[HANDLES], token_ids=[5]))
    assert [each.names for each in receivers] == [["accepted", "tokens"], *[["accepted"]] * 2]


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


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMES, max_size=8))
def test_whatever_comes_each_generation_ends_once_and_nothing_is_raised(frames):
    stream = exchange()
    receivers = [Receiver() for _ in range(4)]
    for place, receiver in enumerate(receivers):
        stream.submit(request(sequence_count=1 + place % 2, logprobs=place > 1), receiver)
    with structlog.testing.capture_logs():
        for frame in frames:
            stream.deliver(frame)
        stream.fail_all(lambda: ServiceError(Code.UNAVAILABLE, "WORKER_LOST", "lost"))
    for receiver in receivers:
        assert receiver.names[-1] in ("completed", "failed")
        assert {error.reason for error in receiver.errors} != {"INTERNAL_FAULT"}
    assert len(stream) == 0
    assert [stream._alone, stream._heard, stream._owed] == [{}, {}, {}]


# --- the same over both hops ---------------------------------------------------------------------


async def test_a_bad_frame_harms_no_other_caller():
    """Each bad frame in turn, while another generation runs on the same stream to its end."""
    async with ScriptedWorker() as worker, frontend_of(worker) as frontend:
        link = await frontend.wait_for(worker, LinkState.READY)
        stream = await worker.stream()

        async def begin() -> tuple[Any, int]:
            what = fg.GenerateRequest(generation=generation([7, 8], max_tokens=9))
            call = frontend.generations.Generate(what)
            handle = (await stream.submit()).handle
            stream.accept(handle)
            return call, handle

        good, good_handle = await begin()
        for name, frame in BAD_FRAMES.items():
            bad, handle = await begin()
            for each in ({k: v for k, v in frame.items() if k != "then"}, frame.get("then")):
                if each:
                    stream.send(renumbered(pb.ExchangeResponse(**each), handle))
            assert await outcome(bad) == ("OK" if name in ENDED_BEFORE else "WORKER_PROTOCOL"), name
            stream.fail(handle)
        stream.tokens(good_handle, 5)
        stream.end(good_handle)
        stream.complete(good_handle)
        assert (await good).sequences[0].token_ids == [5]
        await until(lambda: link.in_flight == 0)
        assert len(worker.streams) == 1


ENDED_BEFORE = {"two ends of a sequence", "tokens after the end"}
"""What is wrong comes once the caller has all that there was to have."""


async def outcome(call: Any) -> str:
    try:
        await asyncio.wait_for(call, 10)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason
    return "OK"


def renumbered(frame: pb.ExchangeResponse, handle: int) -> pb.ExchangeResponse:
    """Returns the frame about another generation than that of handle 1."""
    for column in (frame.handles, frame.accepted):
        column[:] = [handle for _ in column]
    for each in (*frame.endings, *frame.completions, *frame.failures):
        each.handle = handle
    return frame
