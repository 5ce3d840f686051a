"""Log probabilities of prompts, and biases and banned sequences, between a scripted frontend and a
scripted engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_worker.edge import outbox, to_proto
from tokenwire_worker.engines.port import Ability, Output, PromptLogprobs, Step

from tests.services.calls import refusal_of_status
from tests.worker.calls import request
from tests.worker.scripted_engine import ScriptedEngine
from tests.worker.worker_here import WorkerHere, running, until, worker_of

ABILITIES = frozenset({Ability.LOGIT_BIAS, Ability.BANNED_SEQUENCES, Ability.PROMPT_LOGPROBS})


@pytest.fixture
async def here() -> AsyncIterator[WorkerHere]:
    """A worker whose engine can do all of it."""
    engine = ScriptedEngine(abilities=ABILITIES, context_tokens=100_000, prompt_tokens=100_000)
    async with worker_of(engine) as worker:
        yield worker
        await worker.quiet()


def scored(tokens: int, alternatives: int = 0) -> PromptLogprobs:
    found = PromptLogprobs(alternatives)
    found.add([5], [0.0])
    for number in range(1, tokens):
        found.add(range(number, number + 1 + alternatives), [-0.5] + [-1.0] * alternatives)
    return found


async def test_what_the_engine_can_do_is_told_and_reaches_it(here):
    assert to_proto.capabilities(here.engine.info.abilities) == [
        worker_pb2.CAPABILITY_LOGIT_BIAS,
        worker_pb2.CAPABILITY_BANNED_SEQUENCES,
        worker_pb2.CAPABILITY_PROMPT_LOGPROBS,
    ]
    sampling = {
        "logit_bias": [pb.LogitBias(token_id=7, bias=-100.0), pb.LogitBias(token_id=9, bias=2.5)],
        "banned_sequences": [pb.TokenIds(ids=[1]), pb.TokenIds(ids=[2, 3])],
    }
    async with here.exchange() as exchange:
        await exchange.submit(1, request(sampling=sampling, prompt_logprobs=0))
        await running(here)
        given = here.engine.running[here.engine.key]
        assert given.sampling.logit_bias == ((7, -100.0), (9, 2.5))
        assert given.sampling.banned_sequences == ((1,), (2, 3))
        assert given.prompt_logprobs == 0
        await here.engine.finish(here.engine.key, 7)
        await exchange.read_until(lambda: exchange[1].over)


async def test_they_come_in_small_messages_before_any_tokens(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, request(tokens=20_000, prompt_logprobs=20, sequence_count=2))
        await running(here)
        key = here.engine.key
        await here.engine.tokens(key, 7, prompt_logprobs=scored(20_000, 20))
        await here.engine.finish(key, 8)
        await exchange.read_until(lambda: exchange[1].over)
    assert max(message.ByteSize() for message in exchange.messages) < 2 * outbox.PART_BYTES
    told = exchange[1].prompt_logprobs
    assert len(told) == 20_000
    assert (told[0].token_id, told[0].logprob, len(told[0].alternatives)) == (5, 0.0, 0)
    assert [each.token_id for each in told[9].alternatives] == list(range(10, 30))
    assert exchange[1].ids == {0: [7, 8], 1: [8]}


async def test_execute_has_them_too(here):
    call = here.execution.Execute(pb.ExecuteRequest(request=request(prompt_logprobs=0)))
    await running(here)
    await here.engine.tokens(here.engine.key, 7, prompt_logprobs=scored(40))
    await here.engine.finish(here.engine.key, 8)
    events = [message.WhichOneof("event") async for message in call]
    assert events[:3] == ["accepted", "prompt_logprobs", "tokens"]


async def test_those_of_a_caller_that_is_behind_fail_alone(here, monkeypatch):
    """What waits for a caller has a bound; what was asked for besides goes on."""
    monkeypatch.setattr(outbox, "MOST_UNREAD_PROMPT_BYTES", 1000)
    async with here.exchange() as exchange:
        for handle in (1, 2, 3):
            await exchange.submit(handle, request(prompt_logprobs=0 if handle < 3 else None))
        await running(here, 3)
        first, second, third = here.engine.running
        # One after the other, within one turn of the loop: nothing is written between them.
        here.engine._hear().on_step(_step(first))
        here.engine._hear().on_step(_step(second))
        refusal = refusal_of_status(await exchange.failure(2))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED, "NOT_READING"
        )  # fmt: skip
        await until(lambda: here.engine.cancels == [(second, None)])
        await here.engine.finish(first, 8)
        await here.engine.finish(third, 8)
        await exchange.read_until(lambda: exchange[1].over and exchange[3].over)
    assert len(exchange[1].prompt_logprobs) == 400
    assert exchange[1].ids == {0: [7, 8]}


def _step(key: int) -> Step:
    return Step([Output(key, 0, [7], prompt_logprobs=scored(400))])
