"""A worker and a frontend that export to one collector, shared by all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.services.calls import Frontend, Worker
from tests.services.collector import Collector
from tests.services.processes import SERVING, Process, Processes, wait_for_health

ADMIN = ("--admin-listen", "127.0.0.1:0")
OPENAI = ("--openai-listen", "127.0.0.1:0")


def exporting(collector: Collector, **more: str) -> dict[str, str]:
    """Returns the environment of a service that exports to a collector, at once."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        **more,
    }


@dataclass
class Pair:
    """A worker and its frontend."""

    collector: Collector
    worker_process: Process
    frontend_process: Process
    worker: Worker
    frontend: Frontend


@pytest.fixture(scope="package")
def collectors() -> Iterator[list[Collector]]:
    """Every collector of this folder; `test_the_registry`, run last, looks at what they got."""
    every: list[Collector] = []
    yield every
    for each in every:
        each.close()


@pytest.fixture(scope="package")
def collector(collectors) -> Collector:
    """What the shared services export to."""
    made = Collector()
    collectors.append(made)
    return made


@pytest.fixture(scope="module")
def lasting() -> Iterator[Processes]:
    """Starts services that serve all tests of a file; more would export all the while."""
    started = Processes()
    yield started
    started.end()


@pytest.fixture(scope="package")
def _shared() -> Iterator[Processes]:
    """Starts the services that serve all tests of this folder."""
    started = Processes()
    yield started
    started.end()


@pytest.fixture(scope="package")
def shared(_shared, collector) -> Iterator[Pair]:
    """The shared services. When they have ended, no trace has more spans than were checked."""
    environment = exporting(collector)
    worker = _shared.worker(
        *("--openvino.kv-blocks", "512", "--openvino.max-sequences", "4"),
        *("--worker-name", "shared", *ADMIN),
        environment=environment,
    )
    frontend = _shared.frontend(*ADMIN, *OPENAI, workers=[worker], environment=environment)
    with Worker(worker.address) as direct, Frontend(frontend.address) as client:
        wait_for_health(client.raw, SERVING)
        yield Pair(collector, worker, frontend, direct, client)
    for process in (frontend, worker):
        process.terminate()
        assert process.wait() == 0, process.output
        assert "Traceback" not in process.output
    late = {
        trace_id: count
        for trace_id, count in collector.checked.items()
        if len(collector.trace(trace_id)) != count
    }
    assert late == {}, "spans that came later"


@pytest.fixture
def pair(shared) -> Pair:
    """The shared services, idle when the test begins."""
    shared.worker.wait_until_idle()
    return shared


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Starts services of the test's own."""
    started = Processes()
    yield started
    started.end()
