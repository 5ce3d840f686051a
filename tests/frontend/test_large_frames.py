"""Whatever a worker puts into one frame, nobody else waits for it; what no worker may send is not
read."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from tokenwire.channel_arguments import HOP_FRAME_BYTES, RESPONSE_BYTES
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_service.errors import VIOLATIONS, WORDS_BYTES, ServiceError

from tests.frontend.exchange_here import deliver, exchange, started
from tests.frontend.frontend_here import frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker
from tests.services.calls import generation, refusal_of

MIB = HOP_FRAME_BYTES
PLAIN, SCORED = 1, 2
"""Handles of a generation without log probabilities and of one that has them."""

HELD_S = 0.02
"""Time that one frame may hold the event loop."""


def scored(*alternatives: int) -> list[pb.TokenLogprob]:
    """Returns log probabilities of tokens that have so many alternatives each."""
    return [
        pb.TokenLogprob(token_id=5, logprob=-1, alternatives=[pb.Alternative(token_id=5)] * count)
        for count in alternatives
    ]


def of_all_alternatives(tokens: int, entries: int) -> pb.ExchangeResponse:
    return pb.ExchangeResponse(
        handles=[SCORED] * entries,
        counts=[tokens] * entries,
        token_ids=[5] * tokens * entries,
        logprobs=[
            pb.EntryLogprobs(entry=entry, tokens=scored(*[20] * tokens)) for entry in range(entries)
        ],
    )


def failure(*details: Message, message: str = "") -> pb.ExchangeResponse:
    status = status_pb2.Status(code=3, message=message)
    for each in details:
        status.details.add().Pack(each)
    return pb.ExchangeResponse(failures=[pb.Failure(handle=PLAIN, status=status)])


def violations(count: int, characters: int = 1) -> error_details_pb2.BadRequest:
    each = error_details_pb2.BadRequest.FieldViolation(field="a" * characters, description="b")
    return error_details_pb2.BadRequest(field_violations=[each] * count)


FRAMES: dict[str, pb.ExchangeResponse] = {
    "tokens": pb.ExchangeResponse(handles=[PLAIN] * (MIB // 2), token_ids=[5] * (MIB // 2)),
    "handles without tokens": pb.ExchangeResponse(handles=[PLAIN] * MIB),
    "handles of nobody": pb.ExchangeResponse(handles=[99] * (MIB // 2), token_ids=[5] * (MIB // 2)),
    "acceptances": pb.ExchangeResponse(accepted=[PLAIN] * MIB),
    "one entry": pb.ExchangeResponse(handles=[PLAIN], counts=[MIB], token_ids=[5] * MIB),
    "empty entries": pb.ExchangeResponse(handles=[PLAIN] * (MIB // 2), counts=[0] * (MIB // 2)),
    "columns": pb.ExchangeResponse(
        handles=[PLAIN] * (MIB // 4),
        sequences=[0] * (MIB // 4),
        counts=[1] * (MIB // 4),
        token_ids=[5] * (MIB // 4),
    ),
    "alternatives to one token": pb.ExchangeResponse(
        handles=[SCORED],
        token_ids=[5],
        logprobs=[pb.EntryLogprobs(entry=0, tokens=scored(MIB // 5))],
    ),
    "log probabilities of one entry": of_all_alternatives(tokens=8000, entries=1),
    "log probabilities of many entries": of_all_alternatives(tokens=1, entries=8000),
    "log probabilities of nothing": pb.ExchangeResponse(
        logprobs=[pb.EntryLogprobs(entry=1)] * (MIB // 4)
    ),
    "log probabilities of nobody's prompt": pb.ExchangeResponse(
        prompt_logprobs=[pb.PromptLogprobs(handle=99)] * (MIB // 4)
    ),
    "ends": pb.ExchangeResponse(endings=[pb.SequenceEnding(handle=PLAIN)] * (MIB // 4)),
    "completions": pb.ExchangeResponse(completions=[pb.GenerationEnd(handle=PLAIN)] * (MIB // 4)),
    "failures": pb.ExchangeResponse(failures=[pb.Failure(handle=PLAIN)] * (MIB // 4)),
    "violations": failure(violations(100_000)),
    "one long violation": failure(violations(1, MIB // 2), message="x" * (MIB // 3)),
    "metadata": failure(
        error_details_pb2.ErrorInfo(metadata={str(number): "v" for number in range(60_000)})
    ),
    "details": failure(*[error_details_pb2.ErrorInfo(reason="ODD")] * 20_000),
    "a long quota": failure(
        error_details_pb2.QuotaFailure(violations=[{"subject": "s" * MIB, "description": "d"}])
    ),
}  # fmt: skip


class Deaf:
    """A receiver that keeps nothing."""

    def on_accepted(self) -> None:
        pass

    def on_tokens(self, *_: Any) -> None:
        pass

    def inlet(self, *_: Any) -> None:
        pass

    def on_ending(self, *_: Any) -> None:
        pass

    def on_completed(self, *_: Any) -> None:
        pass

    def on_failed(self, *_: Any) -> None:
        pass


@contextmanager
def unbothered() -> Iterator[None]:
    """What the tests hold is nothing that the collector would go through in a frontend."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("name", FRAMES)
