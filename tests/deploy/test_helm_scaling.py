"""The Helm chart: what is scaled by which metrics, and what Prometheus and Grafana are given."""

from __future__ import annotations

import json
import re

from tokenwire_service.telemetry import registry

from tests.deploy.files import load
from tests.deploy.kubernetes import CHART, NAME, needs_helm, of_kind, rendered
from tests.deploy.promql import named

pytestmark = needs_helm

SCALED_BY = {
    "tokenwire_frontend_queued_requests",
    "tokenwire_worker_waiting_requests",
    "tokenwire_worker_kv_cache_usage_ratio",
}


def test_workers_are_scaled_by_metrics_that_exist():
    objects = rendered("gpu")
    (scaled,) = of_kind(objects, "ScaledObject").values()
    queries = [each["metadata"]["query"] for each in scaled["spec"]["triggers"]]
    asked = [named(query).metrics for query in queries]
    assert {metric for each in asked for metric in each} == SCALED_BY
    # The labels are those that the monitors give, as Prometheus sees them.
    for selectors in asked:
        for metric, labels in selectors.items():
            whose = "gen_ai_request_model" if "frontend" in metric else "tokenwire_pool"
            assert labels == {"namespace", whose}
    monitor = of_kind(objects, "PodMonitor")[f"{NAME}-worker"]
    relabelled = {
        each["targetLabel"] for each in monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
    }
    assert relabelled == {"job", "instance", "tokenwire_pool"}
    (by_adapter,) = [
        each
        for each in of_kind(rendered("two-nodes"), "HorizontalPodAutoscaler").values()
        if "worker" in each["metadata"]["name"]
    ]
    metrics = [each.get("pods", each.get("external")) for each in by_adapter["spec"]["metrics"]]
    assert {each["metric"]["name"] for each in metrics} == SCALED_BY
    assert {each.prometheus_name for each in registry.METRICS} >= SCALED_BY


def test_what_is_scaled_exists_and_has_no_replicas_of_its_own():
    for example in ("gpu", "two-nodes"):
        objects = rendered(example)
        for kind in ("ScaledObject", "HorizontalPodAutoscaler"):
            for each in of_kind(objects, kind).values():
                target = each["spec"]["scaleTargetRef"]
                scaled = of_kind(objects, target["kind"])[target["name"]]
                assert scaled["apiVersion"] == target["apiVersion"]
                assert "replicas" not in scaled["spec"]


def test_alerts_and_dashboards_are_those_of_the_repository():
    objects = rendered("gpu")
    (rules,) = of_kind(objects, "PrometheusRule").values()
    assert rules["spec"] == load("alerts.yaml")
    boards = of_kind(objects, "ConfigMap")
    for name in ("capacity", "service"):
        (text,) = boards[f"{NAME}-dashboard-{name}"]["data"].values()
        assert json.loads(text)["title"]
    jobs = {
        each["replacement"]
        for monitor in of_kind(objects, "PodMonitor").values()
        for each in monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
        if each["targetLabel"] == "job"
    }
    alerts = (CHART / "files/alerts.yaml").read_text()
    assert jobs == set(re.findall(r'job="(tokenwire-\w+)"', alerts))
