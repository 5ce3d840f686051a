"""Prometheus's own tool reads the configuration and the rules, and tests the alerts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.files import FOLDER, PROMTOOL, load, needs_prometheus, rules
from tests.services.processes import ROOT, WAIT_S

ALERTS = {rule["alert"]: rule for rule in rules("alert")}


def promtool(*arguments: str | Path) -> str:
    """Runs promtool on files of deploy/observability; returns what it says."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *map(str, arguments)],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_prometheus_takes_the_configuration():
    assert "SUCCESS" in promtool("check", "config", "prometheus.yaml")


@needs_prometheus
def test_prometheus_takes_the_rules():
    promtool("check", "rules", "--lint-fatal", "alerts.yaml")


@needs_prometheus
def test_each_alert_fires_when_it_must_and_only_then():
    promtool("test", "rules", "alerts_test.yaml")


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tested_both_ways(alert):
    cases = [
        case["exp_alerts"]
        for test in load("alerts_test.yaml")["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == alert
    ]
    assert any(cases), "never expected to fire"
    assert any(not expected for expected in cases), "never expected to be silent"


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_summary_and_a_section_that_says_what_to_do(alert):
    annotations = ALERTS[alert]["annotations"]
    assert annotations["summary"]
    assert ALERTS[alert]["labels"]["severity"] in ("warning", "critical")
    page, _, anchor = annotations["runbook"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.strip().lower().replace(" ", "-") for heading in headings}


def test_the_reasons_that_are_the_callers_own_exist():
    (reasons,) = re.findall(r'tokenwire_reason!~"([^"]*)"', ALERTS["TokenwireErrors"]["expr"])
    sources = "".join(
        path.read_text()
        for folder in ("service", "frontend", "inference_worker")
        for path in (ROOT / folder).rglob("*.py")
    )
    for reason in reasons.split("|"):
        assert f'"{reason}"' in sources
