"""A request that would wait for longer than its time budget is refused before any work on it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.core.routing.candidate import Candidate
from tokenwire_frontend.workers.messages import duration

from tests.frontend.frontend_here import FrontendHere, frontend_of, refused, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import generation, refusal_of_status
from tests.services.processes import WAIT_S

BUSY = {"running_sequences": 64, "waiting_requests": 3}
"""A load: the engine has no room."""


def within(budget_s: float | None, **fields: Any) -> Any:
    """A request with a time budget."""
    if budget_s is not None:
        fields["time_budget"] = duration(budget_s)
    return generation([7, 8], max_tokens=9, **fields)


async def told(frontend: FrontendHere, worker: ScriptedWorker, **load: Any) -> None:
    """Has a worker tell of its load, and waits until the frontend has heard."""
    times = {name: duration(load.pop(name)) for name in ("step", "queue") if name in load}
    usage = float(load.setdefault("kv_cache_usage", 0.5))
    worker.report(**load, **times)
    link = frontend.link(worker)
    running = load.get("running_sequences", 0)
    await until(
        lambda: link.load.kv_cache_usage == usage and link.load.running_sequences == running
    )


async def answered(stream: Stream, call: Any) -> Any:
    """Has the worker answer the next request with three tokens; returns the call's answer."""
    stream.generate((await stream.submit()).handle, 5, 6, 7)
    return await call


async def test_one_that_would_wait_for_longer_is_refused_before_it_is_tokenised(
    frontend, worker, monkeypatch, lines
):
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(frontend.generator.tokenizers, "encode", never)
    await told(frontend, worker, **BUSY, queue=300.0, step=25.0)
    refusal = await refused(frontend.generate(within(200.0)))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "BUDGET_TOO_SHORT",
    )
    assert "generation.time_budget has 200 s left" in refusal.message
    assert "325 s" in refusal.message
    assert refusal.quotas == ["model:demo/wait"]
    assert refusal.retry_after_s == pytest.approx(125.0, abs=5.0)
    assert refusal.info.metadata["wait_s"] == "325.000"
    async with frontend.session() as session:
        await session.open(1, within(200.0))
        [by_session] = await session.finish(1)
    assert refusal_of_status(by_session.error).reason == "BUDGET_TOO_SHORT"
    assert not [stream.messages for stream in worker.streams if stream.messages]
    refusals = [line for line in lines if line.get("outcome") == "refused"]
    assert [line["reason"] for line in refusals] == ["BUDGET_TOO_SHORT"] * 2
    assert frontend.generator.admission.held == 0


ADMITTED = {
    "a budget that is long enough": ({**BUSY, "queue": 300.0, "step": 25.0}, within(350.0)),
    "no budget": ({**BUSY, "queue": 300.0}, within(None)),
    "a higher priority": ({**BUSY, "queue": 300.0}, within(200.0, priority=1)),
    "room in the engine": ({"queue": 0.0, "step": 60.0}, within(30.0)),
    "a wait that is not known": ({**BUSY, "step": 60.0}, within(30.0)),
    "a wait that can't be right": ({**BUSY, "queue": -5.0}, within(30.0)),
}


@pytest.mark.parametrize(("load", "what"), ADMITTED.values(), ids=ADMITTED)
async def test_what_is_not_refused(frontend, worker, load, what):
    await told(frontend, worker, **load)
    await answered(await worker.stream(), frontend.generate(what))


async def test_the_worker_that_is_free_first_counts(worker, other):
    async with frontend_of(worker, other) as frontend:
        for each in (worker, other):
            await frontend.wait_for(each, LinkState.READY)
        await told(frontend, worker, **BUSY, queue=300.0)
        await told(frontend, other, **BUSY, queue=250.0)
        refusal = await refused(frontend.generate(within(200.0)))
        assert refusal.info.metadata["wait_s"] == "250.000"
        await told(frontend, other, running_sequences=63, queue=0.0, kv_cache_usage=0.25)
        await answered(await other.stream(), frontend.generate(within(200.0)))


async def test_what_was_sent_since_the_report_counts(frontend, worker):
    await told(frontend, worker, running_sequences=64, queue=100.0)
    stream = await worker.stream()
    first = frontend.stream(within(150.0))
    handle = (await stream.submit()).handle
    refusal = await refused(frontend.generate(within(150.0)))
    assert refusal.info.metadata["wait_s"] == "200.000"
    stream.generate(handle, 5)
    async with asyncio.timeout(WAIT_S):
        async for _ in first:
            pass
    await answered(stream, frontend.generate(within(150.0)))


@pytest.mark.parametrize(
    ("running", "waiting", "unreported", "queue_s", "wait_s"),
    [
        (8, 0, 0, 2.0, 2.5),
        (8, 3, 0, 8.0, 8.5),
        (8, 3, 4, 8.0, 16.5),
        (8, 3, -2, 8.0, 4.5),
        (8, 3, -4, 8.0, 0.0),
        (8, 3, -9, 8.0, 0.0),
        # One of several sequences waits at the head, though there is room for what comes since.
        (6, 1, 2, 4.0, 4.5),
        (6, 1, 4, 4.0, 8.5),
        (4, 0, 0, 0.0, 0.0),
        (4, 0, 99, 0.0, 0.0),
        (8, 3, 0, None, None),
    ],
)
def test_the_wait_goes_with_what_came_since_the_report(
    running, waiting, unreported, queue_s, wait_s
):
    worker = Candidate("a", running, waiting, unreported, 8, step_s=0.5, queue_s=queue_s)
    assert worker.wait_s == wait_s
