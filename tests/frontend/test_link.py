"""The link to a worker: its state, its reconnects, and what becomes of what the worker had."""

from __future__ import annotations

import asyncio
import gc
import socket
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
from tokenwire.channel_arguments import KEEPALIVE_TIME_MS, MIN_PING_INTERVAL_WITHOUT_DATA_MS
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import model_pb2
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.link_state import AwakeClock, LinkState
from tokenwire_frontend.workers import link as link_module
from tokenwire_frontend.workers import remote
from tokenwire_service.errors import ServiceError

from tests.frontend.frontend_here import FrontendHere, frontend_of, refused, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import generation

CONNECTING, READY, SUSPECT = LinkState.CONNECTING, LinkState.READY, LinkState.SUSPECT
DRAINING, REFUSED, LOST = LinkState.DRAINING, LinkState.REFUSED, LinkState.LOST

MARKS = count(1)
"""Loads to tell reports by."""


def generate(frontend: FrontendHere, **fields: Any) -> Any:
    """Starts a Generate call."""
    what = generation([7, 8], max_tokens=9, **fields)
    return frontend.generations.Generate(fg.GenerateRequest(generation=what))


def answers(stream: Stream, submit: pb.Submit) -> None:
    """A script: every generation is three tokens."""
    stream.generate(submit.handle, 5, 6, 7)


async def hear(frontend: FrontendHere, worker: ScriptedWorker) -> None:
    """Lets a worker give a sign of life, and waits until it is heard."""
    link = frontend.link(worker)
    mark = next(MARKS)
    worker.report(running_sequences=mark)
    await until(lambda: link.load.running_sequences == mark)


async def hush(frontend: FrontendHere, worker: ScriptedWorker) -> None:
    """Ends a worker's heartbeats: what it has sent is heard when this returns."""
    worker.heartbeat_s = None
    await hear(frontend, worker)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock that workers' silence is counted on goes on in `let_pass` alone."""
    monkeypatch.setattr(AwakeClock, "tick", lambda *_: None)


def let_pass(frontend: FrontendHere, seconds: float) -> None:
    """Lets time pass on the clock that workers' silence is counted on, and looks at them."""
    frontend.pool.clock.now_s += seconds
    for link in frontend.pool.links:
        link.tick()


# --- silence -------------------------------------------------------------------------------------


async def test_a_silent_worker_is_suspect_then_lost_and_gets_nothing(worker, other):
    other.script = answers
    async with frontend_of(worker, other) as frontend:
        for each in (worker, other):
            await frontend.wait_for(each, READY)
        stream = await worker.stream()
        await hush(frontend, worker)
        worker.freeze()
        let_pass(frontend, 2.5)
        assert frontend.link(worker).state is READY
        await hear(frontend, other)
        let_pass(frontend, 0.5)
        await frontend.wait_for(worker, SUSPECT, "silent for 3 s")
        assert (await frontend.listed(worker)).state == model_pb2.WORKER_STATE_SUSPECT
        for _ in range(6):
            assert (await generate(frontend)).timings.worker == "other"
        await hear(frontend, other)
        let_pass(frontend, 5)
        await frontend.wait_for(worker, LOST, "silent for 8 s")
        assert (await frontend.listed(worker)).state == model_pb2.WORKER_STATE_LOST
        assert not stream.messages
        worker.thaw()
        await frontend.wait_for(worker, READY)


async def test_what_a_suspect_worker_has_not_accepted_goes_to_another(worker, other):
    other.script = answers
    async with frontend_of(worker, other) as frontend:
        for each in (worker, other):
            await frontend.wait_for(each, READY)
        other.report(running_sequences=8)
        await until(lambda: frontend.link(other).load.running_sequences == 8)
        stream = await worker.stream()
        accepted = generate(frontend)
        stream.accept((await stream.submit()).handle)
        waiting = generate(frontend)
        handle = (await stream.submit()).handle
        worker.freeze()
        let_pass(frontend, 2.5)
        await hear(frontend, other)
        let_pass(frontend, 0.5)
        answer = await waiting
        assert (answer.timings.worker, answer.sequences[0].token_ids) == ("other", [5, 6, 7])
        assert not accepted.done()
        worker.thaw()
        assert (await stream.cancel()).handle == handle
        accepted.cancel()


