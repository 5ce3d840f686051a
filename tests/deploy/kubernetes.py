"""The Helm chart as Helm renders it, and the schemas of what it makes."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest
import yaml

from tests.services.processes import ROOT, WAIT_S

CHART = ROOT / "deploy/helm/tokenwire"
EXAMPLES = {path.stem: path for path in sorted((ROOT / "deploy/helm/examples").glob("*.yaml"))}
FETCHED = ROOT / "build/helm"
HELM = shutil.which("helm", path=str(FETCHED)) or shutil.which("helm")
RELEASE, NAMESPACE = "prod", "llm"
NAME = f"{RELEASE}-tokenwire"
KUBERNETES = "1.34"
"""The version whose schemas are used."""

needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not here: `make helm` fetches it")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Helm."""
    assert HELM is not None
    return subprocess.run(
        [HELM, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=False
    )


def template(*values: str) -> subprocess.CompletedProcess[str]:
    """Has Helm render the chart; `values` are its options, or names of examples."""
    options: list[str] = []
    for each in values:
        options += ["--values", str(EXAMPLES[each])] if each in EXAMPLES else ["--set-json", each]
    return helm(
        *("template", RELEASE, str(CHART), "--namespace", NAMESPACE),
        *("--kube-version", KUBERNETES, *options),
    )


@functools.cache
def rendered(*values: str) -> tuple[Any, ...]:
    """Returns the objects that the chart makes of these values."""
    done = template(*values)
    assert done.returncode == 0, done.stderr
    return tuple(each for each in yaml.safe_load_all(done.stdout) if each)


def of_kind(objects: Iterable[Any], kind: str) -> dict[str, Any]:
    """Returns the objects of a kind, by their names."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pods(objects: Iterable[Any]) -> dict[str, Any]:
    """Returns the templates of pods, by the names of what they belong to."""
    found = {}
    for each in objects:
        name, spec = each["metadata"]["name"], each.get("spec", {})
        if "template" in spec:
            found[name] = spec["template"]
        elif "leaderWorkerTemplate" in spec:
            found[name] = spec["leaderWorkerTemplate"]["leaderTemplate"]
            found[f"{name} follower"] = spec["leaderWorkerTemplate"]["workerTemplate"]
    return found


def container(pod: Any) -> Any:
    """Returns a pod's only container."""
    (only,) = pod["spec"]["containers"]
    return only


def environment(pod: Any) -> dict[str, str]:
    """Returns the variables of a pod's container with what they refer to; each has one value."""
    known = {"LWS_LEADER_ADDRESS": "leader", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "0"}
    fields = {
        "metadata.name": f"{NAME}-frontend-0",
        "metadata.namespace": NAMESPACE,
        "status.podIP": "10.0.0.1",
    }
    for variable in container(pod)["env"]:
        name = variable["name"]
        assert name not in known, f"{name} has two values"
        if "valueFrom" in variable:
            known[name] = fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            # As in Kubernetes: of variables that stand before.
            known[name] = re.sub(r"\$\((\w+)\)", lambda each: known[each[1]], variable["value"])
    return known


def selects(selector: Any, labels: dict[str, str]) -> bool:
    """Tells whether a selector, of labels alone, selects what has these labels."""
    wanted = selector.get("matchLabels", selector)
    assert not wanted.keys() & {"matchExpressions"}
    return wanted.items() <= labels.items()
