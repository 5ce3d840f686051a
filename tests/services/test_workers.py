"""Several workers behind one frontend: how work is spread, and what becomes of it when one goes."""

from __future__ import annotations

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2, model_pb2
from tokenwire.worker.v1 import execution_pb2, worker_pb2

from tests.services.calls import (
    Frontend,
    Worker,
    endless,
    generation,
    read,
    read_to_first_token,
    refused,
)
from tests.services.processes import (
    MODEL,
    Process,
)

READY = model_pb2.WORKER_STATE_READY
CONNECTING = model_pb2.WORKER_STATE_CONNECTING
DRAINING = model_pb2.WORKER_STATE_DRAINING
LENGTH = generation_pb2.FINISH_REASON_LENGTH


@pytest.fixture(scope="module")
def workers(lasting, shared_worker):
    """Two workers, the second the shared one; a test that ends the first puts one in its place."""
    return [lasting.worker(), shared_worker]


@pytest.fixture(scope="module")
def started(lasting, workers):
    """The process of a frontend of both workers, which goes by their loads alone."""
    started = lasting.frontend("--routing", "least_loaded", workers=workers)
    for worker in workers:
        started.wait_for("worker", address=worker.address, state="ready")
    return started


@pytest.fixture(scope="module")
def frontend_of_both(started):
    with Frontend(started.address) as client:
        yield client


@pytest.fixture
def two(frontend_of_both, workers):
    """A client of a frontend of both workers, to which they report no load, and both workers."""
    while any(each.running for each in frontend_of_both.workers()):
        frontend_of_both.generate(generation(max_tokens=1))
    return frontend_of_both, workers


def worker_of(call) -> str:
    return read(call).completed.timings.worker


def listed(client: Frontend, worker: Process) -> model_pb2.Worker:
    [found] = [each for each in client.workers() if each.address == worker.address]
    return found


# --- spreading -----------------------------------------------------------------------------------


def test_load_is_spread_over_both(two):
    client, workers = two
    calls = [client.start(generation(f"Number {number}", 60)) for number in range(12)]
    counts = [listed(client, worker).in_flight for worker in workers]
    names = [worker_of(call) for call in calls]
    served = {name: names.count(name) for name in set(names)}
    assert len(served) == 2, served
    assert min(served.values()) >= 4, served
    assert sum(counts) <= 12


def test_requests_one_after_the_other_go_to_both(two):
    """Equals take turns, though for the time of a load report one may seem the busier."""
    client, _ = two
    names = {worker_of(client.start(generation(max_tokens=2))) for _ in range(60)}
    assert len(names) == 2


def test_the_busier_worker_gets_less(two):
    """One worker is loaded behind the frontend's back; its reports tell."""
    client, workers = two
    busy, free = workers
    with Worker(busy.address) as direct, Frontend(client.address) as again:
        request = execution_pb2.Request(
            prompt_token_ids=[5],
            stopping={"max_tokens": 4000, "ignore_eos": True},
            sequence_count=32,
        )
        loaded = direct.execution.Execute(execution_pb2.ExecuteRequest(request=request), timeout=60)
        direct.wait_for_load(lambda load: load.running_sequences == 32)
        while listed(client, busy).running < 32:
            again.generate(generation(max_tokens=4))
        names = [worker_of(again.start(generation(max_tokens=2))) for _ in range(8)]
        loaded.cancel()
        direct.wait_until_idle()
    assert set(names) == {listed(client, free).name}


def test_both_workers_are_listed_and_counted(two):
    client, workers = two
    assert [each.address for each in client.workers()] == sorted(w.address for w in workers)
    assert {each.state for each in client.workers()} == {READY}
    assert client.model().ready_worker_count == 2


def test_both_workers_give_the_same_text(two):
    client, _ = two
    calls = [client.start(generation("One, two,", 20)) for _ in range(8)]
    answers = [read(call) for call in calls]
    assert len({answer.completed.timings.worker for answer in answers}) == 2
    assert len({answer.text() for answer in answers}) == 1


# --- a worker dies -------------------------------------------------------------------------------