def test_no_frame_holds_the_event_loop(name):
    frame = FRAMES[name]
    assert frame.ByteSize() > HOP_FRAME_BYTES / 2
    stream = exchange()
    for handle, how in ((PLAIN, {}), (SCORED, {"logprobs": True, "top_logprobs": 20})):
        assert stream.submit(pb.Request(prompt_token_ids=[7], **how), Deaf()) == handle
    deliver(stream, pb.ExchangeResponse(accepted=[PLAIN, SCORED]))
    held_s = []
    with structlog.testing.capture_logs(), unbothered():
        began_s = time.thread_time()
        for _ in stream.deliver(frame):
            held_s.append(time.thread_time() - began_s)
            began_s = time.thread_time()
    held_s.append(time.thread_time() - began_s)
    assert max(held_s) < HELD_S


def test_a_long_entry_comes_whole_and_in_order():
    stream = exchange()
    handle, receiver = started(stream, logprobs=True, top_logprobs=1)
    ids = [number % 1000 for number in range(1001)]
    tokens = [
        pb.TokenLogprob(token_id=each, alternatives=[pb.Alternative(token_id=7)]) for each in ids
    ]
    entry = {"handles": [handle], "counts": [len(ids)], "token_ids": ids}
    deliver(stream, pb.ExchangeResponse(**entry, logprobs=[pb.EntryLogprobs(tokens=tokens)]))
    heard = [event for event in receiver.heard if event[0] == "tokens"]
    assert len(heard) > 1
    assert [each for _, _, run, _ in heard for each in run] == ids
    assert [each.token_id for _, _, _, scores in heard for each in scores] == ids
    deliver(stream, pb.ExchangeResponse(**entry, logprobs=[pb.EntryLogprobs(tokens=tokens[:-1])]))
    assert [error.reason for error in receiver.errors] == ["WORKER_PROTOCOL"]


def test_of_a_workers_error_so_much_is_kept_as_an_error_may_tell():
    def refused(*details: Message, **status: Any) -> ServiceError:
        stream = exchange()
        _, receiver = started(stream)
        deliver(stream, failure(*details, **status))
        [error] = receiver.errors
        return error

    many = refused(violations(10_000))
    assert (many.reason, len(many.violations)) == ("INVALID_FIELD", VIOLATIONS)
    long = refused(violations(1, characters=100_000), message="m" * 100_000)
    assert len(long.message) <= WORDS_BYTES
    assert len(long.violations[0].field) <= WORDS_BYTES
    info = error_details_pb2.ErrorInfo(
        reason="ODD", metadata={f"{number}": "v" * 100_000 for number in range(100)}
    )
    told = refused(info)
    assert told.reason == "ODD"
    assert sum(len(key) + len(value) for key, value in told.metadata.items()) < 100_000


