"""A collector that dies, and one that accepts and never answers, cost no request anything."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenwire.worker.v1 import execution_pb2
from tokenwire_service.telemetry.providers import LAST_EXPORT_TIMEOUT_S

from tests.services.calls import Frontend, Worker, generation
from tests.services.collector import Collector
from tests.services.processes import SERVING, WAIT_S, Process, Processes, wait_for_health
from tests.telemetry.conftest import exporting
from tests.telemetry.trees import Caller, call, check_tree, ran, under

QUEUE_SPANS = 256
FILL = 2 * QUEUE_SPANS
"""Spans after which the queue is full."""

GROWTH_BYTES = 8 * 2**20
"""Bound of what more spans may add once the queue is full; what is left is the allocators' own."""

SMALL_SPANS = 8_000
"""Of a refusal, at 1.5 KB with its attributes: to keep them would take 12 MB."""

LARGE_SPANS = 800
"""Of a refusal whose prompt is told too, at 17 KB: to keep them would take 13 MB."""

TEXT = "word " * 3_300
"""Somewhat more than is told of a prompt."""

STOP_S = LAST_EXPORT_TIMEOUT_S + 5.0
"""Bound of the time to stop: the last export's, and the rest of a stop on a busy machine. Without
the bound on the last export it would be the exporter's 10 s for traces and as long for metrics."""


@dataclass
class Services:
    """A pair that exports to a collector which is about to die."""

    collector: Collector
    worker_process: Process
    frontend_process: Process
    worker: Worker
    frontend: Frontend


@pytest.fixture(scope="module")
def services(collectors) -> Iterator[Services]:
    collector, started = Collector(), Processes()
    collectors.append(collector)
    environment = exporting(collector, OTEL_BSP_MAX_QUEUE_SIZE=str(QUEUE_SPANS))
    worker = started.simulated(environment=environment)
    frontend = started.frontend("--trace-content", workers=[worker], environment=environment)
    with Worker(worker.address) as direct, Frontend(frontend.address) as client:
        wait_for_health(client.raw, SERVING)
        yield Services(collector, worker, frontend, direct, client)
    started.end()


@pytest.fixture(scope="module")
def silent(services) -> Iterator[None]:
    """Where the collector was, something that takes connections and never answers."""
    caller = Caller()
    services.frontend.generate(generation(max_tokens=2), metadata=caller.metadata)
    check_tree(services.collector, caller, under(call("Generate"), ran()))
    services.collector.close()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        check_all_succeed(services.frontend)
        listener.bind(("127.0.0.1", services.collector.port))
        listener.listen(64)  # the system takes connections; nobody reads
        yield


def check_all_succeed(client: Frontend) -> None:
    """Checks that generations are what they are with a collector that answers."""
    with client.session() as session:
        for number in range(1, 21):
            session.open(number, generation(f"Number {number}", 10))
        assert [len(each.ids()) for each in session.finish(*range(1, 21))] == [10] * 20


def large_spans_of_frontend(client: Frontend, count: int) -> None:
    """Has the frontend end so many spans."""
    with client.session() as session:
        for number in range(1, count + 1):
            session.open(number, generation(TEXT, max_tokens=0))
        refused = session.finish(*range(1, count + 1))
    assert all(each.error is not None for each in refused)


def small_spans_of_worker(worker: Worker, count: int) -> None:
    """Has the worker end so many spans."""
    submits = [
        execution_pb2.ExchangeRequest(submit={"handle": number, "request": {}})
        for number in range(1, count + 1)
    ]
    frames = worker.execution.Exchange(iter(submits), timeout=WAIT_S)
    assert sum(len(frame.failures) for frame in frames) == count


def resident_bytes(process: Process) -> int:
    """Returns how much memory a process has."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def test_requests_go_on_with_a_collector_that_never_answers(services, silent):
    check_all_succeed(services.frontend)


@pytest.mark.parametrize("service", ["frontend", "worker"])
def test_memory_is_bounded(services, silent, service):
    process, client, end, count = {
        "frontend": (
            *(services.frontend_process, services.frontend),
            *(large_spans_of_frontend, LARGE_SPANS),
        ),
        "worker": (
            *(services.worker_process, services.worker),
            *(small_spans_of_worker, SMALL_SPANS),
        ),
    }[service]
    end(client, FILL)
    end(client, count)  # what so many at once take is taken now
    full = resident_bytes(process)
    end(client, count)
    assert resident_bytes(process) - full < GROWTH_BYTES
    # Nor does what is dropped fill the log, whose lines stay whole.
    told = process.events(event="library")
    assert 0 < len(told) < 200, told[-5:]
    assert {each["logger"].partition(".")[0] for each in told} == {"opentelemetry"}
    assert [line for line in process.lines if not line.startswith("{")] == []


def test_both_end_promptly(services, silent):
    check_all_succeed(services.frontend)
    processes = (services.frontend_process, services.worker_process)
    began_s = time.monotonic()
    for process in processes:
        process.terminate()
    assert [process.wait() for process in processes] == [0, 0]
    assert time.monotonic() - began_s < STOP_S
    for process in processes:
        assert process.events(event="stopped")
