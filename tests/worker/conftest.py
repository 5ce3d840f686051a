"""The worker that most tests share, and workers of a test's own."""

from __future__ import annotations

import re

import pytest
import structlog

from tests.services.calls import Worker
from tests.services.processes import SERVING, Process, Processes, wait_for_health
from tests.worker.scripted_engine import ScriptedEngine
from tests.worker.worker_here import worker_of


@pytest.fixture(scope="session")
def _shared():
    started = Processes()
    try:
        process = started.worker("--openvino.kv-blocks", "2048")
        with Worker(process.address) as client:
            wait_for_health(client.raw, SERVING)
            yield client, process
            # Whatever the tests did, the worker has met no fault of its own.
            faults = [
                line
                for line in process.lines
                if re.search('"level": "(error|critical)"|^Traceback', line)
            ]
            assert faults == []
    finally:
        started.end()


@pytest.fixture
def worker(_shared) -> Worker:
    """A client of the shared worker, which is idle when the test begins."""
    client = _shared[0]
    client.wait_until_idle()
    return client


@pytest.fixture
def worker_process(_shared, worker):
    """The shared worker's process."""
    return _shared[1]


@pytest.fixture
def processes():
    """Starts services of the test's own."""
    started = Processes()
    yield started
    started.end()


@pytest.fixture
def own_worker(processes, serving):
    """Starts a worker of the test's own and returns it with a client, once it serves."""
    return lambda *arguments: serving(processes.worker("--openvino.kv-blocks", "1024", *arguments))


@pytest.fixture
def simulated_worker(processes, serving):
    """Likewise, one whose engine simulates."""
    return lambda *arguments: serving(processes.simulated(*arguments))


@pytest.fixture
def serving():
    """Waits until a worker serves and returns it with a client."""
    clients: list[Worker] = []

    def wait(process: Process):
        client = Worker(process.address)
        clients.append(client)
        wait_for_health(client.raw, SERVING)
        return process, client

    yield wait
    for client in clients:
        client.raw.close()


@pytest.fixture
async def here():
    """A worker of a scripted engine, in this process, that holds nothing when the test ends."""
    async with worker_of(ScriptedEngine()) as worker:
        yield worker
        await worker.quiet()


@pytest.fixture
def lines():
    """The log lines of the test."""
    with structlog.testing.capture_logs() as captured:
        yield captured
