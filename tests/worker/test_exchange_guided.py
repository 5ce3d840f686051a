"""Guided generations on Exchange while their guides are tried: nobody waits for nothing."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tokenwire_worker.engines.port import Busy, Refused, Untried

from tests.services.calls import refusal_of_status
from tests.worker.calls import CANCELLED, TIME_BUDGET, request
from tests.worker.scripted_engine import ScriptedEngine
from tests.worker.worker_here import NOTHING, guided, until, worker_of


async def test_a_cancel_ends_a_generation_whose_guide_is_being_tried(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided())
        await until(lambda: here.engine.checks)
        await exchange.cancel(1)
        await exchange.read_until(lambda: exchange[1].over)
        assert exchange[1].reasons == [CANCELLED]
        assert here.engine.checks[0].cancelled(), "nothing is tried for nobody"
        assert not here.engine.running


async def test_sequences_cancelled_while_the_guide_is_tried_stay_cancelled(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided(sequence_count=3))
        await until(lambda: here.engine.checks)
        for _ in range(1000):
            await exchange.cancel(1, 2, 0, 77)
        await exchange.submit(2, guided())
        await until(lambda: len(here.engine.checks) == 2)
        here.engine.checks[0].set_result(None)
        await exchange.read_until(lambda: len(exchange[1].endings) == 2)
        assert set(exchange[1].endings) == {0, 2}
        await exchange.cancel(2)
        await exchange.read_until(lambda: exchange[2].over)


async def test_cancelling_each_sequence_alone_while_tried_cancels_it(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided(sequence_count=2))
        await exchange.cancel(1, 0)
        await exchange.cancel(1, 1)
        await exchange.read_until(lambda: exchange[1].over)
        assert exchange[1].reasons == [CANCELLED, CANCELLED]


async def test_a_budget_ends_a_generation_whose_guide_is_being_tried(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided(time_budget=0.05))
        await exchange.read_until(lambda: exchange[1].over)
        assert exchange[1].reasons == [TIME_BUDGET]
        assert here.engine.checks[0].cancelled()


async def test_hanging_up_stops_a_trial(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided())
        await until(lambda: here.engine.checks)
    await until(here.engine.checks[0].cancelled)


@pytest.mark.parametrize(
    ("raised", "arguments", "code", "reason"),
    [
        (Refused, ("guide.regex", "unclosed"), "INVALID_ARGUMENT", "INVALID_FIELD"),
        (Busy, ("GUIDE_QUEUE_FULL", "busy", 1.0), "RESOURCE_EXHAUSTED", "GUIDE_QUEUE_FULL"),
        (Untried, ("its process was lost", 1.0), "UNAVAILABLE", "GUIDE_UNTRIED"),
        (RuntimeError, ("boom",), "INTERNAL", "INTERNAL_FAULT"),
        (TimeoutError, (), "INTERNAL", "INTERNAL_FAULT"),
        (asyncio.CancelledError, (), "INTERNAL", "INTERNAL_FAULT"),
    ],
    ids=["refused", "busy", "untried", "fault", "timeout", "cancelled"],
)
async def test_what_a_trial_raises_ends_that_generation_and_no_other(
    here, lines, raised, arguments, code, reason
):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided())
        await exchange.submit(2, request())
        await until(lambda: here.engine.checks)
        here.engine.checks[0].set_exception(raised(*arguments))
        refusal = refusal_of_status(await exchange.failure(1))
        assert (refusal.code.name, refusal.reason) == (code, reason)
        if code == "INTERNAL":
            (line,) = [line for line in lines if line["event"] == "generation_fault"]
            assert line["trace_id"] in refusal.message
        await here.engine.finish(here.engine.key, 7)
        await exchange.read_until(lambda: exchange[2].over)
        assert exchange[2].ids == {0: [7]}


@pytest.mark.parametrize("how", ["drain", "death"])
async def test_a_trial_that_outlasts_the_worker_is_told_so(lines, how):
    engine = ScriptedEngine()
    async with worker_of(engine) as here, here.exchange() as exchange:
        await exchange.submit(1, guided())
        await until(lambda: engine.checks)
        if how == "drain":
            await here.dispatcher.drain(0.01)
        else:
            await engine.die()
        refusal = refusal_of_status(await exchange.failure(1))
        assert refusal.reason == {"drain": "DRAINING", "death": "ENGINE_DIED"}[how]
        assert await exchange.code() is grpc.StatusCode.OK
        assert here.held == NOTHING
