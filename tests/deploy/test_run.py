"""The real services, scraped by a real Prometheus: every panel and rule has something to show."""

from __future__ import annotations

import math
import time
import urllib.request

import pytest
from tokenwire import Client, InvalidRequestError, RetryPolicy, UnavailableError
from tokenwire_service.telemetry import registry

from tests.deploy.files import needs_prometheus, panel_expressions, rule_expressions, variables
from tests.deploy.prometheus import Prometheus, eventually
from tests.deploy.promql import named
from tests.services.collector import Collector
from tests.services.processes import MODEL, MODEL_NAME, WAIT_S, Process, Processes
from tests.table import table

pytestmark = needs_prometheus

GREEDY = {"temperature": 0.0, "ignore_eos": True}
FRONTEND = "job='tokenwire-frontend'"
WORKER = "job='tokenwire-worker'"
RATE_INTERVAL = "5m"
"""Longer than the tests take, so that all the work is within it."""

# Per round of `_work`.
COMPLETED, TOKENS = 6, 12
CANCELLED, REFUSED = 1, 1

CHAT = [{"role": "user", "content": "Who are you?"}]

DOOMED = "doomed"
"""Model of a second worker, which is killed within a generation."""

ABSENT = {
    metric.prometheus_name
    for metric in (
        registry.PREFIX_CACHE_TOKENS,
        registry.PROCESSES,
        registry.PROCESS_RESTARTS,
        registry.REFUSALS,
        registry.EXPECTED_CACHE_TOKENS,
        registry.PREFILLS,
        registry.PAIRED_GROUPS,
    )
} | {f"{registry.FRONTEND_QUEUE_DURATION.prometheus_name}_bucket"}
"""What the CPU engine, a frontend of one process, one worker of a model, which is for all phases,
and a load that finds room do not tell."""


def _work(client: Client) -> list[str]:
    """Does work that is known; returns the trace ids of what completed."""
    asked = {"model": MODEL_NAME, **GREEDY}
    traces = [
        client.generate("One, two,", max_tokens=TOKENS, **asked).trace_id,
        client.generate("Hello", max_tokens=TOKENS, **asked).trace_id,
        client.generate(chat=CHAT, max_tokens=TOKENS, **asked).trace_id,
    ]
    for held in (0, 2):
        turn = client.generate(
            chat=CHAT,
            conversation={"id": "visit", "messages": held},
            max_tokens=TOKENS,
            **asked,
        )
        traces.append(turn.trace_id)
    kept = {"on_disconnect": "detach", "detach_ttl": 0.1}
    with client.stream("Hello", max_tokens=TOKENS, **kept, **asked) as stream:
        list(stream)
        traces.append(stream.result.trace_id)
        assert stream.accepted is not None
        assert list(client.attach(stream.accepted.resume_token))
    with client.stream("Hello", max_tokens=3900, **asked) as stream:
        next(iter(stream))
    with pytest.raises(InvalidRequestError):
        client.generate("Hello", model=MODEL_NAME, temperature=-1.0)
    return traces


def _lose(client: Client, worker: Process) -> None:
    """Kills the worker within a generation."""
    with client.stream("Hello", model=DOOMED, max_tokens=3900, **GREEDY) as stream:
        next(iter(stream))
        worker.kill()
        with pytest.raises(UnavailableError):
            list(stream)


def _all_work(prometheus: Prometheus, client: Client, openai: str, doomed: Process) -> list[str]:
    """Does two rounds of work and loses a worker, all of it scraped; returns trace ids."""
    generations = "sum(tokenwire_generations_total{%s})"
    traces = []
    # A rate needs two values: a series that begins with its last one has none.
    for each in (1, 2):
        traces += _work(client)
        with urllib.request.urlopen(f"http://{openai}/v1/models", timeout=WAIT_S) as answer:
            assert answer.status == 200
        ended = each * (COMPLETED + CANCELLED)
        prometheus.wait_for(generations % WORKER, ended)
        prometheus.wait_for(generations % FRONTEND, ended + each * REFUSED)
    _lose(client, doomed)
    failed = f"tokenwire_generations_total{{{FRONTEND},tokenwire_outcome='failed'}}"
    prometheus.settle(
        {
            f"count(count_over_time({failed}[1m]) > 1)": 1,
            "count(up == 1)": 2,
            "count(up == 0)": 1,
            "sum(tokenwire_frontend_workers{tokenwire_worker_state='ready'})": 1,
            f"count(tokenwire_worker_running_sequences{{{WORKER}}})": 1,
        }
    )
    return traces


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """(Prometheus, collector, trace ids) after all work, which has been scraped."""
    collector, started = Collector(), Processes()
    # As compose.yaml sets them.
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "TOKENWIRE_FRONTEND_ADMIN_LISTEN": "127.0.0.1:0",
        "TOKENWIRE_WORKER_ADMIN_LISTEN": "127.0.0.1:0",
    }
    listen = ("--listen", "127.0.0.1:0", "--log-format", "json")
    engine = ("--model", str(MODEL), "--openvino.kv-blocks", "512", "--openvino.threads", "2")
    prometheus = None
    try:
        workers = [
            started.run("tokenwire_worker", [*engine, *listen, "--model-name", name], environment)
            for name in (MODEL_NAME, DOOMED)
        ]
        named_workers = [part for each in workers for part in ("--worker", each.address)]
        own = [*listen, "--openai-listen", "127.0.0.1:0", *named_workers]
        frontend = started.run("tokenwire_frontend", own, environment)
        targets = {
            f"tokenwire-{name}": [each.wait_for("admin_listening")["address"] for each in processes]
            for name, processes in (("frontend", [frontend]), ("worker", workers))
        }
        prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), targets)
        prometheus.wait_for("sum(up)", 3)
        prometheus.wait_for("sum(tokenwire_frontend_workers{tokenwire_worker_state='ready'})", 2)
        once = RetryPolicy(continuations=0)
        with Client(frontend.address, timeout=WAIT_S, retry=once) as client:
            openai = frontend.wait_for("openai_listening")["address"]
            traces = _all_work(prometheus, client, openai, workers[1])
        yield prometheus, collector, traces
    finally:
        if prometheus is not None:
            prometheus.end()
        started.end()
        collector.close()


