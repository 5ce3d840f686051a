"""ActivityService: what a frontend does and has just done, after known work."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import grpc
import pytest
from tokenwire.frontend.v1 import activity_pb2 as fa

from tests.frontend.frontend_here import frontend_of
from tests.services.calls import (
    Frontend,
    duration,
    endless,
    generation,
    read_to_first_token,
    refused,
)
from tests.services.processes import SERVING, WAIT_S, wait_for_health

COMPLETED = fa.OUTCOME_COMPLETED
CANCELLED = fa.OUTCOME_CANCELLED
REFUSED = fa.OUTCOME_REFUSED
FAILED = fa.OUTCOME_FAILED


def watch(client: Frontend, interval_s: float = 0.1, records: int = 100) -> Any:
    """Watches the activity."""
    request = fa.WatchActivityRequest(interval=duration(interval_s), records=records)
    return client.activity.WatchActivity(request, timeout=WAIT_S)


def now(client: Frontend, records: int = 100) -> fa.WatchActivityResponse:
    """Returns the activity as it is once nothing is active any more."""
    call = watch(client, records=records)
    try:
        return next(each for each in call if not each.active_generations)
    finally:
        call.cancel()


def record(client: Frontend, request_id: str) -> fa.Record:
    request = fa.GetRecordRequest(request_id=request_id)
    return client.activity.GetRecord(request, timeout=WAIT_S).record


def outcomes(activity: fa.WatchActivityResponse) -> dict[int, int]:
    return {each.outcome: each.count for each in activity.outcomes}


@pytest.fixture(scope="module")
def own(lasting, shared_worker):
    """A frontend that remembers five generations, and nothing of other tests."""
    process = lasting.frontend("--records-limit", "5", workers=[shared_worker])
    with Frontend(process.address) as client:
        wait_for_health(client.raw, SERVING)
        yield client


def test_records_after_known_work(own):
    names = [secrets.token_hex(4) for _ in range(4)]
    before = now(own)
    whole = own.generate(generation("Hello", 8, request_id=names[0]))
    own.stream(endless(time_budget=duration(0.2), request_id=names[1]))
    with own.session() as session:
        session.open(1, endless(request_id=names[2]))
        session.read_until(lambda: len(session[1].deltas) > 3)
        session.cancel(1)
        [cancelled] = session.finish(1)
    refused(lambda: own.stream(generation(max_tokens=0, request_id=names[3])))
    after = now(own)
    told = [(each.request_id, each.outcome, each.reason) for each in after.records[:4]]
    assert told == [
        (names[3], REFUSED, "INVALID_FIELD"),
        (names[2], CANCELLED, "client_cancel"),
        (names[1], COMPLETED, "time_budget"),
        (names[0], COMPLETED, "length"),
    ]
    grown = {key: value - outcomes(before)[key] for key, value in outcomes(after).items()}
    assert grown == {COMPLETED: 2, CANCELLED: 1, REFUSED: 1, FAILED: 0}
    first = record(own, names[0])
    assert first == after.records[3]
    assert first.trace_id == whole.trace_id
    assert first.usage == whole.usage
    assert first.timings == whole.timings
    assert first.model == "demo"
    assert first.route_reason.startswith("prefix only load=")
    assert record(own, names[2]).usage == cancelled.completed.usage
    assert record(own, names[3]).route_reason == ""
    times = [each.received_at.ToNanoseconds() for each in after.records]
    assert times == sorted(times, reverse=True)


def test_a_deadline_is_a_cancel(own):
    """As the contract has it, whoever noticed it first."""
    for number in range(2):
        name = f"deadline-{number}"
        with pytest.raises(grpc.RpcError):
            own.stream(endless(request_id=name), timeout=0.2)
        now(own)
        assert (record(own, name).outcome, record(own, name).reason) == (CANCELLED, "deadline")


def test_it_forgets_the_oldest(own):
    for number in range(7):
        own.generate(generation(max_tokens=1, request_id=f"one-{number}"))
    kept = [each.request_id for each in now(own).records]
    assert kept == ["one-6", "one-5", "one-4", "one-3", "one-2"]
    assert [each.request_id for each in now(own, records=2).records] == kept[:2]
    assert list(now(own, records=0).records) == []
    refusal = refused(lambda: record(own, "one-1"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_REQUEST")
    assert "--records-limit" in refusal.message


def test_of_several_of_one_id_the_last_is_told(own):
    for tokens in (3, 5):
        own.generate(generation(max_tokens=tokens, request_id="twice"))
    assert record(own, "twice").usage.completion_tokens == 5


def test_quantiles_and_counts_of_tokens(own):
    before = now(own)
    answers = [own.generate(generation(f"Number {number}", 6)) for number in range(3)]
    after = now(own)
    assert after.prompt_tokens - before.prompt_tokens == sum(
        each.usage.prompt_tokens for each in answers
    )
    assert after.completion_tokens - before.completion_tokens == 18
    assert after.window == duration(60)
    assert after.uptime.ToNanoseconds() > before.uptime.ToNanoseconds()
    # Of the records that are kept, which are five.
    totals = sorted(each.timings.total.ToNanoseconds() for each in after.records)
    told = after.total
    assert told.count == 5
    assert told.p50.ToNanoseconds() == totals[2]
    assert told.p90 == told.p99
    assert told.p99.ToNanoseconds() == totals[4]
    for quantiles in (after.time_to_first_token, after.time_per_output_token):
        assert 0 < quantiles.count <= 5
        assert quantiles.p50.ToNanoseconds() <= quantiles.p99.ToNanoseconds()


def test_what_is_active_is_told_while_it_is(own):
    calls = [own.start(endless()) for _ in range(2)]
    for each in calls:
        read_to_first_token(each)
    activity = watch(own)
    busy = next(each for each in activity if each.workers[0].in_flight == 2)
    assert (busy.active_generations, busy.generations_limit) == (2, 1024)
    for each in calls:
        each.cancel()
    idle = next(each for each in activity if not each.active_generations)
    assert idle.workers[0].in_flight == 0
    assert [each.reason for each in idle.records[:2]] == ["client_gone"] * 2
    activity.cancel()


def test_names_beyond_all_bounds_are_cut(own):
    refused(lambda: own.stream(generation(model="m" * 50_000, request_id="r" * 50_000)))
    [newest] = now(own, records=1).records
    assert (newest.model, newest.request_id) == ("m" * 128, "r" * 128)


async def test_nothing_is_remembered_where_nothing_shall_be(plain_worker):
    async with frontend_of(plain_worker.address, records_limit=0) as frontend:
        await asyncio.to_thread(check_nothing_is_remembered, frontend.server.address)


def check_nothing_is_remembered(address: str) -> None:
    with Frontend(address) as client:
        wait_for_health(client.raw, SERVING)
        client.generate(generation(max_tokens=2, request_id="gone"))
        activity = now(client)
        assert (list(activity.records), activity.total.count) == ([], 0)
        assert not activity.total.HasField("p50")
        assert outcomes(activity)[COMPLETED] == 1
        assert refused(lambda: record(client, "gone")).reason == "UNKNOWN_REQUEST"
