"""The engines that the contract suite runs against, each loaded once."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from tokenizers import Tokenizer
from tokenwire_service.settings import parse
from tokenwire_worker import engines
from tokenwire_worker.engines.port import Engine
from tokenwire_worker.settings import WorkerSettings

from tests.engines.recorder import Recorder
from tests.services.processes import MODEL

CONTRACT = {
    "openvino": (
        "openvino_genai",
        ["--openvino.exact", "--openvino.kv-blocks", "1024", "--context-tokens", "2048"],
    ),
}
"""Package that an engine needs, and the settings that it is tested with."""


def build(*arguments: str, engine: str = "openvino", model: str = str(MODEL)) -> Engine:
    """Loads the demo model on an engine."""
    settings = parse(WorkerSettings, "test", ["--model", model, "--engine", engine, *arguments])
    module = engines.module_of(settings)
    module.check_model(settings)
    return module.build(settings)


@pytest.fixture(scope="session", params=sorted(CONTRACT))
def _running(request) -> Iterator[Recorder]:
    package, arguments = CONTRACT[request.param]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    recorder = Recorder(build(*arguments, engine=request.param))
    recorder.engine.start(recorder)
    yield recorder
    recorder.engine.close()
    assert recorder.death is None


@pytest.fixture
def recorder(_running) -> Recorder:
    """A running engine that many tests share."""
    assert _running.death is None, "an earlier test has ended the engine"
    return _running


@pytest.fixture
def started():
    """Builds and starts engines of a test's own, and closes them after it."""
    recorders: list[Recorder] = []

    def start(*arguments: str, **options: str) -> Recorder:
        recorder = Recorder(build(*arguments, **options))
        recorder.engine.start(recorder)
        recorders.append(recorder)
        return recorder

    yield start
    for recorder in recorders:
        recorder.engine.close()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The demo model's tokenizer."""
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))
