"""A frontend of two processes: one page of metrics, whatever becomes of each."""

from __future__ import annotations

import os
import signal

import pytest
from tokenwire_service.telemetry import registry

from tests.services.calls import Frontend, generation
from tests.services.groups import group_of
from tests.telemetry.conftest import exporting
from tests.telemetry.scrapes import OPENMETRICS, Scrape, get
from tests.telemetry.trees import Caller

TOKENS = ("tokenwire_tokens_total", "gen_ai_token_type")
STATES = ("tokenwire_frontend_workers", "tokenwire_process", "tokenwire_worker_state")
LAG = ("tokenwire_event_loop_lag_seconds_count", "tokenwire_process")


@pytest.fixture(scope="module")
def two(lasting, shared, collector):
    """Two processes that serve, with the shared worker."""
    workers, environment = [shared.worker_process], exporting(collector)
    group = group_of(lasting, workers=workers, environment=environment)
    group.both_serve()
    yield group
    group.process.terminate()
    assert group.process.wait() == 0, group.process.output


def test_metrics_are_summed_and_never_fall(two, collector):
    caller = Caller()
    for each, tokens in zip(two.both_serve(), (3, 4), strict=True):
        with Frontend(each["address"]) as client:
            client.generate(generation(max_tokens=tokens), metadata=caller.metadata)
    before = Scrape(two.process, OPENMETRICS)
    assert before.by(*TOKENS)["output",] == 7
    assert before.value("gen_ai_server_time_to_first_token_seconds_count") == 2
    assert {each.labels["trace_id"] for each in before.exemplars} == {caller.trace_id}
    assert before.value("tokenwire_frontend_active_generations") == 0
    assert before.value("tokenwire_frontend_generations_limit") == 2048
    ready = {key[0]: value for key, value in before.by(*STATES).items() if key[1] == "ready"}
    assert ready == {"0": 1, "1": 1}, "one worker, as each process sees it"
    states = before.by("tokenwire_frontend_processes", "tokenwire_process_state")
    assert states == {("starting",): 0, ("serving",): 2, ("not_serving",): 0, ("silent",): 0}
    assert before.value("tokenwire_frontend_process_restarts_total") == 0
    os.kill(two.processes()[1]["pid"], signal.SIGKILL)
    two.process.wait_for("process_ended", process=1)
    two.both_serve()
    after = Scrape(two.process)
    assert after.by(*TOKENS)["output",] == 7
    assert after.value("tokenwire_frontend_process_restarts_total", tokenwire_process="1") == 1
    assert after.value("tokenwire_frontend_generations_limit") == 2048
    for process in ("0", "1"):
        assert after.by(*LAG)[process,] >= before.by(*LAG)[process,]
    restarts = registry.PROCESS_RESTARTS.name
    collector.wait_until(lambda: collector.points(registry.FRONTEND, restarts))


def test_it_is_ready_while_at_least_one_process_is(two):
    assert get(two.process, "/readyz").status == 200
    first, _ = two.both_serve()
    os.kill(first["pid"], signal.SIGKILL)
    two.process.wait_for("process_ended", process=0)
    assert two.processes()[0]["state"] == "starting"
    assert get(two.process, "/readyz").status == 200
    two.both_serve()
