"""The services that most tests share: one worker, one frontend, for the whole session.

Tests that break services start their own, through `processes`.
"""

from __future__ import annotations

import re

import pytest

from tests.services.calls import Frontend, Worker
from tests.services.processes import SERVING, Processes, wait_for_health


@pytest.fixture(scope="session")
def services():
    """The shared services: (a client of the worker, a client of the frontend)."""
    started = Processes()
    try:
        worker_process = started.worker()
        frontend_process = started.frontend(workers=[worker_process])
        with Worker(worker_process.address) as worker, Frontend(frontend_process.address) as client:
            wait_for_health(client.raw, SERVING)
            yield worker, client
            # Whatever the tests did, neither service has met a fault of its own.
            faults = [
                line
                for process in (worker_process, frontend_process)
                for line in process.lines
                if re.search('"level": "(error|critical)"|^Traceback', line)
            ]
            assert faults == []
    finally:
        started.end()


@pytest.fixture
def worker(services):
    """A client of the shared worker, which is idle when the test begins."""
    client = services[0]
    client.wait_until_idle()
    return client


@pytest.fixture
def frontend(services, worker):
    """A client of the shared frontend, whose worker is idle when the test begins."""
    return services[1]


@pytest.fixture
def processes():
    """Starts services of the test's own."""
    started = Processes()
    yield started
    started.end()


@pytest.fixture(scope="module")
def lasting():
    """Starts services that last for all tests of a file."""
    started = Processes()
    yield started
    started.end()


@pytest.fixture(scope="module")
def plain_worker(lasting):
    """A worker that the frontends of this file share; none of its tests harms it."""
    return lasting.worker()
