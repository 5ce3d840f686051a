"""A model by its name on the Hugging Face Hub, which here is a server on the loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from tokenwire_service.settings import parse
from tokenwire_worker import hub as worker_hub
from tokenwire_worker.model_source import located
from tokenwire_worker.settings import WorkerSettings

from tests.worker.hub_server import Hub, serving

FILES = {
    "config.json": b'{"vocab_size": 9}',
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "README.md": b"for people",
    "pytorch_model.bin": b"the weights again",
    "model-Q8_0.gguf": b"the weights once more",
}

FIND = """
import sys
from tokenwire_worker import hub
from tokenwire_worker.model_files import ModelError
try:
    print(hub.find(sys.argv[1]))
except ModelError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.fixture
def hub():
    models = {"org/model": dict(FILES), "org/gated": dict(FILES)}
    with serving(Hub(models, gated=frozenset({"org/gated"}))) as served:
        yield served


@pytest.fixture
def find(hub, tmp_path):
    """Finds a model in a process of its own: the hub's client reads its variables once."""

    def run(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        own = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.address, **variables}
        environment = {**kept, "HF_HUB_DISABLE_TELEMETRY": "1", **own}
        return subprocess.run(
            [sys.executable, "-c", FIND, name],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_model_is_downloaded_once_without_what_no_engine_loads(hub, find):
    first = find("org/model")
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert {each.name for each in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    fetched = [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]
    again = find("org/model")
    assert again.stdout == first.stdout
    later = [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]
    assert later == fetched


def test_one_gguf_file_of_a_model(find):
    found = find("org/model/model-Q8_0.gguf")
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()).read_bytes() == b"the weights once more"
    lacking = find("org/model/other.gguf")
    assert "refused: the Hugging Face Hub has no such file in this model" in lacking.stderr


def test_offline_it_is_the_cache_that_counts(hub, find):
    asked = partial(find, "org/model", HF_HUB_OFFLINE="1")
    lacking = asked()
    assert "it is not in the cache" in lacking.stderr
    assert lacking.stderr.startswith("refused: ")
    assert not hub.asked
    online = find("org/model")
    count = len(hub.asked)
    assert asked().stdout == online.stdout
    assert len(hub.asked) == count


def test_the_token_goes_along_and_a_gated_model_says_what_it_needs(hub, find):
    refused = find("org/gated")
    assert refused.stderr.startswith("refused: access to it")
    assert len(refused.stderr.splitlines()) == 1
    assert find("org/gated", HF_TOKEN="hf_secret").returncode == 0
    assert hub.asked[-1][2] == "Bearer hf_secret"


@pytest.mark.parametrize("away", ["nobody/nothing", "org/model"])
def test_a_model_that_can_not_be_had_is_one_line(find, away):
    # The second is there, and its server is not.
    variables = {} if away.startswith("nobody") else {"HF_ENDPOINT": "http://127.0.0.1:9"}
    refused = find(away, **variables)
    assert refused.returncode == 1
    assert refused.stderr.startswith("refused: no such folder, ")
    assert len(refused.stderr.splitlines()) == 1


def test_a_folder_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_hub, "find", lambda _: Path("/hub"))
    monkeypatch.chdir(tmp_path)
    Path("org/model.v1.5").mkdir(parents=True)

    def find(model: str) -> tuple[str, str]:
        settings = located(parse(WorkerSettings, "test", ["--model", model]))
        return settings.model, settings.shown_model_name

    assert find("org/model.v1.5") == ("org/model.v1.5", "model.v1.5")
    assert find("org/Other-0.5B") == ("/hub", "Other-0.5B")
    assert find("org/other/file.Q8_0.gguf") == ("/hub", "file.Q8_0")
    for path in ("/no/such", "./org/other", "nothing", "no.gguf", "a/b/c/d"):
        assert find(path)[0] == path


def test_without_the_hubs_client_the_extra_is_named(main_here, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    ended = main_here("tokenwire_worker", "--model", "org/model")
    ended.check_refused("--model org/model: no such folder; to take it for a name")
    assert "extra [hub]" in ended.said
