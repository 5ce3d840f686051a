"""New requests of a model whose workers are away for a moment: they wait, and for how long."""

from __future__ import annotations

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.generation import generator
from tokenwire_frontend.generation.queues import Line
from tokenwire_frontend.workers.messages import duration

from tests.frontend.desk import AT_WORKER, Desk, desk
from tests.frontend.frontend_here import frontend_of, refused, until
from tests.frontend.scripted_worker import Stream
from tests.services.calls import Refusal, generation
from tests.services.processes import WAIT_S

pytestmark = pytest.mark.usefixtures("at_once")


def check_none_ready(refusal: Refusal) -> None:
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")
    assert refusal.retry_after_s


async def stop_worker(here: Desk) -> None:
    await here.worker.stop()
    await here.frontend.wait_for(here.worker, LinkState.CONNECTING)


async def test_they_wait_in_the_queue_and_go_by_its_order():
    async with desk(worker_wait_s=WAIT_S) as here:
        await stop_worker(here)
        cancelled = await here.waits("cancelled", priority=9)
        for name, priority in {"first": 0, "second": 0, "urgent": 5}.items():
            await here.waits(name, priority=priority)
        hurried = await here.ask("hurried", time_budget=duration(0.2))
        assert hurried.sequences[0].end.reason == fg.FINISH_REASON_TIME_BUDGET
        cancelled.cancel()
        await until(lambda: here.queued == 3)
        await here.worker.start()
        await until(lambda: len(here.came) == AT_WORKER)
        assert await here.order() == ["urgent", "first", "second"]


async def test_where_none_is_back_in_time_they_are_refused_and_the_next_at_once(monkeypatch):
    async with desk(worker_wait_s=0.3) as here:
        await here.fill()
        await here.waits("patient")  # for room, as long as one waits for that
        await stop_worker(here)
        check_none_ready(await refused(here.ask("hopeful")))
        assert here.queued == 1
        with monkeypatch.context() as patched:
            patched.setattr(Line, "join", None)  # so that whoever waits fails as a fault
            check_none_ready(await refused(here.ask("late")))
        await here.worker.start()
        await until(lambda: here.came == ["patient"])


async def test_without_a_queue_or_a_model_they_are_refused_at_once():
    async with desk(worker_wait_s=WAIT_S, queue_limit=0) as here:
        await stop_worker(here)
        check_none_ready(await refused(here.ask("no-queue")))
    async with frontend_of("127.0.0.1:1", worker_wait_s=WAIT_S) as frontend:
        check_none_ready(await refused(frontend.generate(generation(model="demo"))))


@pytest.mark.parametrize("reason", ["DRAINING", "ENGINE_DIED", "WORKER_LOST"])
async def test_what_a_leaving_worker_has_not_accepted_waits_for_the_next(reason):
    async with desk(worker_wait_s=WAIT_S) as here:
        take = here.worker.script
        submits: list[pb.Submit] = []

        def leave(stream: Stream, submit: pb.Submit) -> None:
            submits.append(submit)
            if reason != "WORKER_LOST":
                here.worker.report(draining=True)
                stream.fail(submit.handle, grpc.StatusCode.UNAVAILABLE, reason)

        here.worker.script = leave
        call = here.ask("patient")
        await until(lambda: submits)
        if reason == "WORKER_LOST":
            await here.worker.stop()
        await until(lambda: here.queued == 1)
        here.worker.report()
        here.worker.script = take
        await here.worker.restart()
        await until(lambda: here.came == ["patient"])
        await here.end_one()
        assert (await call).usage.completion_tokens == 1


async def test_one_whose_worker_leaves_while_it_is_tokenised_waits_too(monkeypatch):
    async with desk(worker_wait_s=WAIT_S) as here:
        tokenise = generator.prompt.tokenise

        async def last(*arguments):
            monkeypatch.setattr(generator.prompt, "tokenise", tokenise)
            await stop_worker(here)
            return await tokenise(*arguments)

        monkeypatch.setattr(generator.prompt, "tokenise", last)
        here.ask("patient")
        await until(lambda: here.queued == 1)
        await here.worker.start()
        await until(lambda: here.came == ["patient"])


async def test_ids_of_one_tokenizer_do_not_go_to_a_worker_that_came_back_with_another():
    async with desk(worker_wait_s=WAIT_S) as here:
        await stop_worker(here)
        call = await here.waits("patient")
        here.worker.files["tokenizer.json"] += b"\n"
        await here.worker.start()
        check_none_ready(await refused(call))
        here.ask("next")
        await until(lambda: here.came == ["next"])
