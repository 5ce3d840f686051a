"""What was sent is declared, and what is declared is sent: over all tests of this folder.

Its name is the folder's last, so that it sees what came of all others.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import time
from pathlib import Path

import opentelemetry.semconv
import pytest
from opentelemetry.semconv import schemas
from tokenwire_service.telemetry import registry, semconv
from tokenwire_service.telemetry.registry import Kind

from tests.services.calls import generation
from tests.services.collector import Collector, MetricOf, SpanOf, attributes
from tests.services.processes import ROOT, WAIT_S
from tests.telemetry.scrapes import Scrape
from tests.telemetry.test_http import ask
from tests.telemetry.trees import check_declared, form_of

METRICS = {metric.name: metric for metric in registry.METRICS}


@pytest.fixture(scope="module")
def everything(request, collectors) -> list[Collector]:
    """All collectors, once all tests of this folder have run."""
    ran = {Path(item.path).name for item in request.session.items}
    if {each.name for each in Path(__file__).parent.glob("test_*.py")} - ran:
        pytest.skip("looks at what all tests of this folder have had sent")
    return collectors


@pytest.fixture(scope="module")
def spans(everything) -> list[SpanOf]:
    return [span for collector in everything for span in collector.spans]


@pytest.fixture(scope="module")
def metrics(everything) -> list[MetricOf]:
    return [metric for collector in everything for metric in collector.metrics]


# --- spans ---------------------------------------------------------------------------------------


def test_every_span_is_declared(spans):
    assert len(spans) > 100
    for each in spans:
        check_declared(each)
        assert (each.origin.scope, each.origin.schema_url) == ("tokenwire", semconv.SCHEMA_URL)


def test_every_declared_span_attribute_and_event_is_sent(spans):
    for service in registry.BOTH:
        of_service = [each for each in spans if each.service == service]
        forms = {id(form_of(each)) for each in of_service}
        for form in registry.SPANS:
            assert service not in form.services or id(form) in forms, (service, form)
    for form in registry.SPANS:
        sent = [each for each in spans if form_of(each) is form]
        told = {name for each in sent for name in each.attributes}
        assert {*form.attributes, *form.optional} - told == set(), form.name
        events = {event.name for each in sent for event in each.span.events}
        assert events == set(form.events), form.name


# --- metrics -------------------------------------------------------------------------------------


def test_every_metric_is_declared(metrics):
    for each in metrics:
        declared = METRICS[each.metric.name]
        assert each.origin.service in declared.services, declared.name
        assert Kind(each.kind) is declared.kind, declared.name
        assert each.metric.unit == declared.unit, declared.name
        assert each.metric.description == declared.description, declared.name
        assert (each.origin.scope, each.origin.schema_url) == ("tokenwire", semconv.SCHEMA_URL)
        for point in each.points:
            own = set(attributes(point))
            assert own >= set(declared.attributes), declared.name
            assert own <= {*declared.attributes, *declared.optional}, declared.name
            if declared.kind is Kind.HISTOGRAM:
                assert tuple(point.explicit_bounds) == declared.bounds, declared.name


def test_every_declared_metric_and_attribute_is_sent(metrics):
    sent: dict[tuple[str, str], set[str]] = {}
    for each in metrics:
        told = sent.setdefault((each.origin.service, each.metric.name), set())
        told |= {name for point in each.points for name in attributes(point)}
    assert set(sent) == {
        (service, metric.name) for metric in registry.METRICS for service in metric.services
    }
    for metric in registry.METRICS:
        told = set().union(*(sent[service, metric.name] for service in metric.services))
        assert told == {*metric.attributes, *metric.optional}, metric.name


def exposed_names(process) -> set[str]:
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name, _ in Scrape(process).samples}


def test_prometheus_names_are_the_declared_ones(pair):
    pair.frontend.generate(generation(max_tokens=3))
    ask(pair, "/v1/models")
    pair.worker.wait_until_idle()
    for service, process in (
        (registry.FRONTEND, pair.frontend_process),
        (registry.WORKER, pair.worker_process),
    ):
        exposed = exposed_names(process)
        deadline_s = time.monotonic() + WAIT_S
        # The event loop's lag is sampled a quarter of a second after the start, the rest by now.
        while registry.EVENT_LOOP_LAG.prometheus_name not in exposed:
            assert time.monotonic() < deadline_s
            exposed = exposed_names(process)
        # The shared worker's engine does not tell what it found in its prefix cache, and the shared
        # frontend is one process that loses none of its workers.
        unsent = (
            registry.PREFIX_CACHE_TOKENS, registry.PROCESSES, registry.PROCESS_RESTARTS,
            registry.MOVES, registry.EXPECTED_CACHE_TOKENS, registry.PREFILLS,
            registry.PAIRED_GROUPS,
        )  # fmt: skip
        # Other tests may have had it keep some, or have more requests than there was room for.
        of_others = (
            registry.ATTACHES, registry.KEPT_DROPPED,
            registry.FRONTEND_QUEUE_DURATION, registry.REFUSALS,
        )  # fmt: skip
        maybe = {each.prometheus_name for each in of_others}
        silent = {metric.prometheus_name for metric in unsent}
        declared = {
            metric.prometheus_name for metric in registry.METRICS if service in metric.services
        }
        assert exposed - {"target_info"} - maybe == declared - silent - maybe


# --- names ---------------------------------------------------------------------------------------


def known_names() -> set[str]:
    """Returns every name of the conventions that the package has and does not deprecate."""
    root = opentelemetry.semconv
    folders = [(path, root.__name__) for path in root.__path__]
    folders += [(f"{path}/_incubating", f"{root.__name__}._incubating") for path in root.__path__]
    names = set()
    for folder, package in folders:
        for part in ("attributes", "metrics"):
            for module in pkgutil.iter_modules([f"{folder}/{part}"]):
                found = importlib.import_module(f"{package}.{part}.{module.name}")
                names |= {value for value in vars(found).values() if isinstance(value, str)}
    return names


def test_names_of_the_conventions_are_spelt_as_there():
    """What does not begin with `tokenwire.` is in the conventions."""
    known = known_names()
    assert {"error.type", "rpc.method", "gen_ai.request.model"} <= known
    bearers = (*registry.SPANS, *registry.METRICS)
    names = {name for each in bearers for name in (*each.attributes, *each.optional)}
    names |= set(METRICS)
    foreign = {name for name in names if not name.startswith("tokenwire.")}
    assert len(foreign) > 20
    assert foreign <= known
    assert all(name.startswith("tokenwire.") for name in registry.EVENTS)


def test_the_schema_is_one_that_exists():
    assert semconv.SCHEMA_URL in {each.value for each in schemas.Schemas}


# --- the page ------------------------------------------------------------------------------------


def test_the_page_is_what_the_registry_says(tmp_path):
    out = tmp_path / "telemetry.md"
    tool = ROOT / "tools/generate_telemetry_reference.py"
    subprocess.run([sys.executable, str(tool), "--out", str(out)], check=True)
    page = (ROOT / "docs/telemetry.md").read_text()
    assert page == out.read_text(), "run `make telemetry-reference`"
    for name in (*METRICS, *registry.EVENTS):
        assert f"`{name}`" in page
