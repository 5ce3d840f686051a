"""The engines that the contract suite runs against, each loaded once."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenwire_service.settings import parse
from tokenwire_worker import engines
from tokenwire_worker.engines.port import Engine
from tokenwire_worker.model_source import with_text_files
from tokenwire_worker.settings import WorkerSettings

from tests.engines.recorder import Recorder
from tests.services.processes import MODEL, ROOT

CONTRACT = {
    "openvino": (
        "openvino_genai",
        ["--openvino.exact", "--openvino.kv-blocks", "1024", "--context-tokens", "1024"],
    ),
    "simulated": (
        "tokenwire_worker",
        [
            *("--context-tokens", "1024", "--simulated.step-ms", "1"),
            # Small steps, so that a prompt takes several; ends, as models have them.
            *("--simulated.step-tokens", "300", "--simulated.mean-output-tokens", "40"),
            *("--transfer-group", "itself"),
        ],
    ),
    "tensorrt_llm": (
        "tensorrt_llm",
        [
            *("--context-tokens", "1024", "--tensorrt-llm.max-num-tokens", "256"),
            *("--tensorrt-llm.kv-cache-config.event-buffer-max-size", "0"),
            *("--transfer-group", "itself"),
        ],
    ),
    "vllm": ("vllm", ["--context-tokens", "1024", "--no-vllm.kv-events"]),
}
"""Package that an engine needs, and the settings that it is tested with."""

SHARED_GPU = (
    *("--vllm.gpu-memory-utilization", "0.02"),
    *("--vllm.arg", "kv_cache_memory_bytes=1000000000"),
)
"""A cache in bytes: a share of the memory would be counted while other engines take theirs."""

EVERY = {
    "simulated": ["--no-simulated.prefix-caching"],  # and so without its events
    "vllm": [
        *("--vllm.dtype", "float32", "--vllm.enforce-eager"),
        # Small steps, so that a prompt takes several.
        *("--vllm.max-num-batched-tokens", "256", "--vllm.max-num-seqs", "128"),
        *(
            "--vllm.gpu-memory-utilization",
            "0.02",
            "--vllm.arg",
            "kv_cache_memory_bytes=1000000000",
        ),
    ],
}
"""Settings that every engine of a kind is built with in tests."""

ENVIRONMENT = {"vllm": {"VLLM_BATCH_INVARIANT": "1"}}
"""Without it ids depend on the batch, which the suite compares across."""

MODELS = {"vllm": ROOT / "models/demo/hf"}
"""The demo model's folder for engines that do not load OpenVINO's form."""

STAND_INS = {"tensorrt_llm": Path(__file__).parent / "tensorrt_llm" / "stand_in"}
"""Folders of packages that stand in for those of engines that run nowhere near tests."""


@contextmanager
def stand_in(engine: str) -> Iterator[Path]:
    """Has an engine's stand-in found where its package would be, and nothing of it left behind."""
    folder = STAND_INS[engine]
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        ours = {each.stem for each in folder.iterdir()}
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ours or name.startswith("tokenwire_worker.engines."):
                del sys.modules[name]
                package, _, module = name.rpartition(".")
                if package in sys.modules:
                    vars(sys.modules[package]).pop(module, None)


def build(*arguments: str, engine: str = "openvino", model: str = "") -> Engine:
    """Loads the demo model, or another, on an engine."""
    os.environ.update(ENVIRONMENT.get(engine, {}))  # before the engine is imported
    chosen = ["--model", model or str(MODELS.get(engine, MODEL)), "--engine", engine]
    settings = parse(WorkerSettings, "test", [*chosen, *EVERY.get(engine, ()), *arguments])
    module = engines.module_of(settings)
    module.check_model(settings)
    return module.build(with_text_files(settings))


@pytest.fixture(scope="session", params=sorted(CONTRACT))
def _running(request) -> Iterator[Recorder]:
    package, arguments = CONTRACT[request.param]
    with stand_in(request.param) if request.param in STAND_INS else nullcontext():
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