async def test_what_a_lost_worker_had_fails_as_worker_lost(worker, frontend):
    call = generate(frontend)
    stream = await worker.stream()
    stream.accept((await stream.submit()).handle)
    await until(lambda: frontend.link(worker).in_flight == 1)
    await hush(frontend, worker)
    worker.freeze()
    let_pass(frontend, 8)
    refusal = await refused(call)
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.reason == "WORKER_LOST"
    assert "silent for 8 s" in refusal.message
    assert frontend.link(worker).in_flight == 0
    await asyncio.wait_for(stream.left.wait(), 10)


async def test_where_all_workers_are_suspect_they_are_used(worker, frontend):
    worker.script = answers
    await hush(frontend, worker)
    let_pass(frontend, 3)
    await frontend.wait_for(worker, SUSPECT)
    call = generate(frontend)
    assert (await call).sequences[0].token_ids == [5, 6, 7]
    # Its frames are signs of life too.
    await frontend.wait_for(worker, READY)


async def test_a_draining_worker_is_lost_too_but_never_ready_again(worker, frontend):
    worker.heartbeat_s = None
    worker.report(draining=True)
    await frontend.wait_for(worker, DRAINING)
    let_pass(frontend, 3)
    assert frontend.link(worker).state is DRAINING
    worker.freeze()
    let_pass(frontend, 8)
    await frontend.wait_for(worker, LOST)


async def test_a_worker_that_promises_no_heartbeat_is_asked_for_it(worker):
    worker.info.contract_revision = 1
    worker.heartbeat_s = None
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, READY)
        await hear(frontend, worker)
        let_pass(frontend, 4)
        await frontend.wait_for(worker, SUSPECT)
        await frontend.wait_for(worker, READY)
        worker.freeze()
        let_pass(frontend, 8)
        await frontend.wait_for(worker, LOST)


@pytest.mark.parametrize(("suspect_s", "longest_s"), [(1.5, 1), (3, 1.5), (60, 10)])
async def test_a_worker_is_asked_for_two_heartbeats_before_it_is_suspect(
    worker, suspect_s, longest_s
):
    asked: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def watch(request: Any, context: Any) -> None:
        asked.set_result(request.max_interval.ToNanoseconds() / 1e9)
        await asyncio.get_running_loop().create_future()

    worker.overrides["WatchLoad"] = watch
    async with frontend_of(worker, worker_suspect_s=suspect_s, worker_lost_s=60):
        assert await asyncio.wait_for(asked, 60) == longest_s


@pytest.mark.parametrize("revision", [1, 2])
@pytest.mark.parametrize("how", ["ends", "says nothing"])
async def test_a_worker_whose_load_is_not_told_any_more_is_suspect_then_lost(worker, revision, how):
    """Whatever else it answers, such as GetWorkerInfo."""

    async def watch(request: Any, context: Any) -> None:
        if how == "says nothing":
            await asyncio.get_running_loop().create_future()

    worker.info.contract_revision = revision
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, READY)
        await hush(frontend, worker)
        worker.overrides["WatchLoad"] = watch
        worker.end_watches()
        let_pass(frontend, 3)
        await frontend.wait_for(worker, SUSPECT)
        let_pass(frontend, 5)
        assert frontend.link(worker).state is LOST
        del worker.overrides["WatchLoad"]
        await frontend.wait_for(worker, READY)


async def test_a_connection_that_was_lost_is_not_taken_up_again(worker, frontend, at_once):
    """A peer that accepts connections and says nothing is LOST for as long as it does so."""
    await hush(frontend, worker)
    worker.freeze()
    let_pass(frontend, 8)
    await frontend.wait_for(worker, LOST)
    await worker.stop()
    host, port = worker.address.split(":")
    with socket.create_server((host, int(port))) as mute:
        mute.setblocking(False)
        loop = asyncio.get_running_loop()
        connection, _ = await asyncio.wait_for(loop.sock_accept(mute), 10)
        connection.close()
        assert frontend.link(worker).state is LOST
    worker.thaw()
    await worker.start()
    await frontend.wait_for(worker, READY)


