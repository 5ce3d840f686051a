"""The admin port: whether a service is alive and ready, and its metrics as workers come and go."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from tokenwire_service.telemetry import registry

from tests.engines.conftest import STAND_INS
from tests.services.calls import Frontend, endless, generation, read_to_first_token
from tests.services.collector import Collector
from tests.services.processes import (
    MODEL,
    NOT_SERVING,
    ROOT,
    SERVING,
    WAIT_S,
    Process,
    Processes,
    free_address,
    wait_for_health,
)
from tests.telemetry.conftest import ADMIN, exporting
from tests.telemetry.scrapes import Scrape, get
from tests.telemetry.trees import Caller, call, check_tree, ran, under

PACKAGES = {"frontend": "tokenwire_frontend", "worker": "tokenwire_worker"}


def stand_in(processes: Processes, *arguments: str, environment=None) -> Process:
    """Starts a worker on the stand-in for TensorRT-LLM: it is there within a second."""
    model = ("--model", str(ROOT / "models/demo/hf"), "--model-name", "demo")
    return processes.run(
        "tokenwire_worker",
        ["--engine", "tensorrt_llm", *model, "--log-format", "json", *arguments],
        {"PYTHONPATH": str(STAND_INS["tensorrt_llm"]), **(environment or {})},
    )


def states(process: Process) -> dict[str, float]:
    """Returns the workers that a frontend tells of, by state, without states of none."""
    found = Scrape(process).by("tokenwire_frontend_workers", "tokenwire_worker_state")
    return {state: value for (state,), value in found.items() if value}


@pytest.fixture(scope="module")
def address() -> str:
    """Where the only worker of this file's frontend comes and goes."""
    return free_address()


@pytest.fixture(scope="module")
def followed(lasting, address, collector) -> Iterator[tuple[Process, Frontend]]:
    """A frontend whose worker is not there yet, and a client."""
    started = lasting.frontend(*ADMIN, workers=[address], environment=exporting(collector))
    with Frontend(started.address) as client:
        yield started, client


def test_readiness_and_metrics_follow_the_workers(followed, processes, address, collector):
    frontend, client = followed
    ready = (200, "ready\n")
    not_ready = (503, "not ready\n")

    def readiness() -> tuple[int, str]:
        answer = get(frontend, "/readyz")
        return answer.status, answer.text

    assert readiness() == not_ready
    assert states(frontend) == {"connecting": 1}
    options = ("--listen", address, *ADMIN)
    worker = stand_in(processes, *options, environment=exporting(collector))
    wait_for_health(client.raw, SERVING)
    assert readiness() == ready
    assert states(frontend) == {"ready": 1}
    assert get(worker, "/readyz").status == 200
    wait_for_health(client.raw, NOT_SERVING, while_waiting=worker.kill)
    assert readiness() == not_ready
    assert states(frontend) == {"connecting": 1}
    assert get(frontend, "/healthz").text == "ok\n"
    again = stand_in(processes, *options, environment=exporting(collector))
    wait_for_health(client.raw, SERVING)
    assert readiness() == ready
    assert states(frontend) == {"ready": 1}
    check_prefix_cache(frontend, client, again, collector)


def check_prefix_cache(
    frontend: Process, client: Frontend, worker: Process, collector: Collector
) -> None:
    """Checks that what the engine tells of its prefix cache is told by both hops."""
    what, caller = generation(list(range(100, 300)), 4), Caller()
    usages = [client.generate(what, metadata=caller.metadata).usage for _ in range(2)]
    hits = sum(usage.cached_prompt_tokens for usage in usages)
    assert [usage.cached_prompt_tokens > 0 for usage in usages] == [False, True]
    for process in (frontend, worker):
        told = Scrape(process).by(
            "tokenwire_prefix_cache_tokens_total",
            "gen_ai_request_model",
            "tokenwire_prefix_cache_result",
        )
        assert told == {("demo", "hit"): hits, ("demo", "miss"): 400 - hits}
    whole = under(call("Generate"), ran(before=()))
    spans = check_tree(collector, caller, f"{whole}\n{whole}")
    name = registry.PREFIX_CACHE_TOKENS.name
    collector.wait_until(lambda: all(collector.points(each, name) for each in registry.BOTH))
    for name in ("gen_ai.usage.cache_read.input_tokens", "tokenwire.cached_prompt_tokens"):
        cached = [each.attributes.get(name) for each in spans]
        assert [number for number in cached if number is not None] == [0, hits]


def test_an_engine_that_does_not_tell_has_no_prefix_cache_metric(pair):
    pair.frontend.generate(generation(max_tokens=2))
    for process in (pair.frontend_process, pair.worker_process):
        scrape = Scrape(process)
        assert scrape.value("tokenwire_generations_total") > 0
        assert not any("prefix_cache" in name for name, _ in scrape.samples)


@pytest.mark.parametrize("service", ["frontend", "worker"])
def test_what_it_answers(pair, service):
    process = {"frontend": pair.frontend_process, "worker": pair.worker_process}[service]
    assert get(process, "/healthz").status == 200
    assert get(process, "/readyz").status == 200
    assert get(process, "/metrics").status == 200
    for path in ("/", "/metric", "/healthz/x", "/debug"):
        assert get(process, path).status == 404
    assert get(process, "/metrics", method="POST").status == 405


@pytest.mark.parametrize("service", ["frontend", "worker"])
def test_what_does_not_speak_http_1_is_turned_away_without_a_line_of_log(pair, service):
    process = {"frontend": pair.frontend_process, "worker": pair.worker_process}[service]
    host, _, port = process.wait_for("admin_listening")["address"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1.0 400")
    pair.frontend.generate(generation(max_tokens=1, request_id=f"after-http-2-{service}"))
    process.wait_for("generation", request_id=f"after-http-2-{service}")
    assert "aiohttp" not in process.output


def test_while_it_drains_it_is_alive_and_not_ready(processes):
    worker = stand_in(processes, "--listen", "127.0.0.1:0", *ADMIN)
    frontend = processes.frontend(*ADMIN, workers=[worker])
    with Frontend(frontend.address) as client:
        wait_for_health(client.raw, SERVING)
        started = client.start(endless(), timeout=60)
        read_to_first_token(started)
        for process in (frontend, worker):
            process.terminate()
            process.wait_for("draining")
            while get(process, "/readyz").status != 503:
                pass
            assert get(process, "/healthz").status == 200
            assert get(process, "/metrics").status == 200
        started.cancel()
    assert [process.wait() for process in (frontend, worker)] == [0, 0]


@pytest.mark.parametrize("service", ["frontend", "worker"])
def test_an_address_in_use_is_told_by_its_setting(pair, main_here, service):
    taken = pair.frontend_process.wait_for("admin_listening")["address"]
    needed = {"frontend": ("--worker", "127.0.0.1:1"), "worker": ("--model", str(MODEL))}[service]
    arguments = [*needed, "--listen", "127.0.0.1:0", "--admin-listen", taken]
    main_here(f"{PACKAGES[service]}", *arguments).check_refused(f"--admin-listen {taken}")