def test_frames_of_many_generations_go_to_each_in_order():
    """Columns that are taken in several pieces, of some generations that ended in between."""
    stream = exchange()
    begun = [started(stream, sequence_count=2) for _ in range(300)]
    handles = [handle for handle, _ in begun for _ in range(6)]
    ids = [place % 1000 for place in range(len(handles) * 2)]
    frame = pb.ExchangeResponse(
        handles=handles,
        sequences=[place % 2 for place in range(len(handles))],
        counts=[2] * len(handles),
        token_ids=ids,
    )
    bad = begun[150][0]
    for place, _ in enumerate(stream.deliver(frame)):
        if not place:
            stream.detach(bad)
    for place, (handle, receiver) in enumerate(begun):
        heard = [each for _, _, run, _ in receiver.heard[1:] for each in run]
        assert heard == ([] if handle == bad else ids[place * 12 : place * 12 + 12])


# --- over the hop --------------------------------------------------------------------------------


async def begun(frontend: Any, stream: Any) -> tuple[Any, int]:
    call = frontend.generate(generation([7, 8], max_tokens=9))
    handle = (await stream.submit()).handle
    stream.accept(handle)
    return call, handle


@pytest.mark.parametrize(
    ("size", "reason"),
    [(HOP_FRAME_BYTES + 1, f"at most {HOP_FRAME_BYTES}"), (RESPONSE_BYTES + 1, "larger than max")],
)
async def test_a_frame_beyond_the_bound_fails_the_stream_by_name_and_the_link_recovers(
    size, reason
):
    async with ScriptedWorker() as worker, frontend_of(worker) as frontend:
        link = await frontend.wait_for(worker, LinkState.READY)
        stream = await worker.stream()
        call, _ = await begun(frontend, stream)
        await until(lambda: link.in_flight == 1)
        stream.send(b"\0" * size)
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            await call
        refusal = refusal_of(lost.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
        assert reason in refusal.message
        stream = await worker.stream()
        await frontend.wait_for(worker, LinkState.READY)
        call, handle = await begun(frontend, stream)
        stream.tokens(handle, 5)
        stream.end(handle)
        stream.complete(handle)
        assert (await call).sequences[0].token_ids == [5]


async def test_a_tokenizer_of_many_mebibytes_arrives_in_the_contracts_parts():
    async def in_parts(request: Any, context: Any) -> None:
        for name, data in worker.files.items():
            for start in range(0, len(data), 2**20):
                part = data[start : start + 2**20]
                await context.write(worker_pb2.GetTokenizerResponse(file_name=name, data=part))

    async with ScriptedWorker() as worker:
        worker.overrides["GetTokenizer"] = in_parts
        worker.files["tokenizer.json"] += b" " * (20 * 2**20)
        async with frontend_of(worker) as frontend:
            await frontend.wait_for(worker, LinkState.READY)


# --- failures without a reason -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE),
        (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL),
        (grpc.StatusCode.INTERNAL, grpc.StatusCode.INTERNAL),
        (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_a_failure_without_a_reason_has_a_defined_one(code, told):
    with structlog.testing.capture_logs() as lines:
        async with ScriptedWorker() as worker, frontend_of(worker) as frontend:
            await frontend.wait_for(worker, LinkState.READY)
            stream = await worker.stream()
            call, handle = await begun(frontend, stream)
            status = status_pb2.Status(code=code.value[0], message="as scripted")
            stream.send(failures=[pb.Failure(handle=handle, status=status)])
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call
    refusal = refusal_of(failed.value)
    assert (refusal.code, refusal.reason) == (told, "WORKER_FAILED")
    [line] = [each for each in lines if each["event"] == "worker_failed"]
    assert (line["code"], line["message"]) == (code.name, "as scripted")
    assert line["trace_id"] in refusal.message


async def test_a_worker_that_cancels_what_nobody_cancelled_is_passed_over_for_another():
    def cancels(stream: Any, submit: pb.Submit) -> None:
        status = status_pb2.Status(code=grpc.StatusCode.CANCELLED.value[0])
        stream.send(failures=[pb.Failure(handle=submit.handle, status=status)])

    async with ScriptedWorker() as worker, ScriptedWorker() as other:
        other.info.worker_name = "other"
        worker.script = cancels
        other.script = lambda stream, submit: stream.generate(submit.handle, 5)
        async with frontend_of(worker, other) as frontend:
            for each in (worker, other):
                await frontend.wait_for(each, LinkState.READY)
            answers = [await frontend.generate(generation([7], max_tokens=1)) for _ in range(4)]
    assert {answer.timings.worker for answer in answers} == {"other"}
