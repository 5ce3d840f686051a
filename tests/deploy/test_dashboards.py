"""Dashboards and alerts name only what the services send, and the dashboards show all of it."""

from __future__ import annotations

import itertools
import re
from typing import Any

from tokenwire_service.telemetry import registry
from tokenwire_service.telemetry.registry import Kind, Metric

from tests.deploy.files import (
    Expression,
    dashboards,
    load,
    panel_expressions,
    panels,
    rule_expressions,
    rules,
    variables,
)
from tests.deploy.promql import named
from tests.table import table

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


def test_every_metric_and_label_exists():
    with table() as row:
        for expression in (*panel_expressions(), *rule_expressions()):
            with row(expression.where):
                check_names(expression)


def check_names(expression: Expression) -> None:
    found = named(expression.text)
    assert found.metrics
    assert set(found.metrics) <= set(KNOWN), "a metric that nothing sends"
    for metric, labels in found.metrics.items():
        assert labels <= KNOWN[metric], f"{metric} has no such label"
    grouped = set().union(*(KNOWN[metric] for metric in found.metrics))
    assert found.by <= grouped, "a label to group by that none of the metrics has"
    shown = set(re.findall(r"\{\{(\w+)\}\}", expression.legend))
    assert shown <= (found.by if found.aggregates else grouped), "a legend that would be empty"


def test_every_variable_is_of_a_label_that_exists():
    with table() as row:
        for where, selector, label in variables():
            with row(where):
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


def test_every_metric_is_on_a_dashboard():
    shown = {name for each in panel_expressions() for name in named(each.text).metrics}
    assert [each.name for each in registry.METRICS if not shown & set(_series(each))] == []


def test_what_both_services_send_is_asked_of_one():
    # The job label tells them apart; without it each generation would count twice.
    expressions = [*panel_expressions(), *rule_expressions()]
    with table() as row:
        for metric in registry.METRICS:
            if metric.services == registry.BOTH:
                with row(metric.name):
                    check_told_apart(metric, expressions)


def check_told_apart(metric: Metric, expressions: list[Expression]) -> None:
    for each in expressions:
        for name in set(_series(metric)) & set(named(each.text).metrics):
            for selector in re.findall(rf"{name}(\{{[^}}]*\}})?", each.text):
                assert 'job="' in selector or 'job=~"' in selector, each.where


def test_panels_are_whole():
    with table() as row:
        for name, dashboard in dashboards().items():
            with row(name):
                check_panels(dashboard)


def check_panels(dashboard: Any) -> None:
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


def test_no_panel_lies_over_another():
    with table() as row:
        for name, dashboard in dashboards().items():
            places = [panel["gridPos"] for panel in dashboard["panels"]]
            for place in places:
                with row(f"{name}: {place}"):
                    assert place["x"] + place["w"] <= 24
            for one, other in itertools.combinations(places, 2):
                with row(f"{name}: {one} and {other}"):
                    assert apart(one, other)


def apart(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] + one["w"] <= other["x"]
        or other["x"] + other["w"] <= one["x"]
        or one["y"] + one["h"] <= other["y"]
        or other["y"] + other["h"] <= one["y"]
    )


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
