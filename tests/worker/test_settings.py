"""Wrong settings end the process with 64 and a line that says which and what to do."""

from __future__ import annotations

import socket
from functools import partial

import pytest
from tokenwire.worker.v1 import worker_pb2
from tokenwire_service.settings import parse
from tokenwire_worker.settings import WorkerSettings

from tests.services.processes import MODEL, check_refused
from tests.worker.calls import LENGTH, execute, request


@pytest.fixture
def run(main_here):
    """Starts a worker in this process, which is to refuse its settings; returns how it ended."""
    return partial(main_here, "tokenwire_worker")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--model: is required"),
        (["--listen", "nonsense"], "--listen: "),
        (["--listen", "127.0.0.1:70000"], "--listen"),
        (["--max-waiting-requests", "-1"], "--max-waiting-requests: "),
        (["--engine", "abacus"], "--engine: "),
        (["--openvino.kv-blocks", "none"], "--openvino.kv-blocks: "),
        (["--openvino.draft-tokens", "0"], "--openvino.draft-tokens: "),
        (["--drain-grace-s", "-2"], "--drain-grace-s: "),
        (["--no-such-thing", "1"], "--no-such-thing"),
        (["--worker-name", "w" * 257], "--worker-name: String should have at most 256"),
        (["--model-name", "m" * 257], "--model-name: String should have at most 256"),
        (["--openvino.lora", "a" * 257 + "=x"], "--openvino.lora: aaa"),
        (["--vllm.lora", "a" * 257 + "=x"], "--vllm.lora: aaa"),
        (["--tls.certificate", "nowhere.pem"], "--tls.certificate and --tls.key"),
        (["--openvino.property", "NO_SUCH=1"], "NO_SUCH"),
        (["--openvino.device", "TPU"], "--openvino.device TPU: OpenVINO finds no such device"),
        (["--context-tokens", "4097"], "--context-tokens 4097 is more than the model's own"),
        (["--openvino.lora", "french=nowhere.safetensors"], "--openvino.lora french=nowhere"),
        (["--openvino.draft-model", "nowhere"], "--openvino.draft-model nowhere"),
        (
            ["--openvino.cache-eviction.max-tokens", "256"],
            "goes only with --no-openvino.prefix-caching",
        ),
        (
            ["--openvino.cache-eviction.max-tokens", "160", "--no-openvino.prefix-caching"],
            "160 is not more than start-tokens and recent-tokens together, 160",
        ),
        (
            ["--engine", "simulated", "--listen", "127.0.0.1:65535", "--simulated.workers", "2"],
            "worker: --simulated.workers: the last port would be 65536; ports end at 65535",
        ),
        (["--tokenizer-folder", "nowhere"], "worker: --tokenizer-folder nowhere: no such folder"),
    ],
)
def test_a_wrong_setting_is_named(run, arguments, says):
    model = [] if says.startswith("--model") else ["--model", str(MODEL)]
    run(*model, *arguments).check_refused(says)


@pytest.mark.parametrize(
    ("missing", "says"),
    [("tokenizer.json", "has no tokenizer.json"), ("config.json", "has no config.json")],
)
def test_a_model_folder_that_lacks_a_file(run, tmp_path, missing, says):
    for file in MODEL.iterdir():
        if file.name != missing:
            (tmp_path / file.name).symlink_to(file.resolve())
    run("--model", str(tmp_path)).check_refused(says)


def test_a_config_that_is_no_json(run, tmp_path):
    for file in MODEL.iterdir():
        if file.name != "config.json":
            (tmp_path / file.name).symlink_to(file.resolve())
    (tmp_path / "config.json").write_text("{")
    run("--model", str(tmp_path)).check_refused("config.json can't be read as JSON")


def test_an_address_in_use(processes):
    """A process of its own, as of somebody who starts it so: the last thing that can be refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        started = processes.run("tokenwire_worker", ["--model", str(MODEL), "--listen", address])
        check_refused(started, f"--listen {address} can't be listened on: Address already in use")


def test_a_package_that_is_not_installed(processes, tmp_path):
    # Python's own way to say that there is no such module, although it is installed.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['openvino_genai'] = None")
    started = processes.run(
        "tokenwire_worker",
        ["--model", str(MODEL), "--listen", "127.0.0.1:0"],
        {"PYTHONPATH": str(tmp_path)},
    )
    check_refused(started, "pip install -c constraints/cpu.txt './inference_worker[openvino]'")
    assert len(started.lines) == 1


def test_help_says_everything_and_ends_with_0(run):
    ended = run("--help")
    assert ended.code == 0
    for flag in ("--model", "--listen", "--openvino.kv-blocks", "--openvino.lora", "--tls.ca"):
        assert flag in ended.printed


def test_repeated_and_nested_settings():
    settings = parse(
        WorkerSettings,
        "test",
        [
            *("--model", "folder", "--openvino.exact", "--no-openvino.prefix-caching"),
            *("--openvino.lora", "a=x.safetensors", "--openvino.lora", "b=y.safetensors"),
            *("--openvino.property", "A=1", "--openvino.cache-eviction.max-tokens", "512"),
            *("--openvino.property", 'B={"a": 1, "b": [2, 3]}', "--openvino.property=C=[1, 2]"),
        ],
    )
    own = settings.openvino
    assert own.exact
    assert not own.prefix_caching
    assert {name: str(path) for name, path in own.lora.items()} == {
        "a": "x.safetensors",
        "b": "y.safetensors",
    }
    assert own.property == {"A": "1", "B": '{"a": 1, "b": [2, 3]}', "C": "[1, 2]"}
    assert own.cache_eviction.max_tokens == 512


def test_the_environment_is_read_and_the_command_line_goes_first(monkeypatch):
    monkeypatch.setenv("TOKENWIRE_WORKER_MODEL", "from-environment")
    monkeypatch.setenv("TOKENWIRE_WORKER_OPENVINO__KV_BLOCKS", "77")
    monkeypatch.setenv("TOKENWIRE_WORKER_MAX_WAITING_REQUESTS", "5")
    settings = parse(WorkerSettings, "test", ["--max-waiting-requests", "6"])
    assert settings.model == "from-environment"
    assert settings.openvino.kv_blocks == 77
    assert settings.max_waiting_requests == 6


def test_names_are_the_folders_and_the_hosts(tmp_path):
    settings = parse(WorkerSettings, "test", ["--model", str(tmp_path / "llama")])
    assert settings.shown_model_name == "llama"
    assert settings.shown_worker_name.endswith(":50061")
    named = parse(
        WorkerSettings, "test", ["--model", "x", "--model-name", "m", "--worker-name", "w"]
    )
    assert (named.shown_model_name, named.shown_worker_name) == ("m", "w")


def test_a_smaller_context_and_kv_cache_bound_the_prompt(own_worker):
    _, worker = own_worker("--openvino.kv-blocks", "16", "--context-tokens", "2000")
    limits = worker.service.GetWorkerInfo(worker_pb2.GetWorkerInfoRequest()).limits
    assert (limits.context_tokens, limits.prompt_tokens) == (512, 511)
    # Where max_tokens is not given, or is more, the rest of the context is generated.
    for max_tokens in (0, 10_000):
        generated = execute(worker, request(tokens=480, max_tokens=max_tokens))
        assert len(generated.ids[0]) == 32
        assert generated.reasons == [LENGTH]
    assert len(execute(worker, request(tokens=511)).ids[0]) == 1
