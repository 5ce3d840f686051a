"""What a frontend tells of itself: the activity as it comes, and single records."""

import asyncio
import gc
from datetime import UTC, datetime

import grpc
import pytest
from tokenwire import (
    Activity,
    AsyncClient,
    Client,
    DeadlineExceededError,
    NotFoundError,
    Outcome,
    Quantiles,
    Record,
    Stage,
    Timings,
    UnavailableError,
    Usage,
)
from tokenwire.frontend.v1 import activity_pb2

from tests.client.activity_messages import FIRST, SECOND
from tests.client.scripted_server import (
    ACTIVITY,
    OVERLOADED,
    WAIT_S,
    Disconnect,
    Hold,
    reason,
    status,
)

DRAINING = status(grpc.StatusCode.UNAVAILABLE, "draining", reason("DRAINING"))


async def reached(event):
    assert await asyncio.to_thread(event.wait, WAIT_S)


async def test_a_snapshot_is_the_frontend_s_activity(twin, server):
    stream = twin.activity(interval_s=0.5, records=2)
    first = await twin.read_one(stream)
    assert isinstance(first, Activity)
    assert [each.address for each in first.workers] == ["127.0.0.1:50061", "127.0.0.1:50062"]
    assert [each.state for each in first.workers] == ["ready", "connecting"]
    assert (first.active_generations, first.generations_limit) == (3, 64)
    assert (first.prompt_tokens, first.completion_tokens) == (50_000, 20_000)
    assert first.outcomes == {Outcome.COMPLETED: 100, Outcome.REFUSED: 1}
    assert (first.window_s, first.uptime_s) == (60.0, 3723.0)
    assert first.time_to_first_token == Quantiles(12, 0.043, 0.12, 0.26)
    assert first.total == Quantiles(0, None, None, None)
    assert [each.request_id for each in first.records] == ["ea0d8bda55f8184c", "job-7"]
    assert (await twin.read_one(stream)).outcomes["completed"] == 103
    assert server.last.interval.ToMilliseconds() == 500
    assert server.last.records == 2
    await twin.cancel(stream)


async def test_by_default_a_snapshot_comes_every_second(twin, server):
    stream = twin.activity()
    await twin.read_one(stream)
    assert (server.last.interval.ToMilliseconds(), server.last.records) == (1000, 10)
    await twin.cancel(stream)


async def test_a_record_is_a_whole_generation(twin):
    record = await twin.call("record", "ea0d8bda55f8184c")
    assert record == Record(
        request_id="ea0d8bda55f8184c",
        trace_id="cd" * 16,
        received_at=datetime(2027, 1, 15, 8, 0, 0, 250_000, tzinfo=UTC),
        model="demo",
        outcome=Outcome.COMPLETED,
        reason="stop",
        route_reason="prefix",
        usage=Usage(870, 193, 832),
        timings=Timings(
            time_to_first_token_s=0.043,
            time_per_output_token_s=0.005,
            total_s=1.1,
            stages=[
                Stage("frontend", "tokenize", 0.001, 0.002),
                Stage("worker", "prefill", 0.005, 0.038),
                Stage("worker", "decode", 0.043, 1.057),
            ],
            worker="w-1",
        ),
    )


async def test_a_refused_generation_has_no_times(twin):
    stream = twin.activity()
    refused = (await twin.read_one(stream)).records[1]
    assert (refused.outcome, refused.reason) == (Outcome.REFUSED, "QUEUE_FULL")
    assert (refused.usage, refused.timings) == (Usage(0, 0), Timings())
    await twin.cancel(stream)


async def test_a_record_that_is_forgotten_is_not_found(twin):
    with pytest.raises(NotFoundError, match="no record of request 'old'") as caught:
        await twin.call("record", "old")
    assert caught.value.reason == "UNKNOWN_REQUEST"


