"""Requests that no worker has room for: who goes next, who has to go, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tokenwire.channel_arguments import CLIENT
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import generation_pb2_grpc
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.generation import generation as generation_module
from tokenwire_frontend.workers.messages import duration

from tests.frontend.desk import AT_WORKER, Desk, check_no_room, desk
from tests.frontend.frontend_here import refused, until
from tests.frontend.scripted_worker import Stream
from tests.services.calls import generation
from tests.services.processes import WAIT_S


@pytest.fixture
async def here() -> AsyncIterator[Desk]:
    async with desk() as made:
        yield made


@asynccontextmanager
async def another_client(here: Desk) -> AsyncIterator[Any]:
    """Offers a stub with a connection of its own."""
    options = [*CLIENT, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(here.frontend.server.address, options) as channel:
        yield generation_pb2_grpc.GenerationServiceStub(channel)


# --- who goes next -------------------------------------------------------------------------------


async def test_a_worker_is_sent_little_more_than_it_runs_and_the_rest_waits_by_priority(here):
    await here.fill()
    for name, priority in {"first": 0, "low": -3, "second": 0, "high": 5}.items():
        await here.waits(name, priority=priority)
    assert here.came == []
    depths = here.frontend.generator.admission.queues.depths
    assert {priority: depth for (_, priority), depth in depths.items()} == {
        "normal": 2,
        "low": 1,
        "high": 1,
    }
    assert await here.order() == ["high", "first", "second", "low"]


async def test_what_goes_on_with_output_that_exists_is_first_of_its_caller(here):
    await here.fill()
    await here.waits("new")
    goes_on = generation([7, 8], 9, request_id="goes-on", output_so_far=[{"token_ids": [5]}])
    call = here.frontend.stream(goes_on)
    await until(lambda: here.queued == 2)
    assert await here.order() == ["goes-on", "new"]
    call.cancel()


async def test_a_flood_of_one_tenant_does_not_hold_up_another(here):
    await here.fill()
    for number in range(12):
        await here.waits(f"flood-{number}", "flood")
    for number in range(3):
        await here.waits(f"trickle-{number}", "trickle")
    order = await here.order()
    assert [name.split("-")[0] for name in order[:6]].count("trickle") == 3
    assert [name for name in order if name.startswith("flood")] == [
        f"flood-{number}" for number in range(12)
    ]


async def test_a_tenant_of_a_greater_weight_is_given_more(tmp_path):
    weights = "tenants: {heavy: {weight: 3}}"
    async with desk(tmp_path, weights) as here:
        await here.fill()
        for number in range(9):
            await here.waits(f"light-{number}", "light")
            await here.waits(f"heavy-{number}", "heavy")
        order = [name.split("-")[0] for name in await here.order()]
        # The last ones' unused tokens are not given back yet when the next is chosen.
        assert 5 <= order[:8].count("heavy") <= 7, order


async def test_a_session_full_of_requests_does_not_hold_up_other_clients(here):
    await here.fill()
    async with here.frontend.session() as session, another_client(here) as other:
        for number in range(1, 13):
            await session.open(number, generation([7, 8], 9, request_id=f"session-{number}"))
        await until(lambda: here.queued == 12)
        await here.waits("other", stub=other)
        for _ in range(2):
            await here.end_one()
        assert "other" in here.came
        for _ in range(10):
            await here.end_one()


# --- who leaves ----------------------------------------------------------------------------------


async def test_a_cancelled_request_leaves_the_queue_at_once(here):
    fillers = await here.fill()
    call = await here.waits("gone")
    await here.waits("stays")
    async with here.frontend.session() as session:
        await session.open(1, generation([7, 8], 9, request_id="gone-too"))
        await until(lambda: here.queued == 3)
        call.cancel()
        await session.call.write(fg.SessionRequest(cancel={"id": 1}))
        [ended] = await session.finish(1)
        assert ended.reason == fg.FINISH_REASON_CANCELLED
        await until(lambda: here.queued == 1)
    assert await here.order() == ["stays"]
    assert (await fillers[0]).usage.completion_tokens == 1


async def test_a_time_budget_that_is_spent_in_the_queue_gives_an_answer_without_tokens(here):
    await here.fill()
    answer = await (await here.waits("hurried", time_budget=duration(0.3)))
    assert answer.sequences[0].end.reason == fg.FINISH_REASON_TIME_BUDGET
    assert answer.usage.completion_tokens == 0
    assert (here.queued, here.came) == (0, [])


async def test_who_has_waited_for_as_long_as_one_may_is_refused():
    async with desk(queue_wait_s=0.3) as here:
        await here.fill()
        refusal = await refused(here.ask("late"))
        check_no_room(refusal, "QUEUE_TIMEOUT", "model:demo/wait")
        assert "0.3 s" in refusal.message
        assert (here.queued, here.came) == (0, [])


async def test_a_full_queue_refuses_the_last_or_gives_its_place_to_who_goes_before_it():
    async with desk(queue_limit=3) as here:
        await here.fill()
        calls = [await here.waits(f"flood-{number}", "flood") for number in range(3)]
        full = await refused(here.ask("flood-3", "flood"))
        check_no_room(full, "QUEUE_FULL", "model:demo/waiting_requests")
        assert "at most 3 requests" in full.message
        fair = here.ask("trickle", "trickle")
        shed = await refused(calls[2])
        check_no_room(shed, "QUEUE_FULL", "model:demo/waiting_requests")
        assert "place in the queue" in shed.message
        urgent = here.ask("urgent", "flood", priority=1)
        check_no_room(await refused(calls[1]), "QUEUE_FULL", "model:demo/waiting_requests")
        assert (await refused(here.ask("low", "third", priority=-1))).reason == "QUEUE_FULL"
        assert await here.order() == ["urgent", "trickle", "flood-0"]
        for call in (fair, urgent, calls[0]):
            call.cancel()


async def test_what_most_likely_comes_too_late_is_refused_at_once():
    """The queue's own pace tells: a few requests went through it, and hundreds wait."""
    async with desk(queue_wait_s=3600) as here, here.frontend.session() as session:
        await here.fill()
        for number in range(10):
            await here.waits(f"quick-{number}")
        await here.order()
        for number in range(1, 101):
            await session.open(number, generation([7, 8], 9))
        await until(lambda: here.queued == 100)
        budget = await refused(here.ask("budget", time_budget=duration(0.3)))
        check_no_room(budget, "BUDGET_TOO_SHORT", "model:demo/wait")
        assert "generation.time_budget has" in budget.message
        request = fg.GenerateRequest(generation=generation([7, 8], 9))
        deadline = await refused(here.frontend.generations.Generate(request, timeout=0.3))
        check_no_room(deadline, "BUDGET_TOO_SHORT", "model:demo/wait")
        assert "the call's deadline has" in deadline.message
        urgent = await here.waits("urgent", priority=1, time_budget=duration(30))
        await here.end_one()
        assert here.came[-1] == "urgent"
        urgent.cancel()


