"""Simulated workers as processes: several in one, behind one frontend, and faults on command."""

from __future__ import annotations

import urllib.request

import grpc
import pytest
from tokenwire.worker.v1 import execution_pb2, worker_pb2
from tokenwire_service.settings import parse
from tokenwire_worker.settings import WorkerSettings

from tests.ports import free_ports
from tests.services.calls import Frontend, Refusal, Worker, generation, refused
from tests.services.collector import Collector
from tests.services.processes import (
    MODEL,
    SERVING,
    WAIT_S,
    Process,
    Processes,
    wait_for_health,
)
from tests.services.prompts import chat
from tests.telemetry.conftest import exporting
from tests.worker.calls import request

EX_SOFTWARE = 70

FAULTS = ("1/refuse@2", "1/garbage@3", "2/die@1+2", "3/stall@1+2")
WORKERS = 5


@pytest.fixture(scope="module")
def collector():
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def workers() -> list[str]:
    """Where each worker listens, in the order of their numbers."""
    first = free_ports(WORKERS)
    return [f"127.0.0.1:{first + number}" for number in range(WORKERS)]


@pytest.fixture(scope="module")
def process(lasting, collector, workers) -> Process:
    """A process of five workers: the first fails generations, two meet faults, two are well."""
    faults = [part for each in FAULTS for part in ("--simulated.fault", each)]
    started = lasting.simulated(
        *("--simulated.workers", str(WORKERS), "--worker-name", "sim"),
        *("--simulated.step-ms", "2", "--stall-s", "0.4", *faults),
        *("--admin-listen", "127.0.0.1:0"),
        listen=workers[0],
        environment=exporting(collector),
    )
    for number, address in enumerate(workers, 1):
        started.wait_for("listening", address=address)
        with Worker(address) as client:
            wait_for_health(client.raw, SERVING)
            told = client.service.GetWorkerInfo(worker_pb2.GetWorkerInfoRequest(), timeout=WAIT_S)
        assert (told.engine, told.simulated) == ("simulated", True)
        assert told.worker_name == f"sim-{number}"
    return started


def execute(address: str, seed: int = 0) -> list[int]:
    """Returns the ids of a generation at a worker; raises what it fails with."""
    message = execution_pb2.ExecuteRequest(request=request(seed))
    with Worker(address) as client:
        events = client.execution.Execute(message, timeout=WAIT_S)
        return [token for event in events for token in event.tokens.token_ids]


def frontend_of(lasting: Processes, addresses: list[str]) -> Frontend:
    """Returns a client of a frontend of these workers, once all of them are ready."""
    chosen = ("--move-wait-s", "0", "--routing", "least_loaded")
    started = lasting.frontend(*chosen, workers=addresses)
    for address in addresses:
        started.wait_for("worker", address=address, state="ready")
    return Frontend(started.address)


def failure(address: str) -> Refusal:
    return refused(lambda: execute(address))


def test_a_frontend_of_several_gets_the_same_from_each(process, workers, lasting):
    with frontend_of(lasting, workers[3:]) as client:
        prompt = list(range(100, 150))
        streams = [client.stream(generation(prompt, 20)) for _ in range(12)]
        ids = streams[0].ids()
        rest = client.stream(generation([*prompt, *ids[:7]], 13))
    assert rest.ids() == ids[7:], "a continuation is the same on any of them"
    assert len({stream.text() for stream in streams}) == 1
    assert {each.completed.timings.worker for each in streams} == {"sim-4", "sim-5"}
    cached = [each.completed.usage.cached_prompt_tokens for each in streams]
    assert sorted(cached) == [0] * 2 + [48] * 10, "each computes the prompt once"


