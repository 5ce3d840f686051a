"""Every client runs the same scenarios against one deployment, and sees the same.

The Python client's results are compared with what the scenarios expect, those of each other client
with the Python client's. `make test-clients` builds the others first; a language whose toolchain is
missing is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.deployment import deployment
from tests.services.processes import ROOT

SCENARIOS = ROOT / "clients/scenarios/scenarios.json"
LANGUAGES = {
    "go": ("go", ["go", "run", "./scenarios"]),
    "typescript": ("node", ["node", "dist/scenarios/runner.js"]),
    "java": ("mvn", ["java", "-cp", "examples/target/classes:examples/target/dependency/*",
                      "dev.tokenwire.examples.ScenarioRunner"]),
}  # fmt: skip
"""By folder of clients/: the program that it needs, and its runner."""

RUN_S = 120
"""Longest time of one runner; each takes some 10 s."""

Lines = dict[str, list[dict[str, Any]]]
"""Generations by scenario."""


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, str]]:
    with deployment() as addresses:
        yield addresses


@pytest.fixture(scope="module")
def of_python(targets, tmp_path_factory) -> Lines:
    command = [sys.executable, "-m", "tests.clients.python_runner"]
    return _run(command, ROOT, targets, tmp_path_factory.mktemp("python") / "results")


def test_the_python_client_sees_what_the_scenarios_expect(of_python):
    for scenario in _scenarios():
        generations = of_python[scenario["name"]]
        for generation, expected in zip(generations, scenario["expect"], strict=True):
            found = {name: generation[name] for name in expected}
            assert found == expected, scenario["name"]
            assert generation["gaps"] == 0, scenario["name"]


def test_a_cut_stream_gives_what_a_whole_one_gives(of_python):
    cut = [each for each in _scenarios() if "cut" in each["targets"]]
    assert cut
    whole = of_python["stream, as long as those that are cut"][0]["sequences"]
    for name in ("stream, continued", "unary, continued"):
        assert of_python[f"{name} at another frontend"][0]["sequences"] == whole


@pytest.mark.skipif("TOKENWIRE_TEST_CLIENTS" not in os.environ, reason="run by make test-clients")
@pytest.mark.parametrize("language", LANGUAGES)
def test_another_client_sees_the_same(language, targets, of_python, tmp_path):
    program, command = LANGUAGES[language]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    found = _run(command, ROOT / "clients" / language, targets, tmp_path / "results")
    for name, generations in of_python.items():
        assert found[name] == generations, name


def _scenarios() -> list[dict[str, Any]]:
    scenarios: list[dict[str, Any]] = json.loads(SCENARIOS.read_text(encoding="utf-8"))
    return scenarios


def _run(command: list[str], folder: Path, targets: dict[str, str], out: Path) -> Lines:
    given = [part for name, each in targets.items() for part in ("--target", f"{name}={each}")]
    done = subprocess.run(
        [*command, "--scenarios", str(SCENARIOS), *given, "--out", str(out)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return {line["scenario"]: line["generations"] for line in lines}