async def test_a_request_that_a_worker_has_no_room_for_after_all_comes_back_to_the_queue(here):
    take, refusals = here.worker.script, 2

    def refuse(stream: Stream, submit: pb.Submit) -> None:
        nonlocal refusals
        if not refusals:
            assert take is not None
            take(stream, submit)
            return
        refusals -= 1
        stream.fail(submit.handle)

    here.worker.script = refuse
    call = here.ask("patient")
    await until(lambda: here.came == ["patient"])
    await here.end_one()
    assert (await call).usage.completion_tokens == 1


async def test_the_time_budget_of_one_that_came_back_to_the_queue_ends_there(
    here, monkeypatch, early_timers
):
    monkeypatch.setattr(generation_module, "BUDGET_BACKSTOP_S", 1000.0)

    def refuse(stream: Stream, submit: pb.Submit) -> None:
        here.worker.report(running_sequences=1, waiting_requests=64)  # of another frontend
        stream.fail(submit.handle)

    here.worker.script = refuse
    answer = await here.ask("patient", time_budget=duration(1.0))
    assert answer.sequences[0].end.reason == fg.FINISH_REASON_TIME_BUDGET


async def test_requests_wait_for_a_worker_that_restarts(here, at_once):
    fillers = await here.fill()
    await here.waits("patient")
    await here.worker.restart()
    await until(lambda: here.came == ["patient"])
    for call in fillers:
        assert (await refused(call)).reason == "WORKER_LOST"


async def test_what_waits_when_a_drain_begins_is_finished_within_its_grace(here):
    await here.fill()
    call = await here.waits("accepted")
    drain = asyncio.create_task(here.frontend.generator.drain(WAIT_S))
    await here.frontend.generator.admission.closing.wait()
    assert (await refused(here.ask("new"))).reason == "DRAINING"
    await here.order()
    for _ in range(AT_WORKER):
        await here.end_one()
    assert (await call).usage.completion_tokens == 1
    await drain


async def test_what_waits_when_the_grace_of_a_drain_is_over_hears_so(here):
    await here.fill()
    call = await here.waits("accepted")
    await here.frontend.generator.drain(0.0)
    assert (await refused(call)).reason == "DRAINING"
    assert (here.queued, here.came) == (0, [])


async def test_without_a_queue_a_worker_is_sent_what_it_takes():
    async with desk(queue_limit=0) as here:
        here.worker.report(running_sequences=1, waiting_requests=63)
        link = here.frontend.link(here.worker)
        await until(lambda: link.load.waiting_requests == 63)
        here.ask("sent")
        await until(lambda: here.came == ["sent"])
        here.worker.report(running_sequences=1, waiting_requests=64)
        await until(lambda: link.load.waiting_requests == 64)
        refusal = await refused(here.ask("refused"))
        check_no_room(refusal, "QUEUE_FULL", "model:demo/waiting_requests")


async def test_the_time_in_the_queue_is_told(here):
    await here.fill()
    call = await here.waits("patient")
    await here.order()
    for _ in range(AT_WORKER):
        await here.end_one()
    stages = [each.name for each in (await call).timings.stages if each.service == "frontend"]
    # Before it stands how late a busy machine's loop was, if it was.
    assert [each for each in stages if each != "loop"][:1] == ["queue"]
