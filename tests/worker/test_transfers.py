"""Prompts that go to another worker, or come from one: what callers are told, and refused."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tokenwire_service.limits import TRANSFER_HANDLE_BYTES
from tokenwire_worker import dispatcher
from tokenwire_worker.engines.port import Ability, Finish, Output

from tests.services.calls import refusal_of_status
from tests.worker.calls import CANCELLED, LENGTH, request
from tests.worker.scripted_engine import ScriptedEngine
from tests.worker.worker_here import running, worker_of


def able(**fields) -> ScriptedEngine:
    return ScriptedEngine(transfers="scripted", **fields)


async def test_a_prompt_alone_brings_a_handle_and_no_token():
    async with worker_of(able()) as here, here.exchange() as exchange:
        await exchange.submit(1, request(prefill_only=True))
        await running(here)
        key = here.engine.key
        assert here.engine.running[key].prefill_only
        ended = Output(key, 0, [], Finish.LENGTH, cached_prompt_tokens=16, transfer_handle=b"h")
        await here.engine.step(ended, started=[key])
        await exchange.read_until(lambda: exchange[1].over)
        done = exchange[1]
        assert (done.ids, done.reasons) == ({}, [LENGTH])
        told = done.completed
        assert (told.prompt_tokens, told.completion_tokens) == (40, 0)
        assert (told.transfer_handle, told.cached_prompt_tokens) == (b"h", 16)
        assert told.HasField("prefill")
        assert not told.HasField("decode")
        await here.quiet()


async def test_what_was_fetched_is_told_with_the_end():
    async with worker_of(able()) as here, here.exchange() as exchange:
        await exchange.submit(1, request(max_tokens=1, transfer_handle=b"h"))
        await running(here)
        assert here.engine.running[here.engine.key].transfer_handle == b"h"
        ids = {"cached_prompt_tokens": 0, "fetched_prompt_tokens": 39, "finish": Finish.LENGTH}
        await here.engine.tokens(here.engine.key, 7, **ids)
        await exchange.read_until(lambda: exchange[1].over)
        assert exchange[1].completed.fetched_prompt_tokens == 39


async def test_a_cancelled_prompt_has_no_handle():
    async with worker_of(able()) as here, here.exchange() as exchange:
        await exchange.submit(1, request(prefill_only=True))
        await running(here)
        await exchange.cancel(1)
        await exchange.read_until(lambda: exchange[1].over)
        assert exchange[1].reasons == [CANCELLED]
        assert exchange[1].completed.transfer_handle == b""
        await here.quiet()


async def test_a_handle_that_is_too_large_fails_its_generation_alone():
    async with worker_of(able()) as here, here.exchange() as exchange:
        await exchange.submit(1, request(prefill_only=True))
        await running(here)
        handle = b"x" * (TRANSFER_HANDLE_BYTES + 1)
        await here.engine.step(
            Output(here.engine.key, 0, [], Finish.LENGTH, transfer_handle=handle)
        )
        assert refusal_of_status(await exchange.failure(1)).reason == "ENGINE_FAILED"


@pytest.mark.parametrize(
    ("engine", "asked", "field"),
    [
        ({}, {"prefill_only": True}, "prefill_only"),
        ({}, {"transfer_handle": b"h"}, "transfer_handle"),
        (None, {"prefill_only": True, "sequence_count": 2}, "prefill_only"),
        (None, {"prefill_only": True, "prompt_logprobs": 0}, "prefill_only"),
        (None, {"transfer_handle": b"h", "output_so_far": [9]}, "transfer_handle"),
        (None, {"transfer_handle": b"h", "prefill_only": True}, "transfer_handle"),
        (None, {"transfer_handle": b"x" * (TRANSFER_HANDLE_BYTES + 1)}, "transfer_handle"),
    ],
)
async def test_what_can_not_be_is_refused_by_the_field(engine, asked, field):
    abilities = frozenset({Ability.PROMPT_LOGPROBS})
    chosen = able(abilities=abilities) if engine is None else ScriptedEngine(**engine)
    async with worker_of(chosen) as here, here.exchange() as exchange:
        await exchange.submit(1, request(**asked))
        refusal = refusal_of_status(await exchange.failure(1))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.fields == [f"request.{field}"]


async def test_what_the_engine_does_not_hand_over_is_refused_before_anything_runs():
    engine = able(not_handed_over=frozenset({"sampling.seed", "logprobs"}))
    async with worker_of(engine) as here, here.exchange() as exchange:
        seeded = {"sampling": {"temperature": 1.0, "seed": 0}}
        await exchange.submit(1, request(prefill_only=True, **seeded))
        refusal = refusal_of_status(await exchange.failure(1))
        assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refusal.reason == "PROMPT_NOT_HANDED_OVER"
        assert refusal.fields == ["request.sampling.seed"]
        for handle, asked in ((2, request(prefill_only=True)), (3, request(**seeded))):
            await exchange.submit(handle, asked)
            await running(here, handle - 1)
        await exchange.cancel(2)
        await exchange.cancel(3)
        await here.quiet()


async def test_a_worker_that_drains_lets_its_last_prompt_be_fetched(monkeypatch):
    monkeypatch.setattr(dispatcher, "FETCH_S", 0.2)
    async with worker_of(able()) as here, here.exchange() as exchange:
        await exchange.submit(1, request(prefill_only=True))
        await running(here)
        loop = asyncio.get_running_loop()
        await here.engine.step(Output(here.engine.key, 0, [], Finish.LENGTH, transfer_handle=b"h"))
        began_s = loop.time()
        await here.dispatcher.drain(5.0)
        assert loop.time() - began_s > 0.1
        assert await exchange.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("engine", "group", "told"),
    [("", "rack", ""), ("scripted", "", "scripted"), ("scripted", "rack", "scripted rack")],
)
async def test_the_group_is_the_engines_and_the_operators(engine, group, told):
    from tokenwire_worker.edge.worker_servicer import Identity, WorkerServicer

    async with worker_of(ScriptedEngine(transfers=engine)) as here:
        identity = Identity("w", "m", "prefill", group)
        files = WorkerServicer(identity, here.dispatcher, _NoFiles())
        info = await files.GetWorkerInfo(None, None)
        assert (info.transfer_group, info.phases) == (told, 1)


class _NoFiles:
    fingerprint = ""
