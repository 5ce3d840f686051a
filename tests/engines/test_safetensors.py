"""A Hugging Face folder of safetensors on the OpenVINO engine: converted once, or refused."""

from __future__ import annotations

import json
import random
import shutil
import threading
from functools import partial

import pytest
from tokenwire_service.settings import parse
from tokenwire_worker import safetensors
from tokenwire_worker.engines.openvino import conversion, made
from tokenwire_worker.engines.port import Finish
from tokenwire_worker.gguf import header
from tokenwire_worker.model_files import ModelError
from tokenwire_worker.settings import WorkerSettings

from tests.engines.test_contract import generation
from tests.engines.test_gguf import CHAT
from tests.engines.test_openvino import EXACT, HF, held

pytestmark = pytest.mark.skipif(
    not (HF / "model.safetensors").is_file(), reason=f"{HF} has no weights"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Settings of a cache of the tests' own."""
    return "--cache-folder", str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def folder(tmp_path):
    """A folder of a model, to change."""
    return shutil.copytree(HF, tmp_path / "hf")


@pytest.fixture
def run(main_here):
    return partial(main_here, "tokenwire_worker")


def test_a_folder_of_safetensors_gives_what_its_ir_gives(started, tokenizer, cache):
    recorder = started(*EXACT, *cache, model=str(HF))
    info = recorder.engine.info
    assert (info.context_tokens, info.vocabulary_size, info.eos_token_ids) == (4096, 4096, (6,))
    greeting = tokenizer.encode(CHAT, add_special_tokens=False).ids
    (ran,) = recorder.run(
        generation(prompt=greeting, max_tokens=60, stop_token_ids=info.eos_token_ids)
    )
    assert ran.finish is Finish.STOP
    assert "Hello" in tokenizer.decode(ran.ids)
    recorder.check(held("[0-9]{3}"))
    (digits,) = recorder.run(held("[0-9]{3}"))
    assert tokenizer.decode(digits.ids[:-1]).isdigit()


def test_workers_that_start_at_once_convert_once(cache, folder, monkeypatch):
    settings = parse(WorkerSettings, "test", ["--model", str(folder), *cache])
    calls, go = [], threading.Event()

    def convert(source, target):
        calls.append(source)
        go.wait()
        (target / made.FILE_NAME).write_bytes(b"made")

    monkeypatch.setattr(conversion, "convert", convert)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(made.converted(settings))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(found)) == 1
    assert found[0].read_bytes() == b"made"


def test_a_conversion_that_fails_leaves_nothing(folder, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    settings = parse(WorkerSettings, "test", ["--model", str(folder), "--cache-folder", str(kept)])

    def full(source, target):
        (target / "part").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "convert", full)
    with pytest.raises(ModelError, match=r"can't be written: No space left on device; --cache"):
        made.converted(settings)
    assert not [each for each in kept.rglob("*") if each.is_dir() and each.name != "openvino"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "architecture is ['GemmaForCausalLM']"),
        ({"architectures": None}, "architecture is [None]"),
        ({"architectures": "Llama"}, "architecture is 'Llama'"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
            "rope_scaling of the type 'llama3'",
        ),
        ({"sliding_window": 64}, "sliding_window"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_size": "320"}, "hidden_size is '320', no number above 0"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"hidden_size": 64}, "and config.json says"),
        ({"num_hidden_layers": 7}, "lacks tensor model.layers.6.input_layernorm.weight"),
        ({"tie_word_embeddings": False}, "lacks tensor lm_head.weight"),
    ],
    ids=str,
)
def test_what_can_not_be_converted_is_refused_by_name(run, folder, changed, says):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    ended = run("--model", str(folder))
    ended.check_refused(says)
    assert len(ended.said.splitlines()) == 1


def test_a_folder_of_neither_form(run, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    run("--model", str(tmp_path)).check_refused(
        "has no openvino_model.xml and no safetensors; the openvino engine loads OpenVINO IR, GGUF"
    )
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    run("--model", str(tmp_path)).check_refused("architecture is [None]")
    (tmp_path / "config.json").unlink()
    run("--model", str(tmp_path)).check_refused("config.json can't be read: No such file")


def test_wherever_the_file_ends_it_is_no_whole_one(tmp_path):
    data = (HF / "model.safetensors").read_bytes()
    short = tmp_path / "model.safetensors"
    anywhere = random.Random(9)
    for size in [0, 1, 7, 8, 9, *(anywhere.randrange(len(data)) for _ in range(50))]:
        short.write_bytes(data[:size])
        with pytest.raises(ModelError, match=r"cut short|header"):
            safetensors.read([short])


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"[]", "not a JSON object"),
        (b"{", "header that can't be read"),
        (b"[" * 9999, "header that can't be read"),
        (b'{"a": 3}', "tensor a is not described"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}', "not described"),
        (b'{"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}', "of type I64"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "other than its shape"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}', "other than its shape"),
        (
            b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
            "tensor a ends at byte",
        ),
    ],
    ids=str,
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, head, says):
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(head).to_bytes(8, "little") + head + bytes(8))
    with pytest.raises(ModelError, match=says):
        safetensors.read([file])


def test_weights_in_several_files(folder):
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / safetensors.INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks one\.safetensors of its weights"):
        safetensors.files_of(folder)
    for name in ("one.safetensors", "two.safetensors"):
        shutil.copy(folder / "model.safetensors", folder / name)
    assert [each.name for each in safetensors.files_of(folder)] == list(
        index["weight_map"].values()
    )
    (folder / safetensors.INDEX).write_text("[]")
    with pytest.raises(ModelError, match="can't be read"):
        safetensors.files_of(folder)


def test_another_architecture_has_its_own_tensors(folder, tmp_path):
    """Qwen2's biases and Qwen3's norms of heads go along, and their rows keep their places."""
    parts = {"Qwen2ForCausalLM": "attn_q.bias", "Qwen3ForCausalLM": "attn_q_norm"}
    for architecture, extra in parts.items():
        config = json.loads((HF / "config.json").read_text())
        config |= {"architectures": [architecture]}
        (folder / "config.json").write_text(json.dumps(config))
        _add_tensors(folder, config)
        conversion.check(folder)
        target = tmp_path / architecture
        target.mkdir()
        conversion.convert(folder, target)
        read = header.read(target / made.FILE_NAME)
        assert read.architecture in architecture.lower()
        assert any(extra in each.name for each in read.tensors)


def _add_tensors(folder, config):
    data = (HF / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    head, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    sizes = {"q_proj.bias": 320, "k_proj.bias": 320, "v_proj.bias": 320, "q_norm.weight": 64}
    for layer in range(config["num_hidden_layers"]):
        for name, size in {**sizes, "k_norm.weight": 64}.items():
            head[f"model.layers.{layer}.self_attn.{name}"] = {
                "dtype": "F32",
                "shape": [size],
                "data_offsets": [len(body), len(body) + 4 * size],
            }
            body += bytes(4 * size)
    text = json.dumps(head).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
