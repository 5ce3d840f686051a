"""What calls have waited for a busy event loop is a part of their times."""

from __future__ import annotations

import asyncio
import time

from tokenwire_frontend.core.link_state import LinkState
from tokenwire_service.telemetry import loop_lag

from tests.frontend.frontend_here import frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker
from tests.services.calls import generation

HELD_S = 0.05


async def test_the_last_lag_is_what_the_loop_was_held_up_for(monkeypatch):
    monkeypatch.setattr(loop_lag, "INTERVAL_S", HELD_S / 4)
    watch = asyncio.create_task(loop_lag.watch({}))
    try:
        await asyncio.sleep(0)  # it begins
        time.sleep(HELD_S)  # noqa: ASYNC251 - holds the loop up, which is what is measured
        for _ in range(4):  # turns of the loop in which its timer runs
            await asyncio.sleep(0)
        assert loop_lag.last_s() > HELD_S / 2
        await until(lambda: loop_lag.last_s() < HELD_S / 2)
    finally:
        watch.cancel()
        monkeypatch.setattr(loop_lag, "_last_s", 0.0)


async def test_a_call_waited_for_it_before_its_handler_ran(monkeypatch):
    async with ScriptedWorker() as worker, frontend_of(worker) as frontend:
        worker.script = lambda stream, submit: stream.generate(submit.handle, 300)
        await frontend.wait_for(worker, LinkState.READY)
        monkeypatch.setattr(loop_lag, "_last_s", 5.0)
        done = await frontend.generate(generation("Hello", 1))
    waited = done.timings.stages[0]
    assert (waited.name, waited.start.ToNanoseconds()) == ("loop", 0)
    assert waited.duration.ToNanoseconds() == 5 * 10**9
    assert done.timings.time_to_first_token.ToNanoseconds() > 5 * 10**9


async def test_what_a_call_is_thought_to_have_waited_is_not_taken_from_its_budget(monkeypatch):
    async with ScriptedWorker() as worker, frontend_of(worker) as frontend:
        worker.script = lambda stream, submit: stream.generate(submit.handle, 300)
        await frontend.wait_for(worker, LinkState.READY)
        monkeypatch.setattr(loop_lag, "_last_s", 500.0)
        done = await frontend.generate(generation("Hello", 1, time_budget={"seconds": 100}))
        assert list(done.sequences[0].token_ids) == [300]
        left = (await worker.streams[0].submit()).request.time_budget
    assert 50 < left.seconds <= 100
