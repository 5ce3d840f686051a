"""Several workers behind one frontend: how work is spread, and what becomes of it when one goes."""

from __future__ import annotations

import json
import shutil
import signal
import time

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2, model_pb2
from tokenwire.worker.v1 import execution_pb2, worker_pb2

from tests.services.calls import (
    Frontend,
    Refusal,
    Worker,
    endless,
    generation,
    read,
    read_to_first_token,
    refusal_of_status,
    refused,
)
from tests.services.processes import (
    MODEL,
    NOT_SERVING,
    SERVING,
    Process,
    free_address,
    wait_for_health,
)

READY = model_pb2.WORKER_STATE_READY
CONNECTING = model_pb2.WORKER_STATE_CONNECTING
REFUSED = model_pb2.WORKER_STATE_REFUSED
LENGTH = generation_pb2.FINISH_REASON_LENGTH

SERVICES = [
    "",
    "tokenwire.frontend.v1.ActivityService",
    "tokenwire.frontend.v1.GenerationService",
    "tokenwire.frontend.v1.TokenizationService",
    "tokenwire.frontend.v1.ModelService",
]


@pytest.fixture(scope="module")
def workers(lasting):
    """Two workers; tests that break some start their own."""
    return [lasting.worker() for _ in range(2)]


@pytest.fixture(scope="module")
def frontend_of_both(lasting, workers):
    started = lasting.frontend(workers=workers)
    for worker in workers:
        started.wait_for("worker", address=worker.address, state="ready")
    with Frontend(started.address) as client:
        yield client


@pytest.fixture
def two(frontend_of_both, workers):
    """A client of a frontend of both workers, to which they report no load, and both workers."""
    while any(each.running for each in frontend_of_both.workers()):
        frontend_of_both.generate(generation(max_tokens=1))
    return frontend_of_both, workers


@pytest.fixture
def pair(processes):
    """Two workers and a frontend of both, to be broken: (frontend process, client, workers)."""
    workers = [processes.worker() for _ in range(2)]
    started = processes.frontend(workers=workers)
    for worker in workers:
        started.wait_for("worker", address=worker.address, state="ready")
    with Frontend(started.address) as client:
        yield started, client, workers


@pytest.fixture
def single(processes):
    """One worker and its frontend, to be broken: (frontend process, client, worker)."""
    worker = processes.worker()
    started = processes.frontend(workers=[worker])
    started.wait_for("worker", state="ready")
    with Frontend(started.address) as client:
        yield started, client, worker


def worker_of(call) -> str:
    return read(call).completed.timings.worker


def listed(client: Frontend, worker: Process) -> model_pb2.Worker:
    [found] = [each for each in client.workers() if each.address == worker.address]
    return found


def check_lost(refusal: Refusal) -> None:
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.reason == "WORKER_LOST"
    assert refusal.info.domain == "tokenwire"
    assert refusal.retry_after_s is not None


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


def test_a_killed_worker_loses_what_it_has_and_gets_nothing_until_it_is_back(pair, processes):
    started, client, (first, second) = pair
    address, seen = first.address, started.event_count
    with client.session() as session:
        session.open(1, generation("Hello", 400))
        session.open(2, generation("Hello", 400))
        session.read_until(lambda: bool(session[1].deltas and session[2].deltas))
        assert [each.in_flight for each in client.workers()] == [1, 1]
        first.kill()
        lost, whole = sorted(session.finish(1, 2), key=lambda each: each.error is None)
    check_lost(refusal_of_status(lost.error))
    assert len(whole.ids()) == 400
    started.wait_for("worker", address=address, state="connecting", after=seen)
    assert listed(client, first).state == CONNECTING
    assert listed(client, first).state_reason
    names = {worker_of(client.start(generation(max_tokens=2))) for _ in range(6)}
    assert names == {listed(client, second).name}
    assert client.model().ready_worker_count == 1
    seen = started.event_count
    processes.worker(listen=address)
    started.wait_for("worker", address=address, state="ready", after=seen)
    # Every request is answered, the first ones over the new connection too.
    calls = [client.start(generation(f"Number {number}", 10)) for number in range(20)]
    answers = [read(call) for call in calls]
    assert {len(answer.ids()) for answer in answers} == {10}
    assert len({answer.completed.timings.worker for answer in answers}) == 2
    assert client.model().ready_worker_count == 2


