"""GGUF on the OpenVINO engine: what it gives, what is made of it, and files that are not whole."""

from __future__ import annotations

import json
import os
import random
import struct
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer
from tokenwire_service.settings import parse
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.openvino import gguf as openvino_gguf
from tokenwire_worker.engines.openvino.made import reencoded
from tokenwire_worker.engines.port import Finish
from tokenwire_worker.gguf import header as reader
from tokenwire_worker.gguf.text_files import text_files
from tokenwire_worker.model_files import ModelError
from tokenwire_worker.settings import WorkerSettings

from tests.engines.gguf_file import write_gguf
from tests.engines.test_contract import generation
from tests.engines.test_openvino import EXACT, HF, held
from tests.services.processes import MODEL

CHAT = "<|begin|><|user|>Hello!<|end|><|assistant|>"


@pytest.mark.parametrize("folder", ["", MODEL], ids=["of the file", "of the model in IR"])
def test_gguf_gives_what_ir_gives(started, tokenizer, gguf, cache, folder):
    named = ("--tokenizer-folder", str(folder)) if folder else ()
    recorder = started(*EXACT, *cache, *named, model=str(gguf))
    info = recorder.engine.info
    assert (info.context_tokens, info.vocabulary_size, info.eos_token_ids) == (4096, 4096, (6,))
    greeting = tokenizer.encode(CHAT, add_special_tokens=False).ids
    (ran,) = recorder.run(
        generation(prompt=greeting, max_tokens=60, stop_token_ids=info.eos_token_ids)
    )
    assert ran.finish is Finish.STOP
    assert "Hello" in tokenizer.decode(ran.ids), "float16 here and int8 there: alike, not equal"
    recorder.check(held("[0-9]{3}"))
    (digits,) = recorder.run(held("[0-9]{3}"))
    assert tokenizer.decode(digits.ids[:-1]).isdigit()


def test_the_tokenizer_of_the_file_is_that_of_the_model(tokenizer, gguf):
    files = text_files(reader.read(gguf))
    made = Tokenizer.from_str(files["tokenizer.json"].decode())
    for text in [CHAT, "The fox's 3 cubs ran.\n\n  They DIDN'T see me, 1234!", "caf\u00e9 \u6f22"]:
        assert made.encode(text).ids == tokenizer.encode(text, add_special_tokens=False).ids
        ids = made.encode(text).ids
        assert made.decode(ids) == tokenizer.decode(ids)
    assert files["chat_template.jinja"] == (HF / "chat_template.jinja").read_bytes()
    assert json.loads(files["config.json"])["eos_token_id"] == [6]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    if not (HF / "model.safetensors").is_file():
        pytest.skip(f"{HF} has no weights")
    return write_gguf(HF, tmp_path_factory.mktemp("gguf") / "demo.gguf")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Settings of a cache of the tests' own."""
    return "--cache-folder", str(tmp_path_factory.mktemp("cache"))


# --- weights that OpenVINO gets wrong -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q4_1"])
def test_weights_that_openvino_gets_wrong_are_encoded_anew(tmp_path, cache, kind):
    path = write_gguf(HF, tmp_path / "demo.gguf", kind)
    settings = parse(WorkerSettings, "test", ["--model", str(path), *cache])
    made = reencoded(settings)
    assert made != path
    assert not openvino_gguf.wrong_types(reader.read(made))
    assert reencoded(settings) == made, "once"
    before, after = GGUFReader(path), GGUFReader(made)
    assert [each.name for each in before.tensors] == [each.name for each in after.tensors]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        meant = dequantize(old.data, old.tensor_type)
        bound = np.abs(meant).max() / 127 * 0.55 if len(old.shape) > 1 else 0
        assert np.abs(dequantize(new.data, new.tensor_type) - meant).max() <= bound
    kept = {key for key in before.fields if key.startswith(("llama.", "tokenizer."))}
    assert all(before.fields[key].contents() == after.fields[key].contents() for key in kept)


def test_another_file_in_the_same_place_is_encoded_again(tmp_path, cache):
    path = write_gguf(HF, tmp_path / "demo.gguf", "Q4_1")
    settings = parse(WorkerSettings, "test", ["--model", str(path), *cache])
    made = reencoded(settings)
    os.utime(path, ns=(1, 1))
    assert reencoded(settings) != made


def test_what_openvino_computes_right_is_loaded_as_it_is(tmp_path, cache, gguf):
    settings = parse(WorkerSettings, "test", ["--model", str(gguf), *cache])
    assert reencoded(settings) == gguf


