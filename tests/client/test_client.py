"""Both clients against a server: answers, streams, cancellation, deadlines."""

import asyncio
import gc

import grpc
import pytest
from tokenwire import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    Delta,
    FinishReason,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    RetryPolicy,
    SequenceResult,
    Stage,
    Timings,
    TokenLogprob,
    Usage,
)
from tokenwire.frontend.v1 import generation_pb2

from tests.client.scripted_server import (
    COMPLETED,
    HELLO,
    TRACE_ID,
    WAIT_S,
    Disconnect,
    Hold,
    accepted,
    delta,
    end,
    prompt_logprobs,
    reason,
    status,
)


async def reached(event):
    assert await asyncio.to_thread(event.wait, WAIT_S)


async def test_generate_returns_the_whole_answer(twin, server):
    whole = delta("Hello world", [7, 8], end=end("STOP", stop="!"))
    server.play("hi", accepted("mine"), whole, COMPLETED)
    answer = await twin.call("generate", "hi", max_tokens=8, temperature=0, request_id="mine")
    assert answer.text == "Hello world"
    assert answer.token_ids == [7, 8]
    assert answer.finish_reason is FinishReason.STOP
    assert answer.finish_reason == "stop"
    assert answer.sequences == [
        SequenceResult("Hello world", [7, 8], [], FinishReason.STOP, stop_match="!")
    ]
    assert answer.usage == Usage(3, 2, 1)
    assert answer.request_id == "mine"
    assert answer.trace_id == TRACE_ID
    assert answer.logprobs == []
    assert server.last.generation.stop.max_tokens == 8
    assert server.last.stream.max_delay.ToMilliseconds() == 1000


async def test_timings_are_in_seconds(twin):
    timings = (await twin.call("generate", "hi")).timings
    assert timings.time_to_first_token_s == pytest.approx(0.012)
    assert timings.time_per_output_token_s == pytest.approx(0.004)
    assert timings.total_s == pytest.approx(0.020)
    assert timings.worker == "w-1"
    assert timings.stages[1] == Stage("worker", "prefill", 0.003, 0.009)


async def test_a_stream_yields_deltas_and_then_has_its_result(twin, server):
    stream = twin.stream(chat=[{"role": "user", "content": "hi"}], max_delay=0.5)
    assert await twin.read(stream) == [
        Delta("Hello", [7], 0, 0, [], None, None),
        Delta(" world", [8, 9], 0, 1, [], FinishReason.STOP, None),
    ]
    assert stream.accepted.request_id == "r-1"
    assert stream.accepted.prompt_tokens == 3
    assert stream.trace_id == TRACE_ID
    answer = stream.result
    assert (answer.text, answer.token_ids) == ("Hello world", [7, 8, 9])
    assert (answer.usage, answer.timings.worker) == (Usage(3, 2, 1), "w-1")
    assert server.last.stream.max_delay.ToMilliseconds() == 500
    assert await twin.read(stream) == []


async def test_a_result_before_the_end_is_a_mistake_that_is_told(twin):
    stream = twin.stream("hi")
    with pytest.raises(RuntimeError, match="iterate it first"):
        stream.result  # noqa: B018
    await twin.read(stream)


async def test_several_sequences_and_log_probabilities_are_kept_apart(twin, server):
    other = generation_pb2.Alternative(token_id=8, logprob=-2.0)
    logprob = generation_pb2.TokenLogprob(token_id=7, logprob=-0.5, alternatives=[other])
    server.play(
        "two",
        accepted(),
        delta("b", [9], sequence=1),
        delta("a", [7], logprobs=[logprob], end=end("STOP", stop_token_id=7)),
        delta("c", [10], 1, sequence=1, end=end("LENGTH")),
        COMPLETED,
    )
    stream = twin.stream("two", n=2, logprobs=True)
    deltas = await twin.read(stream)
    assert [each.sequence for each in deltas] == [1, 0, 1]
    first, second = stream.result.sequences
    assert (first.text, first.stop_match, second.text) == ("a", 7, "bc")
    assert second.finish_reason is FinishReason.LENGTH
    assert first.logprobs == deltas[1].logprobs
    assert first.logprobs[0].alternatives[0].token_id == 8
    assert stream.result.text == stream.text == "a"


def scored(*ids):
    return [generation_pb2.TokenLogprob(token_id=each, logprob=-0.5, token=b"x") for each in ids]


async def test_log_probabilities_of_the_prompt_are_there_before_the_first_delta(twin, server):
    server.play(
        "p",
        accepted(),
        prompt_logprobs(0, *scored(5, 6)),
        prompt_logprobs(2, *scored(7)),
        delta("a", [9], end=end()),
        COMPLETED,
    )
    stream = twin.stream("p", prompt_logprobs=0)
    assert (await twin.read_one(stream)).text == "a"
    expected = [TokenLogprob(each, -0.5, [], b"x") for each in (5, 6, 7)]
    assert stream.prompt_logprobs == expected
    await twin.read(stream)
    assert stream.result.prompt_logprobs == expected