def test_what_a_killed_worker_held_is_lost_by_name(single):
    _, client, worker = single
    request = generation_pb2.GenerateRequest(generation=endless())
    with client.session() as session:
        session.open(1, endless())
        streamed, whole = client.start(endless()), client.generations.Generate.future(request)
        read_to_first_token(streamed)
        session.read_until(lambda: bool(session[1].deltas))
        with Worker(worker.address) as direct:
            direct.wait_for_load(lambda load: load.running_sequences == 3)
        worker.kill()
        check_lost(refusal_of_status(session.finish(1)[0].error))
        check_lost(refused(lambda: streamed))
        check_lost(refused(whole.result))
        assert listed(client, worker).in_flight == 0


def test_when_all_workers_are_down_requests_are_refused_until_one_is_back(single, processes):
    _, client, worker = single
    address = worker.address
    for service in SERVICES:
        wait_for_health(client.raw, SERVING, service)
    wait_for_health(client.raw, NOT_SERVING, while_waiting=worker.kill)
    for service in SERVICES:
        wait_for_health(client.raw, NOT_SERVING, service)
    with client.session() as session:
        session.open(1, generation())
        assert session.finish(1)[0].error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    for call in (client.generate, client.stream):
        refusal = refused(lambda call=call: call(generation()))
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        assert refusal.reason == "NO_WORKER"
        assert refusal.retry_after_s is not None
    # What needs no engine goes on, and an unknown model is still unknown.
    assert client.detokenize(client.tokenize("as ever")) == "as ever"
    assert client.model().ready_worker_count == 0
    assert refused(lambda: client.generate(generation(model="nope"))).reason == "UNKNOWN_MODEL"
    again = processes.worker(listen=address)
    wait_for_health(client.raw, SERVING)
    assert again.address == address
    assert len(client.stream(generation(max_tokens=5)).ids()) == 5
    with client.session() as session:
        for number in range(1, 11):
            session.open(number, generation(max_tokens=5))
        assert {len(each.ids()) for each in session.finish(*range(1, 11))} == {5}


def test_a_frontend_starts_before_its_workers(processes):
    started = processes.frontend(workers=["127.0.0.1:1"])
    with Frontend(started.address) as client:
        wait_for_health(client.raw, NOT_SERVING)
        refusal = refused(lambda: client.generate(generation()))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")
        for call in (client.model, lambda: client.tokenize("x"), lambda: client.detokenize([1])):
            assert refused(call).code is grpc.StatusCode.UNAVAILABLE
        assert not client.workers()[0].name
        assert client.workers()[0].state == CONNECTING


# --- a worker freezes ----------------------------------------------------------------------------


def test_a_frozen_worker_gets_nothing_and_what_it_had_is_lost(pair):
    started, client, (first, second) = pair
    held = generation_pb2.GenerateRequest(generation=endless())
    calls = [client.generations.Generate.future(held) for _ in range(2)]
    for worker in (first, second):
        with Worker(worker.address) as direct:
            direct.wait_for_load(lambda load: load.running_sequences == 1)
    seen, frozen_s = started.event_count, time.monotonic()
    first.process.send_signal(signal.SIGSTOP)
    started.wait_for("worker", address=first.address, state="suspect", after=seen)
    assert time.monotonic() - frozen_s < 4.5
    names = {worker_of(client.start(generation(max_tokens=2))) for _ in range(6)}
    assert names == {listed(client, second).name}
    started.wait_for("worker", address=first.address, state="lost", after=seen)
    assert time.monotonic() - frozen_s < 11
    assert listed(client, first).state == model_pb2.WORKER_STATE_LOST
    [lost] = [call for call in calls if call.done()]
    check_lost(refused(lost.result))
    seen = started.event_count
    first.process.send_signal(signal.SIGCONT)
    started.wait_for("worker", address=first.address, state="ready", after=seen)
    # The other one still has its generation, so this one is the less loaded.
    names = {worker_of(client.start(generation(max_tokens=2))) for _ in range(20)}
    assert listed(client, first).name in names


# --- draining ------------------------------------------------------------------------------------


