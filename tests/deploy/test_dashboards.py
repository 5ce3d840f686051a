"""Dashboards and alerts name only what the services send, and the dashboards show all of it."""

from __future__ import annotations

import itertools
import re

import pytest
from tokenwire_service.telemetry import registry
from tokenwire_service.telemetry.registry import Kind, Metric

from tests.deploy.files import (
    dashboards,
    load,
    panel_expressions,
    panels,
    rule_expressions,
    rules,
    variables,
)
from tests.deploy.promql import named

SCRAPED = {"job", "instance"}
"""Labels that Prometheus gives everything it scrapes."""


def _series(metric: Metric) -> dict[str, set[str]]:
    """Returns the labels of each series name of a metric."""
    name = metric.prometheus_name
    own = {key.replace(".", "_") for key in (*metric.attributes, *metric.optional)} | SCRAPED
    if metric.kind is Kind.HISTOGRAM:
        return {f"{name}_bucket": own | {"le"}, f"{name}_sum": own, f"{name}_count": own}
    return {name: own}


OURS = {name: labels for metric in registry.METRICS for name, labels in _series(metric).items()}
# As dcgm-exporter names them without being told otherwise.
DCGM = {
    f"DCGM_FI_DEV_{field}": {"gpu", "UUID", *SCRAPED}
    for field in ("GPU_UTIL", "FB_USED", "FB_FREE", "POWER_USAGE", "GPU_TEMP")
}
KNOWN = {
    **OURS,
    **DCGM,
    "up": SCRAPED,
    **{rule["record"]: SCRAPED for rule in rules("record")},
}


@pytest.mark.parametrize(
    "expression", [*panel_expressions(), *rule_expressions()], ids=lambda each: each.where
)
def test_every_metric_and_label_exists(expression):
    found = named(expression.text)
    assert found.metrics
    assert set(found.metrics) <= set(KNOWN), "a metric that nothing sends"
    for metric, labels in found.metrics.items():
        assert labels <= KNOWN[metric], f"{metric} has no such label"
    grouped = set().union(*(KNOWN[metric] for metric in found.metrics))
    assert found.by <= grouped, "a label to group by that none of the metrics has"
    shown = set(re.findall(r"\{\{(\w+)\}\}", expression.legend))
    assert shown <= (found.by if found.aggregates else grouped), "a legend that would be empty"


@pytest.mark.parametrize(("where", "selector", "label"), variables(), ids=lambda each: each)
def test_every_variable_is_of_a_label_that_exists(where, selector, label):
    ((metric, labels),) = named(selector).metrics.items()
    assert labels | {label} <= KNOWN[metric]


def test_a_name_or_label_that_does_not_exist_is_found():
    # What the two tests above rest on.
    found = named(
        'histogram_quantile(0.9, sum by (le, job) (rate(a_bucket{x="b{c}",y=~"d"}[5m]))) > 5e1 '
        'and on (instance) e:f offset 5m or vector(0) / (g_total unless h{i!="j"})'
    )
    assert found.metrics == {"a_bucket": {"x", "y"}, "e:f": set(), "g_total": set(), "h": {"i"}}
    assert found.by == {"le", "job", "instance"}


@pytest.mark.parametrize("metric", registry.METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_on_a_dashboard(metric):
    shown = {name for each in panel_expressions() for name in named(each.text).metrics}
    assert shown & set(_series(metric))


@pytest.mark.parametrize("metric", registry.METRICS, ids=lambda metric: metric.name)
def test_what_both_services_send_is_asked_of_one(metric):
    # The job label tells them apart; without it each generation would count twice.
    if metric.services != registry.BOTH:
        return
    for each in [*panel_expressions(), *rule_expressions()]:
        for name in set(_series(metric)) & set(named(each.text).metrics):
            for selector in re.findall(rf"{name}(\{{[^}}]*\}})?", each.text):
                assert 'job="' in selector or 'job=~"' in selector, each.where


@pytest.mark.parametrize("name", dashboards())
def test_panels_are_whole(name):
    dashboard = dashboards()[name]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    provided = {
        source["uid"]: source["type"]
        for source in load("grafana/provisioning/datasources/datasources.yaml")["datasources"]
    }
    for panel in panels(dashboard):
        source = panel["datasource"]
        assert provided[source["uid"]] == source["type"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
    names = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval"}
    for panel in panels(dashboard):
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= names


@pytest.mark.parametrize("name", dashboards())
def test_no_panel_lies_over_another(name):
    places = [panel["gridPos"] for panel in dashboards()[name]["panels"]]
    for place in places:
        assert place["x"] + place["w"] <= 24
    for one, other in itertools.combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart


def test_exemplars_open_their_traces():
    sources = load("grafana/provisioning/datasources/datasources.yaml")["datasources"]
    by_uid = {source["uid"]: source for source in sources}
    (link,) = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert link["name"] == "trace_id", "the exemplars' label"
    assert by_uid[link["datasourceUid"]]["type"] == "tempo"
    # Only histograms have exemplars, and Grafana asks for them only where a target says so.
    with_exemplars = {
        metric
        for dashboard in dashboards().values()
        for panel in panels(dashboard)
        for target in panel["targets"]
        if target.get("exemplar")
        for metric in named(target["expr"]).metrics
    }
    assert "gen_ai_server_time_to_first_token_seconds_bucket" in with_exemplars
    assert all(metric.endswith("_bucket") for metric in with_exemplars)