def test_a_cache_that_can_not_be_written_is_named(run, gguf, tmp_path):
    (tmp_path / "file").touch()
    ended = run("--model", str(gguf), "--cache-folder", str(tmp_path / "file"))
    ended.check_refused("file can't be written: Not a directory; --cache-folder names another")


@pytest.mark.parametrize(
    ("pairs", "names", "says"),
    [
        ({"general.architecture": "gemma"}, [], "architecture is 'gemma'; of GGUF, OpenVINO"),
        ({"general.architecture": 3}, [], "general.architecture is 3"),
        ({"llama.expert_count": 8}, [], "it has a mixture of experts"),
        ({"llama.rope.scaling.type": "yarn"}, [], "positions scaled by yarn"),
        ({}, ["rope_freqs.weight"], "factors for positions"),
        ({}, ["blk.0.attn_q.bias"], "biases of attention"),
    ],
    ids=str,
)
def test_what_openvino_ignores_of_a_model_is_refused_by_name(pairs, names, says):
    known = reader.TENSOR_TYPES[0]
    tensors = tuple(reader.Tensor(name, (4,), known) for name in names)
    header = reader.Header({"general.architecture": "llama", **pairs}, tensors, "")
    with pytest.raises((EngineError, ModelError), match=says):
        openvino_gguf.check(header)


# --- files that are not whole ---------------------------------------------------------------------


@pytest.fixture
def run(main_here):
    """Starts a worker in this process, which is to refuse its settings; returns how it ended."""
    return partial(main_here, "tokenwire_worker")


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.999])
def test_a_file_that_ends_early_is_refused(run, gguf, tmp_path, share):
    data = gguf.read_bytes()
    short = tmp_path / "short.gguf"
    short.write_bytes(data[: int(len(data) * share)])
    ended = run("--model", str(short))
    ended.check_refused(f"--model {short}: it is {'cut short' if share else 'empty'}")
    assert len(ended.said.splitlines()) == 1


def test_wherever_the_file_ends_it_is_no_whole_one(gguf, tmp_path):
    data = gguf.read_bytes()
    reader.read(gguf)
    short = tmp_path / "short.gguf"
    anywhere = random.Random(7)
    sizes = [anywhere.randrange(len(data) - 32) for _ in range(25)]
    sizes += [anywhere.randrange(200_000) for _ in range(50)]  # within the header
    for size in sizes:
        short.write_bytes(data[:size])
        with pytest.raises(reader.GgufError):
            reader.read(short)


def test_a_header_of_which_bytes_are_wrong_is_read_or_refused(gguf, tmp_path):
    anywhere = random.Random(8)
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(gguf.read_bytes())
    begin = gguf.read_bytes()[:2000]
    refusals = []
    for _ in range(60):
        changed = bytearray(begin)
        for _ in range(3):
            changed[anywhere.randrange(4, len(begin))] = anywhere.randrange(256)
        with wrong.open("r+b") as file:
            file.write(changed)
        with suppress(EngineError, ModelError):
            header = reader.read(wrong)
            openvino_gguf.check(header)
            text_files(header)
            continue
        refusals.append(bytes(changed))
    assert len(refusals) > 20


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: b"GGML" + data[4:], "does not begin as"),
        (lambda data: data[:4] + struct.pack("<I", 9) + data[8:], "GGUF version 9"),
        (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "big-endian"),
        (lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:], "cut short"),
        (lambda data: data[:16] + struct.pack("<Q", 2**60) + data[24:], "cut short"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(gguf, tmp_path, change, says):
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(change(gguf.read_bytes()))
    with pytest.raises(reader.GgufError, match=says):
        reader.read(changed)


def test_a_quantised_tensor_is_measured_in_blocks(tmp_path):
    def one_tensor(data_bytes: int) -> bytes:
        name = struct.pack("<Q", 1) + b"a"
        tensor = name + struct.pack("<IQQIQ", 2, 256, 3, 12, 0)  # Q4_K: 144 bytes for 256
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor
        return head + bytes(-len(head) % 32) + bytes(data_bytes)

    file = tmp_path / "one.gguf"
    file.write_bytes(one_tensor(3 * 144))
    reader.read(file)
    file.write_bytes(one_tensor(3 * 144 - 1))
    with pytest.raises(reader.GgufError, match="tensor a ends at byte"):
        reader.read(file)


def test_a_file_that_is_not_there(run, tmp_path):
    ended = run("--model", str(tmp_path / "nope.gguf"))
    ended.check_refused()
    assert ended.said.endswith("nope.gguf: No such file or directory\n")