def test_a_conversation_stays_where_its_blocks_are(process, workers, lasting):
    with frontend_of(lasting, workers[3:]) as client:
        prompt = chat("Tell me a story about a cat. " * 20)
        at = set()
        for turn in range(6):
            conversation = {"id": "story", "messages": 2 * turn}
            told = client.stream(generation(prompt, 30, conversation=conversation))
            made, usage = told.accepted.conversation, told.completed.usage
            assert made.kept_tokens >= 100 * bool(turn)
            assert usage.cached_prompt_tokens >= made.kept_tokens // 16 * 16
            at.add(told.completed.timings.worker)
    assert len(at) == 1


def test_metrics_are_summed_over_the_workers(process, workers):
    for address in workers[3:]:
        execute(address)
    admin = process.wait_for("admin_listening")["address"]
    with urllib.request.urlopen(f"http://{admin}/readyz", timeout=WAIT_S) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=WAIT_S) as answer:
        lines = answer.read().decode().splitlines()
    told = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    values = {
        name.partition("{")[0]: float(value) for name, _, value in told if "input" not in name
    }
    assert values["tokenwire_worker_running_sequences_limit"] == WORKERS * 256
    assert values["tokenwire_worker_kv_blocks_capacity"] == WORKERS * 32_768
    assert values["tokenwire_tokens_total"] >= 24


def test_every_span_says_that_it_is_simulated(process, workers, collector):
    execute(workers[4])
    spans = collector.wait_until(
        lambda: (
            {"decode", "queue"} <= {each.span.name for each in collector.spans}
            and list(collector.spans)
        )
    )
    assert all(dict(each.origin.resource)["tokenwire.simulated"] for each in spans)


def test_faults_on_command_end_as_those_of_a_real_engine(workers, process, lasting):
    alike = execute(workers[4])
    assert execute(workers[0]) == execute(workers[3]) == alike
    failed = failure(workers[0])
    assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "ENGINE_FAILED")
    assert "refuse@2" in failed.message
    with frontend_of(lasting, workers[:1]) as client:
        garbage = refused(lambda: client.generate(generation("Hello")))
    assert (garbage.code, garbage.reason) == (grpc.StatusCode.INTERNAL, "WORKER_PROTOCOL")

    died, stalled = failure(workers[1]), failure(workers[2])
    assert (died.code, died.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DIED")
    assert (stalled.code, stalled.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_STALLED")
    assert process.wait_for("engine_died", worker="sim-2")["reason"].endswith("2/die@1+2")
    process.wait_for("engine_stalled", worker="sim-3")
    assert execute(workers[0]) == execute(workers[3]) == alike, "the others go on"

    process.terminate()
    assert process.wait() == EX_SOFTWARE


def test_a_worker_alone_ends_with_its_engine(processes):
    process = processes.simulated("--simulated.fault", "die@step2")
    assert failure(process.address).reason == "ENGINE_DIED"
    assert process.wait() == EX_SOFTWARE


def test_ports_are_counted_from_the_one_to_listen_on():
    given = ["--model", str(MODEL), "--engine", "simulated", "--simulated.workers", "3"]
    settings = parse(WorkerSettings, "test", [*given, "--listen", "[::1]:7000"])
    assert [each.listen for each in settings.of_each_worker()] == [
        f"[::1]:{port}" for port in (7000, 7001, 7002)
    ]
    names = {each.shown_worker_name for each in settings.of_each_worker()}
    assert len(names) == 3
    (only,) = parse(WorkerSettings, "test", given[:4]).of_each_worker()
    assert only.listen == "127.0.0.1:50061"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--simulated.workers", "9", "--listen", "127.0.0.1:65530"], "ports end at 65535"),
        (["--simulated.fault", "die"], "--simulated.fault: 'die' is not [WORKER/]KIND@WHEN"),
        (["--simulated.fault", "2/die@1"], "the worker is not one of 1"),
        (["--simulated.max-sequences", "9000"], "step_tokens (8192) is to be more than"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_words(capsys, arguments, says):
    with pytest.raises(SystemExit):
        parse(WorkerSettings, "test", ["--model", "m", "--engine", "simulated", *arguments])
    assert says in capsys.readouterr().err
