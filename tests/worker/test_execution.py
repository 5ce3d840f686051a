"""Execute and Exchange of a real worker: what comes of a generation, alone and among others."""

from __future__ import annotations

import json
import uuid

import grpc
import pytest
from google.protobuf import empty_pb2
from tokenwire.worker.v1 import execution_pb2 as pb

from tests.services.calls import SMALL_WINDOW, Worker, refusal_of_status
from tests.worker.calls import (
    CANCELLED,
    LENGTH,
    LONG,
    STOP,
    Exchange,
    execute,
    request,
)


@pytest.fixture(scope="module")
def alone(_shared):
    """The ids of 32 requests, each run alone."""
    return [execute(_shared[0], request(seed)).ids[0] for seed in range(32)]


# --- the same tokens however they are asked for --------------------------------------------------


def test_execute_streams_tokens_then_completes(worker):
    generated = execute(worker, request(max_tokens=20))
    assert len(generated.ids[0]) == 20
    assert generated.reasons == [LENGTH]
    completed = generated.completed
    assert (completed.prompt_tokens, completed.completion_tokens) == (40, 20)
    assert not completed.HasField("cached_prompt_tokens"), "this engine does not tell"
    for stage in (completed.prefill, completed.decode):
        assert stage.ToNanoseconds() > 0
    assert completed.HasField("queue")


def test_32_at_once_by_execute_give_what_each_gives_alone(worker, alone):
    calls = [
        worker.execution.Execute(pb.ExecuteRequest(request=request(seed)), timeout=60)
        for seed in range(32)
    ]
    together = [[] for _ in calls]
    for ids, call in zip(together, calls, strict=True):
        for message in call:
            ids.extend(message.tokens.token_ids)
    assert together == alone


def test_32_at_once_by_exchange_give_what_each_gives_alone(worker, alone):
    with Exchange(worker) as exchange:
        for seed in range(32):
            exchange.submit(seed, request(seed))
        generated = exchange.finish(*range(32))
    assert [each.ids[0] for each in generated] == alone
    assert {reason for each in generated for reason in each.reasons} == {LENGTH}


def test_one_message_carries_many_generations(worker):
    with Exchange(worker) as exchange:
        for handle in range(32):
            exchange.submit(handle, request(handle, max_tokens=64))
        exchange.finish(*range(32))
    tokens = sum(len(message.token_ids) for message in exchange.messages)
    assert tokens == 32 * 64
    assert len(exchange.messages) < tokens / 8, "messages for tokens, not for steps"


def test_trivial_columns_are_left_out(worker):
    with Exchange(worker) as exchange:
        exchange.submit(1, request(max_tokens=5))
        exchange.submit(2, request(1, max_tokens=5))
        exchange.finish(1, 2)
    carrying = [message for message in exchange.messages if message.token_ids]
    assert all(not message.sequences for message in carrying)
    assert any(not message.counts for message in carrying), "steps of one id each"


def test_a_stream_that_is_read_late_gets_merged_messages(worker_process):
    with (
        Worker(worker_process.address, arguments=SMALL_WINDOW) as client,
        Exchange(client) as exchange,
    ):
        for handle in range(4):
            exchange.submit(handle, request(handle, max_tokens=600))
        # Nothing is read until the worker has generated it all.
        client.wait_for_load(lambda load: load.running_sequences == 4)
        client.wait_until_idle()
        generated = exchange.finish(*range(4))
    assert all(len(each.ids[0]) == 600 for each in generated)
    largest = max(len(message.token_ids) for message in exchange.messages)
    assert largest > 32, "steps merge while a message can't be written"


def test_handles_are_any_numbers_and_free_again_after_the_end(worker, alone):
    numbers = [0, 7, 2**31, 2**32 - 1]
    with Exchange(worker) as exchange:
        for _ in range(3):
            for seed, handle in enumerate(numbers):
                exchange.submit(handle, request(seed))
            generated = exchange.finish(*numbers)
            assert [each.ids[0] for each in generated] == alone[:4]


def test_closing_the_sending_side_lets_everything_finish(worker):
    exchange = Exchange(worker)
    for handle in range(4):
        exchange.submit(handle, request(handle, max_tokens=30))
    exchange.close_sending()
    exchange.read_to_end()
    assert exchange.call.code() is grpc.StatusCode.OK
    assert all(len(exchange[handle].ids[0]) == 30 for handle in range(4))


def test_an_empty_stream_ends_at_once(worker):
    exchange = Exchange(worker)
    exchange.close_sending()
    exchange.read_to_end()
    assert exchange.call.code() is grpc.StatusCode.OK


# --- fields --------------------------------------------------------------------------------------


def test_several_sequences_end_each_on_its_own(worker):
    asked = request(sequence_count=3, sampling={"temperature": 2.0, "seed": 4}, max_tokens=20)
    by_execute = execute(worker, asked)
    assert len(by_execute.endings) == 3
    assert len({tuple(ids) for ids in by_execute.ids.values()}) == 3
    with Exchange(worker) as exchange:
        exchange.submit(9, asked)
        (by_exchange,) = exchange.finish(9)
    assert by_exchange.ids == by_execute.ids, "the seed repeats"


def test_a_stop_token_is_told(worker, alone):
    stop = alone[0][3]
    first = alone[0].index(stop)
    generated = execute(worker, request(stopping={"stop_token_ids": [stop]}))
    assert generated.ids[0] == alone[0][: first + 1]
    assert generated.endings[0] == pb.Ending(reason=STOP, stop_token_id=stop)