def _substituted(expression: str) -> str:
    """Returns an expression as Grafana sends it when a dashboard has just been opened."""
    for name, value in (("model", ".*"), ("instance", ".*"), ("__rate_interval", RATE_INTERVAL)):
        expression = expression.replace(f"${name}", value)
    return expression


def test_every_panel_shows_something(scene):
    with table() as row:
        for expression in panel_expressions():
            with row(expression.where):
                result = scene[0].query(_substituted(expression.text))
                metrics = named(expression.text).metrics
                if metrics.keys() <= ABSENT or all(name.startswith("DCGM_") for name in metrics):
                    assert result == []
                else:
                    assert any(math.isfinite(value) for _, value in result)


def test_every_rule_can_be_asked(scene):
    with table() as row:
        for expression in rule_expressions():
            with row(expression.where):
                scene[0].query(expression.text)


def test_every_variable_has_values(scene):
    with table() as row:
        for where, selector, label in variables():
            with row(where):
                values = scene[0].get(
                    f"label/{label}/values", **{"match[]": _substituted(selector)}
                )
                if label == "gen_ai_request_model":
                    assert values == [MODEL_NAME, DOOMED]
                else:
                    assert len(values) == (1 if "Frontend" in where else 2)


def test_the_numbers_are_those_of_the_work(scene):
    prometheus = scene[0]
    ended = {
        (labels["tokenwire_outcome"], labels["tokenwire_reason"]): value
        for labels, value in prometheus.query(f"tokenwire_generations_total{{{FRONTEND}}}")
    }
    assert ended == {
        ("completed", "length"): 2 * COMPLETED,
        ("cancelled", "client_gone"): 2 * CANCELLED,
        ("refused", "INVALID_FIELD"): 2 * REFUSED,
        ("failed", "WORKER_LOST"): 1,
    }
    first_tokens = f"gen_ai_server_time_to_first_token_seconds_count{{{FRONTEND}}}"
    assert prometheus.number(f"sum({first_tokens})") >= 2 * COMPLETED
    assert prometheus.number("tokenwire_worker_kv_blocks_capacity") == 512


def test_the_lost_worker_is_what_the_alerts_tell_of(scene):
    expressions = {each.where: each.text for each in rule_expressions()}
    ((down, _),) = scene[0].query(expressions["TokenwireDown"])
    assert down["job"] == "tokenwire-worker"
    ((_, not_ready),) = scene[0].query(expressions["TokenwireWorkerNotReady"])
    assert not_ready == 1
    assert scene[0].query(expressions["TokenwireNoWorker"]) == []
    assert scene[0].query(expressions["TokenwireNoFrontend"]) == []


def test_exemplars_lead_to_the_traces(scene):
    prometheus, collector, traces = scene
    now_s = time.time()
    metric = f"gen_ai_server_time_to_first_token_seconds_bucket{{{FRONTEND}}}"

    def exemplar() -> str | None:
        data = prometheus.get(
            "query_exemplars", query=metric, start=str(now_s - 600), end=str(now_s + 60)
        )
        found = {each["labels"]["trace_id"] for series in data for each in series["exemplars"]}
        return next(iter(found & set(traces)), None)

    trace_id = eventually("an exemplar of a generation", exemplar)
    spans = collector.wait_for(trace_id, {"queue", "prefill", "decode", "tokenize", "route"})
    assert spans, "the frontend's spans and the worker's are in one trace"


def test_no_rule_is_at_fault(scene):
    def judged() -> list[str] | None:
        groups = scene[0].get("rules")["groups"]
        health = [
            rule["health"]
            for group in groups
            for rule in group["rules"]
            # The recorded series are first asked up to a minute after the start.
            if group["name"] != "tokenwire-recorded"
        ]
        return None if "unknown" in health else health

    assert set(eventually("the rules' first evaluation", judged)) == {"ok"}