def test_a_draining_worker_finishes_what_it_has_and_gets_nothing_new(pair):
    started, client, workers = pair
    calls = [client.start(generation(f"Number {number}", 300)) for number in range(4)]
    streams = [read_to_first_token(call) for call in calls]
    assert [listed(client, worker).in_flight for worker in workers] == [2, 2]
    seen = started.event_count
    workers[0].terminate()
    started.wait_for("worker", address=workers[0].address, state="draining", after=seen)
    state = listed(client, workers[0])
    assert state.state == model_pb2.WORKER_STATE_DRAINING
    assert state.state_reason
    names = {worker_of(client.start(generation(max_tokens=2))) for _ in range(4)}
    assert names == {listed(client, workers[1]).name}
    for call, stream in zip(calls, streams, strict=True):
        for event in call:
            stream.take(event)
        assert len(stream.ids()) == 300
        assert stream.reason == LENGTH
    assert workers[0].wait() == 0


def test_the_last_generations_of_a_draining_worker_are_whole(single):
    """Their last tokens and the end of the worker's streams come together."""
    _, client, worker = single
    numbers = range(1, 65)
    with client.session() as session:
        for number in numbers:
            session.open(number, generation(f"Number {number}", 40))
        session.read_until(lambda: all(session[number].accepted for number in numbers))
        worker.terminate()
        ended = session.finish(*numbers)
    assert [each.error for each in ended] == [None] * len(numbers)
    assert {len(each.ids()) for each in ended} == {40}
    assert worker.wait() == 0


# --- workers that do not go together -------------------------------------------------------------


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory):
    """The model with the same tokenizer written otherwise: another fingerprint."""
    folder = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(MODEL, folder)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_bytes()), indent=1))
    return folder


def test_a_worker_with_another_tokenizer_is_refused(processes, workers, other_tokenizer):
    good, address = workers[0], free_address()
    started = processes.frontend(workers=[good, address])
    started.wait_for("worker", address=good.address, state="ready")
    seen = started.event_count
    processes.worker(model=other_tokenizer, listen=address)
    started.wait_for("worker", address=address, state="refused", after=seen)
    with Frontend(started.address) as client:
        state = {each.address: each for each in client.workers()}
        assert state[address].state == REFUSED
        assert "tokenizer" in state[address].state_reason
        assert state[good.address].state == READY
        names = {worker_of(client.start(generation(max_tokens=2))) for _ in range(4)}
        assert names == {state[good.address].name}
        assert client.model().ready_worker_count == 1


def test_of_two_that_differ_and_come_together_one_is_refused(processes, workers, other_tokenizer):
    both = [workers[0], processes.worker(model=other_tokenizer)]
    started = processes.frontend(workers=both)
    started.wait_for("worker", state="ready")
    started.wait_for("worker", state="refused")
    with Frontend(started.address) as client:
        states = sorted(each.state for each in client.workers())
        assert states == [READY, REFUSED]
        model = client.model()
        assert model.ready_worker_count == 1


def test_two_models_are_told_apart_by_name(processes, workers):
    both = [workers[0], processes.worker("--model-name", "other")]
    started = processes.frontend(workers=both)
    for worker in both:
        started.wait_for("worker", address=worker.address, state="ready")
    with Frontend(started.address) as client:
        models = client.models.ListModels(model_pb2.ListModelsRequest(), timeout=9).models
        assert [model.name for model in models] == ["demo", "other"]
        for name, worker in zip(("demo", "other"), both, strict=True):
            served = worker_of(client.start(generation(max_tokens=2, model=name)))
            assert served == listed(client, worker).name
        refusal = refused(lambda: client.generate(generation()))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.fields == ["generation.model"]
        assert "demo" in refusal.message
        assert "other" in refusal.message


# --- bounds --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(lasting):
    """A worker of one sequence at a time, with room for two requests to wait."""
    worker = lasting.worker("--openvino.max-sequences", "1", "--max-waiting-requests", "2")
    started = lasting.frontend("--generations-limit", "6", workers=[worker])
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


def test_overload_of_the_frontend_is_told_with_its_bound(processes, workers):
    worker = workers[0]
    started = processes.frontend("--generations-limit", "2", workers=[worker])
    started.wait_for("worker", state="ready")
    with Frontend(started.address) as client:
        calls = [client.start(endless()) for _ in range(2)]
        for call in calls:
            read_to_first_token(call)
        for call in (client.generate, client.stream):
            refusal = refused(lambda call=call: call(generation()))
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.reason == "TOO_MANY_GENERATIONS"
            assert refusal.retry_after_s is not None
            assert refusal.quotas == ["frontend/generations"]
        calls[0].cancel()
        with Worker(worker.address) as direct:
            direct.wait_for_load(lambda load: load.running_sequences == 1)
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