def test_logprobs_accompany_the_ids(worker):
    asked = request(logprobs=True, max_tokens=10)
    plain = request(1, max_tokens=10)
    with Exchange(worker) as exchange:
        exchange.submit(1, plain)
        exchange.submit(2, asked)
        without, with_logprobs = exchange.finish(1, 2)
    assert [each.token_id for each in with_logprobs.logprobs[0]] == with_logprobs.ids[0]
    assert all(each.logprob <= 0 for each in with_logprobs.logprobs[0])
    assert without.logprobs[0] == []
    by_execute = execute(worker, asked)
    assert [each.token_id for each in by_execute.logprobs[0]] == by_execute.ids[0]


GUIDES = {
    "json_schema": pb.Guide(json_schema=json.dumps({"enum": ["red", "green"]})),
    "json_object": pb.Guide(json_object=empty_pb2.Empty()),
    "regex": pb.Guide(regex="[0-9]{4}"),
    "grammar": pb.Guide(grammar='root ::= "yes" | "no"'),
    "choice": pb.Guide(choice=pb.Choice(options=["up", "down"])),
}


@pytest.mark.parametrize("form", GUIDES)
def test_each_form_of_guide_runs(worker, form):
    asked = request(max_tokens=30, guide=GUIDES[form], stopping={"ignore_eos": False})
    by_execute = execute(worker, asked)
    with Exchange(worker) as exchange:
        exchange.submit(1, asked)
        (by_exchange,) = exchange.finish(1)
    assert by_execute.ids == by_exchange.ids
    if form != "json_object":
        assert by_execute.reasons == [STOP]


def test_a_guided_request_does_not_hold_up_the_others(worker):
    with Exchange(worker) as exchange:
        # New forms, so that each is tried.
        for handle in range(3):
            pattern = f"{uuid.uuid4().hex}[0-9]+"
            exchange.submit(
                handle,
                request(
                    guide=pb.Guide(regex=pattern), stopping={"ignore_eos": False}, max_tokens=60
                ),
            )
        exchange.submit(9, request())
        exchange.finish(9)
        first = exchange.messages[0].accepted[0]
        assert first == 9, "it is accepted while the forms are being tried"
        generated = exchange.finish(0, 1, 2)
    assert all(each.completed for each in generated)


def test_a_guided_request_can_be_cancelled_while_it_is_tried(worker):
    slow = pb.Guide(regex="(a{1,1000}|b){1,30}" + uuid.uuid4().hex)
    with Exchange(worker) as exchange:
        exchange.submit(1, request(guide=slow, stopping={"ignore_eos": False}))
        exchange.cancel(1)
        (generated,) = exchange.finish(1)
    assert generated.failure is not None or generated.reasons == [CANCELLED]


# --- what callers get wrong on a stream ----------------------------------------------------------


def test_a_bad_submit_fails_alone(worker, alone):
    with Exchange(worker) as exchange:
        exchange.submit(1, request())
        exchange.submit(2, request(sampling={"temperature": -1.0}))
        exchange.send(submit=pb.Submit(handle=3))
        exchange._live[3] = type(exchange[1])()
        exchange.submit(4, request(1))
        exchange.finish(1, 2, 3, 4)
    assert [exchange[1].ids[0], exchange[4].ids[0]] == alone[:2]
    assert refusal_of_status(exchange[2].failure).fields == ["request.sampling.temperature"]
    assert refusal_of_status(exchange[3].failure).fields == ["request"]


def test_a_handle_used_twice_ends_both_with_one_failure(worker, alone):
    with Exchange(worker) as exchange:
        exchange.submit(1, request(max_tokens=LONG))
        exchange.submit(2, request(2))
        exchange.read_until(lambda: exchange[1].ids)
        exchange.send(submit=pb.Submit(handle=1, request=request(1)))
        (twice,) = exchange.finish(1)
        refusal = refusal_of_status(twice.failure)
        assert refusal.reason == "DUPLICATE_HANDLE"
        assert refusal.fields == ["submit.handle"]
        # The handle is free again, and the others never knew.
        exchange.submit(1, request(1))
        generated = exchange.finish(1, 2)
    assert [each.ids[0] for each in generated] == alone[1:3]
    worker.wait_until_idle()


def test_commands_that_mean_nothing_are_passed_over(worker, alone):
    with Exchange(worker) as exchange:
        exchange.send()
        exchange.cancel(77)
        exchange.cancel(77, 1, 2)
        exchange.submit(1, request())
        exchange.cancel(1, 5)
        (generated,) = exchange.finish(1)
    assert generated.ids[0] == alone[0]


def test_hundreds_of_generations_on_one_stream(worker):
    count = 300
    with Exchange(worker) as exchange:
        for handle in range(count):
            # The worker lets so many wait; the next is sent when one is over.
            exchange.submit(handle, request(handle % 50, max_tokens=3, tokens=8))
            if handle >= 200:
                exchange.finish(handle - 200)
        generated = exchange.finish(*range(count))
    assert all(len(each.ids[0]) == 3 for each in generated)


def test_one_message_submits_and_cancels_several(worker):
    with Exchange(worker) as exchange:
        for handle in (1, 2, 3):
            exchange.expect(handle)
        exchange.send(
            submit=pb.Submit(handle=1, request=request(1, max_tokens=3)),
            submits=[
                pb.Submit(handle=2, request=request(2, max_tokens=LONG)),
                pb.Submit(handle=3, request=request(3, max_tokens=5)),
            ],
            cancels=[pb.Cancel(handle=2)],
        )
        first, second, third = exchange.finish(1, 2, 3)
    assert (first.reasons, len(first.ids[0])) == ([LENGTH], 3)
    assert second.reasons == [CANCELLED]
    assert (third.reasons, len(third.ids[0])) == ([LENGTH], 5)
