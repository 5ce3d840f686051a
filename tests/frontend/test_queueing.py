"""Requests that no worker has room for: who goes next, who has to go, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import ValidationError
from tokenwire.channel_arguments import CLIENT
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import generation_pb2_grpc
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.core.tenants import STRANGERS, Tenant, TenantLimits, Tenants, TenantTable
from tokenwire_frontend.generation import generation as generation_module
from tokenwire_frontend.settings import FrontendSettings
from tokenwire_frontend.tenants_file import read_tenants
from tokenwire_frontend.workers.messages import duration

from tests.frontend.frontend_here import FrontendHere, frontend_of, refused, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import Refusal, generation, refusal_of_status
from tests.services.processes import WAIT_S

AT_WORKER = 2
"""Requests that the desk's worker is sent: one that runs and one ahead."""


class Desk:
    """A worker that runs one request at a time, each until the test ends it."""

    def __init__(self, frontend: FrontendHere, worker: ScriptedWorker) -> None:
        self.frontend = frontend
        self.worker = worker
        self.came: list[str] = []
        """Ids of the requests that the worker was sent, in order."""
        self.priorities: dict[str, int] = {}
        self._at_worker: list[tuple[Stream, int]] = []
        worker.script = self._take

    def _take(self, stream: Stream, submit: pb.Submit) -> None:
        self.came.append(submit.request.request_id)
        self.priorities[submit.request.request_id] = submit.request.priority
        stream.accept(submit.handle)
        self._at_worker.append((stream, submit.handle))

    @property
    def queued(self) -> int:
        return sum(self.frontend.generator.admission.queues.depths.values())

    def ask(
        self, name: str, tenant: str = "", tokens: int = 9, stub: Any = None, **fields: Any
    ) -> Any:
        """Starts a call of a request."""
        what = generation([7, 8], tokens, request_id=name, **fields)
        return (stub or self.frontend.generations).Generate(
            fg.GenerateRequest(generation=what),
            timeout=WAIT_S,
            metadata=(("x-tokenwire-tenant", tenant),) if tenant else (),
        )

    async def fill(self) -> list[Any]:
        """Gives the worker as much as it is sent; returns the calls."""
        calls = []
        for number in range(AT_WORKER):
            calls.append(self.ask(f"filler-{number}"))
            await until(lambda: len(self.came) == len(calls))
        self.came.clear()
        return calls

    async def waits(self, name: str, tenant: str = "", **fields: Any) -> Any:
        """Starts a call that has to wait, and waits until it does."""
        queued = self.queued
        call = self.ask(name, tenant, **fields)
        await until(lambda: self.queued == queued + 1)
        return call

    async def end_one(self) -> None:
        """Has the worker end its oldest request, and waits until it has the next one."""
        count, queued = len(self.came), self.queued
        stream, handle = self._at_worker.pop(0)
        stream.tokens(handle, 5)
        stream.end(handle)
        stream.complete(handle, completion_tokens=1)
        if queued:
            await until(lambda: len(self.came) == count + 1)

    async def order(self) -> list[str]:
        """Ends one request after the other; returns the order in which those that waited came."""
        while self.queued:
            await self.end_one()
        return self.came


@asynccontextmanager
async def desk(tmp_path: Path | None = None, tenants: str = "", **settings: Any) -> Any:
    """Runs a desk; `tenants` is what the tenants file says."""
    if tmp_path is not None:
        file = tmp_path / "tenants.yaml"
        file.write_text(tenants)
        settings["tenants_file"] = file
    async with ScriptedWorker() as worker:
        worker.info.limits.running_sequences = 1
        worker.info.contract_revision = 4
        async with frontend_of(worker, **settings) as frontend:
            await frontend.wait_for(worker, LinkState.READY)
            yield Desk(frontend, worker)


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
        check(refusal, "QUEUE_TIMEOUT", "model:demo/wait")
        assert "0.3 s" in refusal.message
        assert (here.queued, here.came) == (0, [])


async def test_a_full_queue_refuses_the_last_or_gives_its_place_to_who_goes_before_it():
    async with desk(queue_limit=3) as here:
        await here.fill()
        calls = [await here.waits(f"flood-{number}", "flood") for number in range(3)]
        full = await refused(here.ask("flood-3", "flood"))
        check(full, "QUEUE_FULL", "model:demo/waiting_requests")
        assert "at most 3 requests" in full.message
        fair = here.ask("trickle", "trickle")
        shed = await refused(calls[2])
        check(shed, "QUEUE_FULL", "model:demo/waiting_requests")
        assert "place in the queue" in shed.message
        urgent = here.ask("urgent", "flood", priority=1)
        check(await refused(calls[1]), "QUEUE_FULL", "model:demo/waiting_requests")
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
        check(budget, "BUDGET_TOO_SHORT", "model:demo/wait")
        assert "generation.time_budget has" in budget.message
        request = fg.GenerateRequest(generation=generation([7, 8], 9))
        deadline = await refused(here.frontend.generations.Generate(request, timeout=0.3))
        check(deadline, "BUDGET_TOO_SHORT", "model:demo/wait")
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


