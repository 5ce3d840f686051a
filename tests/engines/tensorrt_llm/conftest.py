"""The adapter on its stand-in, in this process."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tokenwire_service.settings import parse
from tokenwire_worker.engines.port import Generation
from tokenwire_worker.settings import WorkerSettings

from tests.engines import conftest
from tests.engines.recorder import GREEDY, Recorder

EOS = (6, 7)
"""End-of-sequence ids of the tests' model; the first is the stand-in's own."""

VOCABULARY = 4096


@pytest.fixture(scope="module")
def installed():
    """Has the stand-in found as tensorrt_llm; its folder."""
    with conftest.stand_in("tensorrt_llm") as folder:
        yield folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A folder with what the worker reads of a checkpoint."""
    folder = tmp_path_factory.mktemp("model")
    config = {"vocab_size": VOCABULARY, "max_position_embeddings": 2048, "eos_token_id": list(EOS)}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(EOS)}))
    tokenizer = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def settings_of(model: Path, *arguments: str) -> WorkerSettings:
    """The worker's settings as a command line makes them."""
    given = ["--engine", "tensorrt_llm", "--model", str(model), *arguments]
    return parse(WorkerSettings, "test", given)


LONG = 1500
"""Tokens that take the stand-in long enough to be met in the middle."""


def generation(first: int = 100, tokens: int = 40, **fields) -> Generation:
    """A greedy generation; `first` makes its prompt another."""
    prompt = [first + at for at in range(tokens)]
    return Generation(**{"prompt": prompt, "max_tokens": 8, "sampling": GREEDY, **fields})


def chat(first: int = 100, **fields) -> Generation:
    """A prompt that the stand-in answers with four tokens and its end-of-sequence id."""
    return Generation(prompt=[first, EOS[0], 4], sampling=GREEDY, **{"max_tokens": 50, **fields})


class Engine(Recorder):
    """A started engine, with the stand-in behind it."""

    def __init__(self, engine) -> None:
        super().__init__(engine)
        self.kv_events = []
        self.batches = []
        self.outputs = []
        self.times = []
        """When each step began, and when it was told."""

    def on_step(self, step):
        self.times.append((step.began_s, time.monotonic()))
        self.batches.append(len(step.outputs))
        self.outputs += step.outputs
        super().on_step(step)

    def on_kv_events(self, events):
        with self._news:
            self.kv_events += events
            self._news.notify_all()

    @property
    def stand_in(self):
        """The stand-in's executor."""
        return self.engine._llm._executor

    @property
    def last_request(self):
        """What the stand-in was given last."""
        return self.stand_in.requests[-1]

    def wait_for_death(self) -> str:
        with self._news:
            assert self._news.wait_for(lambda: self.death is not None, 60)
        return self.death


@pytest.fixture
def started(installed, model):
    """Builds and starts engines, and closes them after the test."""
    engines: list[Engine] = []

    def start(*arguments: str, folder: Path = model) -> Engine:
        from tokenwire_worker.engines.tensorrt_llm import adapter

        settings = settings_of(folder, *arguments)
        adapter.check_model(settings)
        engine = Engine(adapter.build(settings))
        engine.engine.start(engine)
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.engine.close()