async def test_a_gap_in_the_prompts_log_probabilities_is_an_error(twin, server):
    server.play("gap", accepted(), prompt_logprobs(1, *scored(6)), COMPLETED)
    with pytest.raises(InternalError, match="the prompt went on at token 1 after 0"):
        await twin.read(twin.stream("gap", prompt_logprobs=0))


async def test_a_reason_that_this_version_does_not_know_is_no_error(twin, server):
    new = generation_pb2.SequenceEnd(reason=77)
    server.play("new", accepted(), delta("a", [1], end=new), COMPLETED)
    stream = twin.stream("new")
    await twin.read(stream)
    assert stream.result.finish_reason is FinishReason.UNKNOWN


async def test_cancel_ends_the_stream_here_and_on_the_server(twin, server):
    hold = Hold()
    server.play("long", accepted(), delta("On", [1]), hold)
    stream = twin.stream("long")
    assert (await twin.read_one(stream)).text == "On"
    await reached(hold.reached)
    await twin.cancel(stream)
    await reached(hold.cancelled)
    assert await twin.read(stream) == []
    answer = stream.result
    assert (answer.text, answer.finish_reason) == ("On", FinishReason.CANCELLED)
    assert (answer.usage, answer.timings) == (Usage(3, 1), Timings())
    await twin.cancel(stream)


async def test_cancel_wakes_whoever_reads(twin, server):
    hold = Hold()
    server.play("long", accepted(), hold)
    stream = twin.stream("long")
    reader = asyncio.create_task(twin.read(stream))
    await reached(hold.reached)
    await twin.cancel(stream)
    assert await reader == []
    assert stream.result.text == ""


async def test_a_stream_that_is_dropped_is_cancelled(twin, server):
    hold = Hold()
    server.play("long", accepted(), delta("On", [1]), hold)
    stream = twin.stream("long")
    await twin.read_one(stream)
    del stream
    gc.collect()
    await reached(hold.cancelled)


async def test_leaving_the_block_cancels(server):
    first, second = Hold(), Hold()
    server.play("one", accepted(), first)
    server.play("two", accepted(), second)
    with Client(server.address) as client, client.stream("one"):
        await reached(first.reached)
    async with AsyncClient(server.address) as client, client.stream("two"):
        await reached(second.reached)
    await reached(first.cancelled)
    await reached(second.cancelled)


async def test_cancelling_the_reading_task_cancels_the_stream(server):
    hold = Hold()
    server.play("long", accepted(), hold)
    async with AsyncClient(server.address) as client:

        async def read():
            return [delta async for delta in client.stream("long")]

        task = asyncio.create_task(read())
        await reached(hold.reached)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await reached(hold.cancelled)


async def test_the_deadline_ends_a_stream(twin, server):
    hold = Hold()
    server.play("long", accepted(), delta("On", [1]), hold)
    stream = twin.stream("long", timeout=0.3)
    with pytest.raises(DeadlineExceededError) as caught:
        await twin.read(stream)
    assert caught.value.trace_id == TRACE_ID
    with pytest.raises(DeadlineExceededError):
        stream.result  # noqa: B018
    assert stream.text == "On"
    await reached(hold.cancelled)


async def test_the_client_s_timeout_counts_where_a_call_has_none(kind, server):
    twin = kind(server.address, timeout=60)
    await twin.call("generate", "hi")
    await twin.call("generate", "hi", timeout=10)
    await twin.call("generate", "hi", timeout=float("inf"))
    await twin.close()
    assert server.calls[0].time_remaining == pytest.approx(60, abs=10)
    assert server.calls[1].time_remaining == pytest.approx(10, abs=5)
    assert server.calls[2].time_remaining > 1e9  # gRPC's way to say none


async def test_a_gap_in_a_stream_is_an_error_and_ends_it(twin, server):
    hold = Hold()
    server.play("gap", accepted(), delta("a", [1]), delta("c", [3], 2), hold)
    stream = twin.stream("gap")
    with pytest.raises(InternalError, match="went on at token 2 after 1 tokens") as caught:
        await twin.read(stream)
    assert caught.value.reason == "STREAM_GAP"
    await reached(hold.cancelled)


async def test_a_stream_that_ends_too_early_is_an_error(kind, server):
    server.play("cut", accepted(), delta("a", [1]), Disconnect())
    twin = kind(server.address, retry=RetryPolicy(continuations=0))
    with pytest.raises(InternalError) as caught:
        await twin.read(twin.stream("cut"))
    await twin.close()
    assert caught.value.reason == "STREAM_CUT"