def test_what_a_killed_worker_had_goes_on_and_it_gets_nothing_until_it_is_back(
    two, lasting, started
):
    client, (first, second) = two
    address, seen = first.address, started.event_count
    alone = read(client.start(generation("Hello", 400)))
    with client.session() as session:
        session.open(1, generation("Hello", 400))
        session.open(2, generation("Hello", 400))
        session.read_until(lambda: bool(session[1].deltas and session[2].deltas))
        assert [each.in_flight for each in client.workers()] == [1, 1]
        first.kill()
        ended = session.finish(1, 2)
    assert [each.ids() for each in ended] == [alone.ids()] * 2
    assert [each.text() for each in ended] == [alone.text()] * 2
    [moved] = [each.completed.attempts for each in ended if each.completed.attempts]
    assert [each.left_because for each in moved] == ["WORKER_LOST", ""]
    assert moved[1].mode == generation_pb2.ATTEMPT_MODE_CARRIED
    started.wait_for("worker", address=address, state="connecting", after=seen)
    assert listed(client, first).state == CONNECTING
    assert listed(client, first).state_reason
    names = {worker_of(client.start(generation(max_tokens=2))) for _ in range(6)}
    assert names == {listed(client, second).name}
    assert client.model().ready_worker_count == 1
    seen = started.event_count
    two[1][0] = lasting.worker(listen=address)
    started.wait_for("worker", address=address, state="ready", after=seen)
    # Every request is answered, the first ones over the new connection too.
    calls = [client.start(generation(f"Number {number}", 10)) for number in range(20)]
    answers = [read(call) for call in calls]
    assert {len(answer.ids()) for answer in answers} == {10}
    assert len({answer.completed.timings.worker for answer in answers}) == 2
    assert client.model().ready_worker_count == 2


# --- draining ------------------------------------------------------------------------------------


def test_the_last_generations_of_a_draining_worker_are_whole(two, lasting, started):
    """Their last tokens and the end of the worker's streams come together."""
    client, workers = two
    worker, numbers, seen = workers[0], range(1, 129), started.event_count
    with client.session() as session:
        for number in numbers:
            session.open(number, generation(f"Number {number}", 40))
        session.read_until(lambda: all(session[number].accepted for number in numbers))
        worker.terminate()
        started.wait_for("worker", address=worker.address, state="draining", after=seen)
        assert listed(client, worker).state == DRAINING
        assert {worker_of(client.start(generation(max_tokens=2))) for _ in range(4)} == {
            listed(client, workers[1]).name
        }
        ended = session.finish(*numbers)
    assert [each.error for each in ended] == [None] * len(numbers)
    assert {len(each.ids()) for each in ended} == {40}
    assert {each.reason for each in ended} == {LENGTH}
    assert worker.wait() == 0
    workers[0] = lasting.worker(listen=worker.address)
    started.wait_for("worker", address=worker.address, state="ready", after=seen)


# --- bounds --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(lasting):
    """A worker of one sequence at a time, with room for two requests to wait."""
    worker = lasting.simulated("--simulated.max-sequences", "1", "--max-waiting-requests", "2")
    limits = ("--generations-limit", "6", "--queue-limit", "0")
    started = lasting.frontend(*limits, workers=[worker])
    started.wait_for("worker", state="ready")
    with Frontend(started.address) as client, Worker(worker.address) as direct:
        yield client, direct


def test_overload_of_the_worker_is_told_with_its_bound(narrow):
    client, direct = narrow
    calls = [client.start(endless()) for _ in range(3)]
    direct.wait_for_load(lambda load: load.waiting_requests == 2)
    refusal = refused(lambda: client.stream(generation()))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.reason == "QUEUE_FULL"
    assert refusal.retry_after_s is not None
    assert len(refusal.quotas) == 1
    for call in calls:
        call.cancel()
    direct.wait_until_idle()
    assert len(client.stream(generation(max_tokens=3)).ids()) == 3


def test_of_those_that_wait_the_higher_priority_goes_first(narrow):
    client, direct = narrow
    with client.session() as session:
        session.open(1, generation("Hello", 200))
        session.read_until(lambda: bool(session[1].deltas))
        session.open(2, generation("Hello", 5, priority=-1))
        direct.wait_for_load(lambda load: load.waiting_requests == 1)
        session.open(3, generation("Hello", 5, priority=1))
        session.finish(3)
        assert session[1].over
        assert not session[2].deltas
        session.finish(2)


def test_a_sequence_that_waits_can_be_cancelled(narrow):
    client, direct = narrow
    running = client.start(endless())
    read_to_first_token(running)
    waiting = client.start(endless())
    direct.wait_for_load(lambda load: load.waiting_requests == 1)
    waiting.cancel()
    direct.wait_for_load(lambda load: load.waiting_requests == 0)
    assert not running.done()
    running.cancel()


# --- a worker by itself --------------------------------------------------------------------------


def test_the_worker_describes_itself(worker, frontend):
    info = worker.service.GetWorkerInfo(worker_pb2.GetWorkerInfoRequest(), timeout=9)
    model = frontend.model()
    assert info.contract_revision >= 1
    assert info.engine == "openvino"
    assert not info.simulated
    assert info.tokenizer_fingerprint == model.tokenizer_fingerprint
    assert info.limits.context_tokens == model.context_tokens
    assert info.worker_name == frontend.workers()[0].name
    parts = list(worker.service.GetTokenizer(worker_pb2.GetTokenizerRequest(), timeout=9))
    files: dict[str, bytes] = {}
    for part in parts:
        assert len(part.data) <= 1024 * 1024
        files[part.file_name] = files.get(part.file_name, b"") + part.data
    for name, data in files.items():
        assert data == (MODEL / name).read_bytes()
    assert "tokenizer.json" in files
