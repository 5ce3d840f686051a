"""What a tenant may have: requests, tokens and generations, how long prompts, what priority."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from pydantic import ValidationError
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire_frontend.core.tenants import STRANGERS, Tenant, TenantLimits, Tenants, TenantTable
from tokenwire_frontend.settings import FrontendSettings
from tokenwire_frontend.tenants_file import read_tenants

from tests.frontend.desk import Desk, check_no_room, desk
from tests.frontend.frontend_here import refused, until
from tests.services.calls import generation, refusal_of_status


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
        check_no_room(refusal, "TENANT_REQUESTS", "tenant:acme/requests_per_minute")
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
        check_no_room(refusal, "TENANT_TOKENS", "tenant:acme/tokens_per_minute")
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
        check_no_room(refusal, "TENANT_BUSY", "tenant:acme/concurrent_generations")
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
        check_no_room(refusal, "TENANT_BUSY", "tenant:/concurrent_generations")
        await here.end_one()
        await session.finish(1)


WRONG = {
    ":2:1: ": "tenants: [",
    ":1:39: acme stands here twice": "tenants: {acme: {weight: 2}, b: {}, ".ljust(38) + "acme: {}}",
    "is nested more than 64 deep": "[" * 100_000,
    "tenants.acme.burst: unknown setting": "tenants: {acme: {burst: 3}}",
    "default.weight: should be greater than or equal to 0.01, not 0": "default: {weight: 0}",
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
