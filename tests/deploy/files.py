"""What is under test here: the files of deploy/observability, and the programs that read them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.services.processes import ROOT

FOLDER = ROOT / "deploy/observability"
FETCHED = ROOT / "build/prometheus"


def _program(name: str) -> str | None:
    """Returns the path of a program that `make prometheus` has fetched, or that is on PATH."""
    return shutil.which(name, path=str(FETCHED)) or shutil.which(name)


PROMETHEUS = _program("prometheus")
PROMTOOL = _program("promtool")

needs_prometheus = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL),
    reason="prometheus and promtool are not here: `make prometheus` fetches them",
)


@dataclass(frozen=True)
class Expression:
    """One expression of a panel or an alert."""

    where: str
    text: str
    legend: str = ""


def load(name: str) -> Any:
    """Returns one YAML file of deploy/observability."""
    return yaml.safe_load((FOLDER / name).read_text())


def dashboards() -> dict[str, Any]:
    """Returns the dashboards by name."""
    folder = FOLDER / "grafana/dashboards"
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def panels(dashboard: Any) -> list[Any]:
    """Returns a dashboard's panels that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def panel_expressions() -> list[Expression]:
    """Returns the expressions of all panels."""
    return [
        Expression(
            f"{name}: {panel['title']}: {target['refId']}", target["expr"], target["legendFormat"]
        )
        for name, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def rules(kind: str) -> list[Any]:
    """Returns the rules of `alert` or `record`."""
    groups = load("alerts.yaml")["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def rule_expressions() -> list[Expression]:
    """Returns the expressions of all rules."""
    return [
        Expression(rule[kind], rule["expr"]) for kind in ("alert", "record") for rule in rules(kind)
    ]


_LABEL_VALUES = re.compile(r"label_values\((.*), (\w+)\)")


def variables() -> list[tuple[str, str, str]]:
    """Returns (where, selector, label) of the dashboards' variables."""
    found = []
    for name, dashboard in dashboards().items():
        for variable in dashboard["templating"]["list"]:
            match = _LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert match, f"{name}: {variable['name']} is no label_values(selector, label)"
            found.append((f"{name}: {variable['label']}", match[1], match[2]))
    return found