async def test_a_failure_after_acceptance_is_raised_where_it_happened(twin, server):
    failure = status(grpc.StatusCode.INTERNAL, "engine fault", reason("ENGINE_FAULT"))
    server.play("bad", accepted(), delta("a", [1]), failure)
    stream = twin.stream("bad")
    assert (await twin.read_one(stream)).text == "a"
    with pytest.raises(InternalError, match="engine fault") as caught:
        await twin.read_one(stream)
    assert caught.value.reason == "ENGINE_FAULT"


async def test_tokenize_detokenize_and_render(twin, server):
    tokens = await twin.call("tokenize", "a b c", add_special_tokens=False, model="demo")
    assert (tokens.token_ids, tokens.offsets) == ([0, 1, 2], None)
    assert (server.last.model, server.last.HasField("add_special_tokens")) == ("demo", True)
    assert (await twin.call("tokenize", "a b", with_offsets=True)).offsets == [(0, 1), (2, 3)]
    assert not server.last.HasField("add_special_tokens")
    assert await twin.call("detokenize", [1, 2], skip_special_tokens=False) == "text of [1, 2]"
    assert server.last.HasField("skip_special_tokens")
    chat = await twin.call("render_chat", [{"role": "user", "content": "hi"}], documents=["d"])
    assert (chat.text, chat.token_ids) == ("<chat>", [1, 2])
    assert server.last.chat.documents[0].text == "d"
    with pytest.raises(TypeError, match="max_tokens"):
        await twin.call("render_chat", [], max_tokens=3)


async def test_models_and_workers(twin):
    (model,) = await twin.call("models")
    assert model == await twin.call("model") == await twin.call("model", "demo")
    assert (model.context_tokens, model.eos_token_ids) == (4096, [2])
    assert model.capabilities == ["top_logprobs", "99"]
    assert model.lora_adapters == ["pirate"]
    (worker,) = await twin.call("workers")
    assert (worker.state, worker.in_flight, worker.kv_cache_usage) == ("draining", 3, 0.25)


async def test_an_unknown_model_is_not_found(twin):
    with pytest.raises(NotFoundError, match="'nope' is not served") as caught:
        await twin.call("model", "nope")
    assert (caught.value.reason, caught.value.metadata) == ("UNKNOWN_MODEL", {"model": "nope"})
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


async def test_a_refused_stream_names_the_field(twin, server):
    from google.rpc import error_details_pb2

    detail = error_details_pb2.BadRequest()
    detail.field_violations.add(field="generation.sampling.top_p", description="must be at most 1")
    server.play("bad", status(grpc.StatusCode.INVALID_ARGUMENT, "top_p", detail))
    with pytest.raises(InvalidRequestError) as caught:
        await twin.read(twin.stream("bad", top_p=2))
    (violation,) = caught.value.violations
    assert violation.field == "generation.sampling.top_p"


LARGE = "x" * 2**22
"""As long as the largest message."""


@pytest.mark.parametrize(
    ("method", "argument", "field"),
    [
        ("generate", LARGE, "generation.prompt"),
        ("tokenize", LARGE, "text"),
        ("detokenize", [2**31] * 2**20, "token_ids"),
        ("render_chat", [{"role": "user", "content": LARGE}], "chat"),
    ],
)
async def test_a_request_larger_than_a_message_is_at_fault_itself(
    twin, server, method, argument, field
):
    with pytest.raises(InvalidRequestError, match="at most 4 MiB") as caught:
        await twin.call(method, argument)
    assert str(caught.value).startswith(f"{field}: too long: ")
    assert [each.field for each in caught.value.violations] == [field]
    assert caught.value.reason == "REQUEST_TOO_LARGE"
    assert server.calls == []


async def test_many_threads_may_share_a_client(server):
    with Client(server.address) as client:
        calls = [asyncio.to_thread(list, client.stream("hi")) for _ in range(8)]
        assert all(len(deltas) == len(HELLO) - 2 for deltas in await asyncio.gather(*calls))


def test_an_async_client_may_be_made_outside_the_loop(server):
    client = AsyncClient(server.address)

    async def ask():
        async with client:
            return (await client.generate("hi")).text

    assert asyncio.run(ask()) == "Hello world"


@pytest.mark.parametrize("make", [Client, AsyncClient])
@pytest.mark.parametrize("target", ["127.0.0.1", "http://127.0.0.1:50051", "127.0.0.1:0"])
def test_a_target_without_host_or_port_is_refused(make, target):
    with pytest.raises(ValueError, match=f"^target: '{target}' is not HOST:PORT"):
        make(target)