# --- words that are owed -------------------------------------------------------------------------


async def test_a_request_that_is_neither_accepted_nor_refused_is_tried_elsewhere(worker, other):
    other.script = answers
    async with frontend_of(worker, other) as frontend:
        for each in (worker, other):
            await frontend.wait_for(each, READY)
        calls = [generate(frontend) for _ in range(2)]
        stream = await worker.stream()
        handle = (await stream.submit()).handle
        await until(lambda: any(call.done() for call in calls))
        let_pass(frontend, 2)
        assert frontend.link(worker).in_flight == 1
        # It may be tried at the same worker again, where the other one is silent for a while.
        while not all(call.done() for call in calls):
            await until(lambda: all(frontend.link(each).state is READY for each in (worker, other)))
            let_pass(frontend, 2)
        assert [(await call).timings.worker for call in calls] == ["other", "other"]
        assert (await stream.cancel()).handle == handle
        # What it says of it later harms nobody.
        stream.generate(handle, 5)
        await until(lambda: frontend.link(worker).in_flight == 0)
        assert frontend.link(worker).state is READY


async def test_of_one_worker_alone_it_is_refused(worker, frontend):
    call = generate(frontend)
    await (await worker.stream()).submit()
    for _ in range(5):
        await until(lambda: frontend.link(worker).state is READY)
        let_pass(frontend, 2)
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_SILENT")


async def test_a_generation_whose_end_never_comes_is_given_up(worker, frontend):
    call = generate(frontend)
    stream = await worker.stream()
    handle = (await stream.submit()).handle
    stream.accept(handle)
    stream.tokens(handle, 5)
    stream.end(handle)
    await until(lambda: frontend.link(worker).in_flight == 1)
    for _ in range(10):
        await until(lambda: frontend.link(worker).state is READY)
        let_pass(frontend, 2.5)
    answer = await call
    assert answer.sequences[0].token_ids == [5]
    assert frontend.link(worker).in_flight == 0


# --- streams that end ----------------------------------------------------------------------------


async def test_a_watch_that_ends_is_opened_again_and_harms_nothing(worker, frontend):
    async def ends(request: Any, context: Any) -> None:
        worker.overrides.clear()

    worker.overrides["WatchLoad"] = ends
    call = generate(frontend)
    stream = await worker.stream()
    handle = (await stream.submit()).handle
    stream.accept(handle)
    worker.end_watches()
    await until(lambda: not worker.overrides)
    worker.report(running_sequences=3)
    await until(lambda: frontend.link(worker).load.running_sequences == 3)
    stream.tokens(handle, 5)
    stream.end(handle)
    stream.complete(handle)
    assert (await call).sequences[0].token_ids == [5]


async def test_a_load_report_that_is_none_is_a_line_of_the_log(worker, lines):
    async def odd(request: Any, context: Any) -> None:
        await context.write(b"\xff")
        await worker._WatchLoad(request, context)

    worker.overrides["WatchLoad"] = odd
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, READY)
        worker.report(running_sequences=3)
        await until(lambda: frontend.link(worker).load.running_sequences == 3)
    assert any("load report can't be parsed" in line.get("fault", "") for line in lines)


@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.INTERNAL])
async def test_a_closed_exchange_is_opened_again_and_fails_what_it_had(worker, frontend, code):
    call = generate(frontend)
    stream = await worker.stream()
    stream.accept((await stream.submit()).handle)
    stream.close(code, "as scripted")
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
    await worker.stream()
    worker.script = answers
    await frontend.wait_for(worker, READY)
    assert (await generate(frontend)).sequences[0].token_ids == [5, 6, 7]


async def test_bytes_that_are_no_frame_end_the_stream_with_a_reason(worker, frontend):
    call = generate(frontend)
    stream = await worker.stream()
    stream.accept((await stream.submit()).handle)
    stream.send(b"\xff\xff\xff")
    refusal = await refused(call)
    assert refusal.reason == "WORKER_LOST"
    assert "a frame can't be parsed" in refusal.message
    await worker.stream()
    await frontend.wait_for(worker, READY)