async def test_outcomes_that_this_version_does_not_know_count_as_one(twin, server):
    new = activity_pb2.WatchActivityResponse(
        outcomes=[activity_pb2.OutcomeCount(outcome=number, count=2) for number in (77, 78)],
        records=[activity_pb2.Record(outcome=77)],
    )
    server.play(ACTIVITY, new)
    (snapshot,) = await twin.read(twin.activity())
    assert snapshot.outcomes == {Outcome.UNKNOWN: 4}
    assert snapshot.records[0].outcome == "unknown"


async def test_the_stream_ends_where_the_frontend_ends_it(twin, server):
    server.play(ACTIVITY, FIRST, SECOND)
    stream = twin.activity()
    assert len(await twin.read(stream)) == 2
    assert await twin.read(stream) == []


async def test_cancel_ends_the_stream_here_and_on_the_server(twin, server):
    hold = Hold()
    server.play(ACTIVITY, FIRST, hold)
    stream = twin.activity()
    await twin.read_one(stream)
    reader = asyncio.create_task(twin.read(stream))
    await reached(hold.reached)
    await twin.cancel(stream)
    assert await reader == []
    await reached(hold.cancelled)
    await twin.cancel(stream)


async def test_leaving_the_block_ends_the_stream(server):
    first, second = Hold(), Hold()
    server.play(ACTIVITY, FIRST, first)
    server.play(ACTIVITY, FIRST, second)
    with Client(server.address) as client, client.activity():
        await reached(first.reached)
    async with AsyncClient(server.address) as client, client.activity():
        await reached(second.reached)
    await reached(first.cancelled)
    await reached(second.cancelled)


async def test_cancelling_the_reading_task_cancels_the_stream(server):
    hold = Hold()
    server.play(ACTIVITY, hold)
    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(anext(client.activity()))
        await reached(hold.reached)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await reached(hold.cancelled)


async def test_a_stream_that_is_dropped_is_cancelled(twin, server):
    hold = Hold()
    server.play(ACTIVITY, FIRST, hold)
    stream = twin.activity()
    await twin.read_one(stream)
    del stream
    gc.collect()
    await reached(hold.cancelled)


async def test_it_starts_over_until_the_first_snapshot_and_never_after_it(twin, server, naps):
    server.play(ACTIVITY, OVERLOADED)
    server.play(ACTIVITY, DRAINING)
    server.play(ACTIVITY, FIRST, DRAINING)
    stream = twin.activity()
    await twin.read_one(stream)
    assert len(naps) == 2
    with pytest.raises(UnavailableError, match="draining"):
        await twin.read_one(stream)
    assert len(naps) == 2
    assert await twin.read(stream) == []


async def test_cancel_while_waiting_to_try_again_ends_the_stream(server, monkeypatch):
    napping, wake = asyncio.Event(), asyncio.Event()

    async def nap(_):
        napping.set()
        await wake.wait()

    monkeypatch.setattr("tokenwire.activity.sleep", nap)
    server.play(ACTIVITY, OVERLOADED)
    async with AsyncClient(server.address) as client:
        stream = client.activity()
        reader = asyncio.create_task(anext(stream, None))
        await napping.wait()
        await stream.cancel()
        wake.set()
        assert await reader is None
    assert len(server.calls) == 1


async def test_the_deadline_ends_the_stream(twin, server):
    server.play(ACTIVITY, FIRST, Hold())
    with pytest.raises(DeadlineExceededError):
        await twin.read(twin.activity(timeout=0.3))


async def test_a_value_that_no_request_can_carry_is_named(twin):
    for options in ({"records": -1}, {"interval_s": float("inf")}):
        (name,) = options
        with pytest.raises(ValueError, match=name):
            twin.activity(**options)


async def test_the_trace_reaches_the_server(twin, server):
    mine = f"00-{'12' * 16}-{'34' * 8}-01"
    server.play(ACTIVITY, Disconnect())
    await twin.read(twin.activity(traceparent=mine))
    await twin.call("record", "ea0d8bda55f8184c", traceparent=mine)
    assert [call.metadata["traceparent"] for call in server.calls] == [mine, mine]
