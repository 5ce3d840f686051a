"""GGUF on the OpenVINO engine: what it gives, and files that are not whole."""

from __future__ import annotations

import struct
from functools import partial

import pytest
from tokenwire_worker.engines.openvino import gguf as reader
from tokenwire_worker.engines.port import Finish

from tests.engines.gguf_file import write_gguf
from tests.engines.test_contract import generation
from tests.engines.test_openvino import EXACT, HF, held
from tests.services.processes import MODEL


@pytest.mark.parametrize("tokenizer_folder", [MODEL, HF], ids=["IR", "Hugging Face"])
def test_gguf_gives_what_ir_gives(started, tokenizer, gguf, tokenizer_folder):
    recorder = started(*EXACT, "--tokenizer-folder", str(tokenizer_folder), model=str(gguf))
    info = recorder.engine.info
    assert (info.context_tokens, info.vocabulary_size) == (4096, 4096)
    chat = "<|begin|><|user|>Hello!<|end|><|assistant|>"
    greeting = tokenizer.encode(chat, add_special_tokens=False).ids
    (ran,) = recorder.run(
        generation(prompt=greeting, max_tokens=60, stop_token_ids=info.eos_token_ids)
    )
    assert ran.finish is Finish.STOP
    assert "Hello" in tokenizer.decode(ran.ids), "float16 here and int8 there: alike, not equal"
    recorder.check(held("[0-9]{3}"))
    (digits,) = recorder.run(held("[0-9]{3}"))
    assert tokenizer.decode(digits.ids[:-1]).isdigit()


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    if not (HF / "model.safetensors").is_file():
        pytest.skip(f"{HF} has no weights")
    return write_gguf(HF, tmp_path_factory.mktemp("gguf") / "demo.gguf")


@pytest.fixture
def run(main_here):
    """Starts a worker in this process, which is to refuse its settings; returns how it ended."""
    return partial(main_here, "tokenwire_worker")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_file_that_ends_early_is_refused(run, gguf, tmp_path, share):
    data = gguf.read_bytes()
    short = tmp_path / "short.gguf"
    short.write_bytes(data[: int(len(data) * share)])
    ended = run("--model", str(short), "--tokenizer-folder", str(HF))
    ended.check_refused(f"--model {short}: it is cut short")
    assert len(ended.said.splitlines()) == 1


def test_wherever_the_file_ends_it_is_no_whole_one(gguf, tmp_path):
    data = gguf.read_bytes()
    reader.check(gguf)
    short = tmp_path / "short.gguf"
    for size in [*range(0, 600, 7), len(data) // 3, len(data) - 40]:
        short.write_bytes(data[:size])
        with pytest.raises(reader.GgufError):
            reader.check(short)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: b"GGML" + data[4:], "does not begin as"),
        (lambda data: data[:4] + struct.pack("<I", 9) + data[8:], "GGUF version 9"),
        (lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:], "cut short"),
        (lambda data: data[:16] + struct.pack("<Q", 2**60) + data[24:], "cut short"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(gguf, tmp_path, change, says):
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(change(gguf.read_bytes()))
    with pytest.raises(reader.GgufError, match=says):
        reader.check(changed)


def test_a_quantised_tensor_is_measured_in_blocks(tmp_path):
    def one_tensor(data_bytes: int) -> bytes:
        name = struct.pack("<Q", 1) + b"a"
        tensor = name + struct.pack("<IQQIQ", 2, 256, 3, 12, 0)  # Q4_K: 144 bytes for 256
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor
        return head + bytes(-len(head) % 32) + bytes(data_bytes)

    file = tmp_path / "one.gguf"
    file.write_bytes(one_tensor(3 * 144))
    reader.check(file)
    file.write_bytes(one_tensor(3 * 144 - 1))
    with pytest.raises(reader.GgufError, match="tensor a ends at byte"):
        reader.check(file)


def test_a_file_without_a_tokenizer_is_told_of_the_setting(run, gguf):
    run("--model", str(gguf)).check_refused("give --tokenizer-folder")


def test_a_file_that_is_not_there(run, tmp_path):
    ended = run("--model", str(tmp_path / "nope.gguf"), "--tokenizer-folder", str(HF))
    ended.check_refused()
    assert ended.said.endswith("nope.gguf: No such file or directory\n")