async def test_the_time_budget_of_one_that_came_back_to_the_queue_ends_there(here, monkeypatch):
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
        check(refusal, "QUEUE_FULL", "model:demo/waiting_requests")


async def test_the_time_in_the_queue_is_told(here):
    await here.fill()
    call = await here.waits("patient")
    await here.order()
    for _ in range(AT_WORKER):
        await here.end_one()
    stages = [each.name for each in (await call).timings.stages if each.service == "frontend"]
    assert stages[:1] == ["queue"]


# --- tenants -------------------------------------------------------------------------------------


def check(refusal: Refusal, reason: str, quota: str) -> None:
    """Checks a refusal for want of room."""
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
    assert refusal.quotas == [quota]
    assert refusal.retry_after_s is not None
    assert 0 < refusal.retry_after_s <= 60


async def ended(here: Desk, call: Any) -> None:
    """Has the worker end the request of a call, which is its only one."""
    await until(lambda: here.came)
    await here.end_one()
    await call
    here.came.clear()


async def test_requests_a_minute(tmp_path):
    async with desk(tmp_path, "tenants: {acme: {requests_per_minute: 2}}") as here:
        for name in ("one", "two"):
            await ended(here, here.ask(name, "acme"))
        refusal = await refused(here.ask("three", "acme"))
        check(refusal, "TENANT_REQUESTS", "tenant:acme/requests_per_minute")
        assert 25 < refusal.retry_after_s <= 30
        assert "at most 2 requests a minute" in refusal.message
        async with here.frontend.session() as session:
            await session.open(1, generation([7, 8]))
            await until(lambda: here.came)
            await here.end_one()
            [other] = await session.finish(1)
            assert other.error is None, "another tenant has limits of its own"


async def test_limits_change_with_the_file(tmp_path, lines):
    """At once; a file that can't be used changes nothing."""
    async with desk(tmp_path, "tenants: {acme: {requests_per_minute: 2}}") as here:

        async def rewritten(text: str, event: str) -> None:
            known = sum(each["event"] == event for each in lines)
            (tmp_path / "tenants.yaml").write_text(text)
            here.frontend._files.reload()
            await until(lambda: sum(each["event"] == event for each in lines) > known)

        async def answer(name: str) -> str:
            """Returns why a request is refused; empty: it is not."""
            call = here.ask(name, "acme")
            await until(lambda: here.came or call.done())
            if call.done():
                return (await refused(call)).reason
            await here.end_one()
            await call
            here.came.clear()
            return ""

        assert [await answer("one"), await answer("two")] == ["", ""]
        assert await answer("three") == "TENANT_REQUESTS"
        await rewritten("tenants: {acme: {requests_per_minute: 0}}", "files_not_read")
        assert await answer("three") == "TENANT_REQUESTS"
        await rewritten("tenants: {acme: {requests_per_minute: 3}}", "files_read")
        assert await answer("three") == "TENANT_REQUESTS"
        await rewritten("tenants: {acme: {concurrent_generations: 1}}", "files_read")
        assert await answer("three") == ""


def test_a_share_of_a_minutes_amount_stays_used_where_the_amount_changes():
    tenant = Tenant("acme", "acme", TenantLimits(tokens_per_minute=1_000_000))
    assert tenant.token_wait_s(500_000, 1.0) == 0
    tenant.take_tokens(500_000)
    tenant.limit("acme", TenantLimits(tokens_per_minute=100))
    assert tenant.token_wait_s(50, 1.0) == 0
    assert tenant.token_wait_s(100, 1.0) == pytest.approx(30)


async def test_tokens_a_minute_are_counted_at_their_most_and_the_rest_is_given_back(tmp_path):
    async with desk(tmp_path, "default: {tokens_per_minute: 100}") as here:
        first = here.ask("first", "acme", tokens=60)
        await until(lambda: here.came)
        refusal = await refused(here.ask("second", "acme", tokens=60))
        check(refusal, "TENANT_TOKENS", "tenant:acme/tokens_per_minute")
        other = here.ask("other", "stranger", tokens=60)
        await until(lambda: len(here.came) == 2)
        await here.end_one()
        await first
        await here.end_one()
        await other
        here.came.clear()
        await ended(here, here.ask("second", "acme", tokens=60))
        await ended(here, here.ask("larger-than-a-minute", "another", tokens=900))


