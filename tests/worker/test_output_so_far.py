"""Requests that have a part of their output already: what the engine is given, and what is told."""

from __future__ import annotations

import grpc
import pytest
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_worker.engines.port import Ability, Finish, Output

from tests.services.calls import refusal_of, refusal_of_status
from tests.worker.calls import CANCELLED, LENGTH, STOP, Exchange, execute, prompt, request
from tests.worker.scripted_engine import EOS, ScriptedEngine
from tests.worker.worker_here import running, worker_of


async def test_the_engine_goes_on_and_what_follows_is_told(here):
    asked = request(max_tokens=10, output_so_far=[9, 8, 7], stopping={"min_tokens": 5})
    async with here.exchange() as exchange:
        await exchange.submit(1, asked)
        await running(here)
        given = here.engine.running[here.engine.key]
        assert list(given.prompt) == [*prompt(), 9, 8, 7]
        assert (given.carried_tokens, given.max_tokens, given.min_tokens) == (3, 7, 2)
        # The engine found all of it in its cache but for the last block's part.
        await here.engine.tokens(here.engine.key, 6, cached_prompt_tokens=42)
        await here.engine.tokens(here.engine.key, 5, finish=Finish.LENGTH)
        await exchange.read_until(lambda: exchange[1].over)
    done = exchange[1]
    assert (done.ids, done.reasons) == ({0: [6, 5]}, [LENGTH])
    counted = done.completed
    assert (counted.prompt_tokens, counted.completion_tokens) == (40, 2)
    assert counted.cached_prompt_tokens == 40, "of the caller's prompt"


@pytest.mark.parametrize(
    ("output", "max_tokens", "stopping", "reason", "stop"),
    [
        ([9, 8], 2, {}, LENGTH, None),
        ([9, 8], 1, {}, LENGTH, None),
        ([9, EOS], 12, {"ignore_eos": False}, STOP, EOS),
        ([9, EOS], 2, {"ignore_eos": False}, STOP, EOS),
        ([9, 8], 12, {"stop_token_ids": [8], "min_tokens": 2}, STOP, 8),
    ],
)
async def test_what_has_ended_ends_at_once_without_the_engine(
    here, output, max_tokens, stopping, reason, stop
):
    here.engine.uncarried = ["sampling.seed"]  # of which nothing depends on it any more
    asked = request(max_tokens=max_tokens, output_so_far=output, stopping=stopping)
    async with here.exchange() as exchange:
        await exchange.submit(1, asked)
        await exchange.read_until(lambda: exchange[1].over)
    done = exchange[1]
    assert done.accepted
    assert (done.ids, done.reasons) == ({}, [reason])
    ended = done.endings[0]
    assert (ended.stop_token_id if ended.HasField("stop_token_id") else None) == stop
    assert (done.completed.prompt_tokens, done.completed.completion_tokens) == (40, 0)
    assert here.engine.running == {}


async def test_a_stop_token_before_min_tokens_has_ended_nothing(here):
    asked = request(output_so_far=[9, 8], stopping={"stop_token_ids": [8], "min_tokens": 3})
    async with here.exchange() as exchange:
        await exchange.submit(1, asked)
        await running(here)
        await exchange.cancel(1)
        await exchange.read_until(lambda: exchange[1].over)
    assert exchange[1].reasons == [CANCELLED]


async def test_what_is_not_carried_is_refused_by_its_fields_before_anything_runs(lines):
    engine = ScriptedEngine(abilities=frozenset({Ability.PROMPT_LOGPROBS}))
    engine.uncarried = ["sampling.seed", "guide"]
    async with worker_of(engine) as here, here.exchange() as exchange:
        asked = request(output_so_far=[9], prompt_logprobs=0)
        await exchange.submit(1, asked)
        by_exchange = refusal_of_status(await exchange.failure(1))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in here.execution.Execute(pb.ExecuteRequest(request=asked)):
                pass
        await exchange.submit(2, request())  # without output so far nothing is to be carried
        await running(here)
        await here.engine.step(Output(here.engine.key, 0, [4], Finish.LENGTH))
        await exchange.read_until(lambda: exchange[2].over)
    for refusal in (by_exchange, refusal_of(raised.value)):
        assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refusal.reason == "OUTPUT_NOT_CARRIED"
        assert refusal.fields == [
            "request.prompt_logprobs",
            "request.sampling.seed",
            "request.guide",
        ]
    assert exchange[2].reasons == [LENGTH]
    refused = [line["reason"] for line in lines if line.get("outcome") == "refused"]
    assert refused == ["OUTPUT_NOT_CARRIED"] * 2


def test_a_real_worker_goes_on_by_execute_and_by_exchange(worker):
    whole = execute(worker, request(max_tokens=40, logprobs=True))
    ids = whole.ids[0]
    with Exchange(worker) as exchange:
        for at in (1, 24, 39):
            asked = request(max_tokens=40, logprobs=True, output_so_far=ids[:at])
            by_execute = execute(worker, asked)
            exchange.submit(at, asked)
            (by_exchange,) = exchange.finish(at)
            for done in (by_execute, by_exchange):
                assert (done.ids[0], done.reasons) == (ids[at:], [LENGTH]), at
                assert [each.logprob for each in done.logprobs[0]] == pytest.approx(
                    [each.logprob for each in whole.logprobs[0][at:]], abs=1e-3
                )
                counted = done.completed
                assert (counted.prompt_tokens, counted.completion_tokens) == (40, 40 - at)
