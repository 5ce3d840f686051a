"""The services that most tests share: one worker, one frontend, for the whole session.

Tests that break services start their own, through `processes`.
"""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest

from tests.services.calls import Frontend, Worker
from tests.services.groups import adjacent
from tests.services.processes import SERVING, Process, Processes, wait_for_health


@pytest.fixture(scope="session")
def _shared():
    """Starts the shared services."""
    started = Processes()
    yield started
    started.end()


def check_well(process: Process) -> None:
    """Checks that, whatever the tests did, a service has met no fault of its own."""
    faults = [
        line for line in process.lines if re.search('"level": "(error|critical)"|^Traceback', line)
    ]
    assert faults == []


@pytest.fixture(scope="session")
def shared_worker(_shared):
    """The shared worker's process."""
    process = _shared.worker()
    yield process
    check_well(process)


@pytest.fixture(scope="session")
def shared_frontend(_shared, shared_worker):
    """The shared frontend's process."""
    process = _shared.frontend("--openai-listen", "127.0.0.1:0", workers=[shared_worker])
    yield process
    check_well(process)


@pytest.fixture(scope="session")
def services(shared_worker, shared_frontend):
    """The shared services: (a client of the worker, a client of the frontend)."""
    with Worker(shared_worker.address) as worker, Frontend(shared_frontend.address) as client:
        wait_for_health(client.raw, SERVING)
        yield worker, client


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


@pytest.fixture(scope="session")
def _groups():
    """The frontend of two processes that runs, or nothing."""
    return []


@pytest.fixture
def two(_shared, _groups, plain_worker):
    """A frontend of two processes; tests end processes of it, and one ends it whole."""
    if not _groups or _groups[0].process.process.poll() is not None:
        _groups[:] = [adjacent(_shared, plain_worker)]
    return _groups[0]


@pytest.fixture
def clients(two):
    """A client of each of its processes by itself; both serve."""
    with ExitStack() as stack:
        yield [stack.enter_context(Frontend(each["address"])) for each in two.both_serve()]


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


@pytest.fixture
def plain_worker(shared_worker):
    """The shared worker, for frontends of the test's own, idle when the test begins."""
    with Worker(shared_worker.address) as client:
        client.wait_until_idle()
    return shared_worker