async def test_generations_at_once(tmp_path):
    async with desk(tmp_path, "tenants: {acme: {concurrent_generations: 1}}") as here:
        call = here.ask("one", "acme")
        await until(lambda: here.came)
        refusal = await refused(here.ask("two", "acme"))
        check(refusal, "TENANT_BUSY", "tenant:acme/concurrent_generations")
        await here.end_one()
        await call
        here.came.clear()
        await ended(here, here.ask("two", "acme"))


async def test_the_longest_prompt(tmp_path):
    async with desk(tmp_path, "tenants: {acme: {prompt_tokens: 3}}") as here:
        what = generation([7, 8, 9, 10], 9)
        metadata = (("x-tokenwire-tenant", "acme"),)
        refusal = await refused(
            here.frontend.generations.Generate(
                fg.GenerateRequest(generation=what), metadata=metadata
            )
        )
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "PROMPT_TOO_LONG",
        )
        assert refusal.fields == ["generation.prompt"]
        assert refusal.quotas == ["tenant:acme/prompt_tokens"]
        await ended(here, here.frontend.generate(what))


async def test_the_highest_priority(tmp_path):
    async with desk(tmp_path, "tenants: {acme: {highest_priority: 2}}") as here:
        await here.fill()
        await here.waits("acme", "acme", priority=100)
        await here.waits("other", priority=3)
        assert await here.order() == ["other", "acme"]
        assert here.priorities["acme"] == 2


async def test_by_session_a_limit_is_an_error_of_the_generation(tmp_path):
    limit = "default: {concurrent_generations: 1}"
    async with desk(tmp_path, limit) as here, here.frontend.session() as session:
        for number in (1, 2):
            await session.open(number, generation([7, 8], 9))
        [second] = await session.finish(2)
        refusal = refusal_of_status(second.error)
        check(refusal, "TENANT_BUSY", "tenant:/concurrent_generations")
        await here.end_one()
        await session.finish(1)


WRONG = {
    ":2:1: ": "tenants: [",
    ":1:39: acme stands here twice": "tenants: {acme: {weight: 2}, b: {}, ".ljust(38) + "acme: {}}",
    "is nested more than 64 deep": "[" * 100_000,
    "tenants.acme.burst: Extra inputs are not permitted": "tenants: {acme: {burst: 3}}",
    "default.weight: Input should be greater than or equal to 0.01": "default: {weight: 0}",
    "'two words' is not": "tenants: {two words: {weight: 2}}",
    "tenants.acme.requests_per_minute": "tenants: {acme: {requests_per_minute: many}}",
}


@pytest.mark.parametrize(("words", "text"), WRONG.items(), ids=range(len(WRONG)))
def test_a_tenants_file_that_says_something_else_is_refused_with_the_place(tmp_path, words, text):
    path = tmp_path / "tenants.yaml"
    path.write_text(text)
    with pytest.raises(ValidationError) as refusal:
        FrontendSettings(worker=["127.0.0.1:1"], tenants_file=path)
    assert str(path) in str(refusal.value)
    assert words in str(refusal.value)


def test_what_a_named_tenant_does_not_say_is_the_defaults(tmp_path):
    path = tmp_path / "tenants.yaml"
    path.write_text("""
        default: {requests_per_minute: 5, prompt_tokens: 7}
        tenants: {acme: {requests_per_minute: null, weight: 2}}
    """)
    table = read_tenants(path)
    assert table.named["acme"] == TenantLimits(weight=2, prompt_tokens=7)
    assert table.default == TenantLimits(requests_per_minute=5, prompt_tokens=7)


def test_limits_that_change_count_at_once_and_strangers_are_forgotten_in_time():
    table = TenantTable(TenantLimits(requests_per_minute=1), {"acme": TenantLimits()})
    tenants = Tenants(lambda: table)
    stranger = tenants.named("stranger")
    assert stranger.request_wait_s(0.0) == 0
    stranger.take_request()
    assert 0 < tenants.named("stranger").request_wait_s(1.0) <= 60
    tenants.named("acme").generations = 1
    for number in range(STRANGERS + 1):
        tenants.named(str(number))
    assert tenants.named("stranger") is not stranger
    assert tenants.named("acme").generations == 1
    table = TenantTable(TenantLimits(), {"acme": TenantLimits(concurrent_generations=1)})
    assert tenants.named("stranger").request_wait_s(1.0) == 0
    assert (tenants.named("acme").limits.concurrent_generations) == 1
    assert [tenants.named(name).label for name in ("acme", "stranger")] == ["acme", "other"]