async def test_a_draining_worker_fails_nothing(worker, frontend):
    call = generate(frontend)
    stream = await worker.stream()
    handle = (await stream.submit()).handle
    stream.accept(handle)
    worker.report(draining=True)
    await frontend.wait_for(worker, DRAINING)
    assert (await refused(generate(frontend))).reason == "NO_WORKER"
    stream.tokens(handle, 5)
    stream.end(handle)
    stream.complete(handle)
    assert (await call).sequences[0].token_ids == [5]


async def test_a_server_that_permits_too_few_pings_is_told_by_name(monkeypatch):
    frequent = {**dict(remote.ARGUMENTS), KEEPALIVE_TIME_MS: 100}
    monkeypatch.setattr(remote, "ARGUMENTS", tuple(frequent.items()))
    strict = {MIN_PING_INTERVAL_WITHOUT_DATA_MS: 300_000}
    async with ScriptedWorker(strict) as worker, frontend_of(worker) as frontend:
        worker.heartbeat_s = None  # what a server sends makes it lenient
        await frontend.wait_for(worker, CONNECTING, "too_many_pings")
        assert "let it permit" in frontend.link(worker).state_reason


# --- nothing stays behind ------------------------------------------------------------------------


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_fifty_reconnects_leave_nothing_behind(worker, frontend, at_once, monkeypatch):
    monkeypatch.setattr(link_module, "SETTLED_S", 0.0)
    before = (0, 0)
    for number in range(1, 61):
        call = generate(frontend)
        stream = await worker.stream()
        stream.accept((await stream.submit()).handle)
        stream.close(grpc.StatusCode.INTERNAL)
        assert (await refused(call)).reason == "WORKER_LOST"
        await until(lambda seen=number: len(worker.streams) > seen)
        await frontend.wait_for(worker, READY)
        if number == 10:
            before = len(asyncio.all_tasks()), open_files()
    gc.collect()
    assert frontend.link(worker).in_flight == 0
    # Less than one for every reconnect; the frontend's own processes may still be starting.
    assert len(asyncio.all_tasks()) - before[0] < 10
    assert open_files() - before[1] < 10


async def test_a_submission_to_a_worker_that_is_gone_is_refused(worker, frontend):
    await worker.stop()
    await frontend.wait_for(worker, CONNECTING)
    with pytest.raises(ServiceError) as refusal:
        frontend.link(worker).submit(pb.Request(), receiver=None)
    assert refusal.value.reason == "WORKER_LOST"


async def test_a_link_ends_when_its_worker_does_at_the_same_time(worker, frontend):
    """A cancel that comes while the streams of a worker are being ended is not lost."""
    stream = await worker.stream()
    stream.close()
    await stream.left.wait()
    await asyncio.wait_for(frontend.pool.close(), 10)


# --- full queues ---------------------------------------------------------------------------------


async def test_where_every_queue_is_full_a_request_is_refused_before_it_is_sent(worker, other):
    for each in (worker, other):
        each.info.limits.waiting_requests = 4
        each.script = answers
    async with frontend_of(worker, other, queue_limit=0) as frontend:
        for each in (worker, other):
            await frontend.wait_for(each, READY)
            each.report(running_sequences=64, waiting_requests=4)
        await until(lambda: not frontend.pool.has_room("demo", 1, None))
        refusal = await refused(generate(frontend))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "QUEUE_FULL",
        )
        assert refusal.quotas == ["model:demo/waiting_requests"]
        assert refusal.retry_after_s
        assert not [
            stream.messages for stream in (*worker.streams, *other.streams) if stream.messages
        ]
        other.report(running_sequences=64, waiting_requests=3)
        await until(lambda: frontend.pool.has_room("demo", 1, None))
        assert (await generate(frontend)).timings.worker == "other"


async def test_what_a_worker_cannot_be_sent_is_refused_by_name(worker, frontend):
    too_many = generation([300] * 4000, max_tokens=9)
    frontend.link(worker)._connections[-1].exchange._outgoing._message_bytes = 1000
    refusal = await refused(frontend.generations.Generate(fg.GenerateRequest(generation=too_many)))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_TOO_LARGE",
    )
    assert refusal.fields == ["generation.prompt"]
    assert frontend.link(worker).in_flight == 0
    assert frontend.generator.admission.held == 0
