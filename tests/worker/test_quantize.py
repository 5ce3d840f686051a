"""`tokenwire-worker quantize`: what it reads and refuses, and what it leaves behind.

Model Optimizer itself needs PyTorch and takes minutes: benchmarks/gpu runs it, on a real model.
"""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from tokenwire_worker.main import main
from tokenwire_worker.quantize.formats import Recipe
from tokenwire_worker.quantize.prompts import BATCH_TOKENS, PromptsError, batches, chosen, read


@pytest.fixture
def optimizer(monkeypatch):
    """Stands for the module that imports Model Optimizer; has what it was called with."""
    made = ModuleType("tokenwire_worker.quantize.optimizer")
    made.OptimizerError = type("OptimizerError", (Exception,), {})
    made.calls = []
    made.fails = None
    made.capability = (9, 0)

    def quantize(model, out, recipe, prompts, held_out, sample_tokens, device):
        made.calls.append(
            SimpleNamespace(
                model=model, recipe=recipe, prompts=prompts, held_out=held_out,
                sample_tokens=sample_tokens, device=device,
            )
        )  # fmt: skip
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"12345678")
        if made.fails:
            raise made.OptimizerError(made.fails)
        return SimpleNamespace(
            bytes=8, samples=len(prompts), sample_tokens=1000, took_s=3.0,
            held_out_tokens=100 * len(held_out), perplexity_before=20.0, perplexity_after=20.5,
            capability=made.capability,
        )  # fmt: skip

    made.quantize = quantize
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"Prompt number {each}.\n" for each in range(1000)))
    return path


@pytest.fixture
def quantize(model, prompts, tmp_path, capsys):
    """Runs the command with what is required, and options after it that may replace that."""

    def quantize(*options):
        words = ["--model", model, "--out", tmp_path / "out", "--prompts", prompts]
        with pytest.raises(SystemExit) as exit_:
            main(["quantize", *map(str, words), "--format", "fp8", *map(str, options)])
        return exit_.value.code, *capsys.readouterr()

    return quantize


def test_the_folder_is_written_and_what_it_costs_is_told(quantize, optimizer, tmp_path, model):
    code, out, err = quantize("--kv-cache", "fp8", "--exclude", "*.down_proj")
    assert (code, err) == (0, "")
    assert (tmp_path / "out/model.safetensors").read_bytes() == b"12345678"
    unseen = "perplexity of 6,400 tokens that calibration did not see"
    assert out.splitlines() == [
        f"{unseen}: 20.0000, quantised 20.5000 (+2.50%)",
        f"{tmp_path}/out: fp8, KV cache fp8, 0.00 GB, 512 prompts of 1,000 tokens, 3 s",
        "loaded by: vllm, tensorrt_llm",
    ]
    (call,) = optimizer.calls
    assert (call.model, call.sample_tokens, call.device) == (model, 512, "cuda")
    assert call.recipe == Recipe("fp8", "fp8", None, ("*.down_proj",))
    assert not set(call.prompts) & set(call.held_out)


def test_a_run_that_fails_leaves_nothing_under_the_name(quantize, optimizer, tmp_path):
    optimizer.fails = "the GPU's memory is too small"
    code, _, err = quantize()
    assert (code, (tmp_path / "out").exists()) == (64, False)
    assert "the GPU's memory is too small" in err
    optimizer.fails = None
    assert quantize()[0] == 0  # what was left does not stand in the way


@pytest.mark.parametrize(
    ("format_name", "says"),
    [
        ("nvfp4", "this GPU (compute capability 9.0) does not compute nvfp4; 10.0 does"),
        ("int8_sq", "no engine of this worker is known to load int8_sq"),
    ],
)
def test_a_format_that_will_not_run_here_is_said(quantize, optimizer, format_name, says):
    code, _, err = quantize("--format", format_name)
    assert code == 0
    assert f"note: {says}\n" in err


def test_too_few_prompts_are_said(quantize, optimizer, prompts):
    prompts.write_text("one\ntwo\none\n\n")
    _, out, err = quantize()
    assert "2 different prompts; at least 128 are advised" in err
    assert "none is left to compare with" in err
    assert "perplexity" not in out


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", None, "--model: {model} has no config.json that can be read"),
        ("config.json", "[", "--model: {model} has no config.json that can be read"),
        ("config.json", '{"quantization_config": {}}', "--model: {model} is quantised already"),
        ("hf_quant_config.json", "{}", "--model: {model} is quantised already"),
        ("tokenizer.json", None, "--model: {model} has no tokenizer.json"),
    ],
)
def test_a_model_that_cannot_be_quantised_is_refused(
    quantize, optimizer, model, name, content, says
):
    path = model / name
    path.unlink() if content is None else path.write_text(content)
    code, _, err = quantize()
    assert (code, optimizer.calls) == (64, [])
    assert says.format(model=model) in err


def test_a_folder_that_exists_is_never_written_over(quantize, optimizer, tmp_path):
    (tmp_path / "out").mkdir()
    code, _, err = quantize()
    assert (code, optimizer.calls) == (64, [])
    assert f"--out: {tmp_path}/out exists" in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--format", "fp4"), "--format: invalid choice: 'fp4'"),
        (("--block-size", "64"), "--block-size: 64 is not one of fp8"),
        (("--samples", "0"), "--samples: '0' is not a whole number from 1 on"),
        (("--prompts", "nowhere.txt"), "--prompts: nowhere.txt: No such file"),
    ],
)
def test_wrong_usage_is_refused(quantize, optimizer, options, says):
    code, _, err = quantize(*options)
    assert (code, optimizer.calls) == (64, [])
    assert says in err


@pytest.mark.parametrize(
    ("exclude", "says"),
    [
        (("*.down_proj", "model.layers.0.*"), None),
        (("*.out_proj",), "--exclude: the model has no module *.out_proj"),
        (
            ("*.0.self_attn.q_proj",),
            (
                "--exclude: all or none of model.layers.0.self_attn.q_proj, "
                "model.layers.0.self_attn.k_proj, model.layers.0.self_attn.v_proj, which engines "
                "compute as one"
            ),
        ),
        (("*",), "--exclude: the model has no module besides"),
    ],
)
def test_modules_are_excluded_as_engines_can_load_them(exclude, says):
    attention = [f"self_attn.{each}_proj" for each in "qkvo"]
    names = [*attention, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    modules = [f"model.layers.{layer}.{name}" for layer in range(2) for name in names]
    recipe = Recipe("fp8", exclude=exclude)
    assert recipe.fault_with(modules) == says
    if says is None:
        assert sum(map(recipe.excludes, modules)) == len(names) + 1


def test_what_is_not_installed_is_named(quantize, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelopt", None)
    code, _, err = quantize()
    assert code == 64
    assert "is not installed; this brings it: pip install './inference_worker[quantize]'" in err


# --- prompts -------------------------------------------------------------------------------------


def test_json_lines_may_be_texts_prompts_and_chats(tmp_path):
    chat = [{"role": "user", "content": "hello"}]
    lines = [{"text": "a"}, {"prompt": "b"}, {"messages": chat}, {"text": "a"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n\n".join(map(json.dumps, lines)))
    assert read(path) == ["a", "b", chat]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", ":3 is not JSON"),
        ("[]", ":3 is not an object with one of text, prompt and messages"),
        ('{"text": "a", "prompt": "b"}', ":3 is not an object with one of"),
        ('{"text": ""}', ":3: text is not a text"),
        ('{"prompt": 7}', ":3: prompt is not a text"),
        ('{"messages": []}', ":3: messages is not a list of objects with role and content"),
        ('{"messages": [{"role": "user"}]}', ":3: messages is not a list of objects"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path, line, says):
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"text": "fine"}}\n\n{line}\n')
    with pytest.raises(PromptsError, match=says.replace("[", r"\[")):
        read(path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PromptsError, match="not UTF-8 text"):
        read(path)


def test_samples_come_from_the_whole_file_and_no_prompt_is_used_twice():
    prompts = [str(each) for each in range(1000)]
    calibrated, held_out = chosen(prompts, 100)
    assert (len(calibrated), len(held_out)) == (100, 64)
    assert not set(calibrated) & set(held_out)
    for part in (calibrated, held_out):
        numbers = list(map(int, part))
        assert numbers == sorted(numbers)
        assert numbers[0] < 20
        assert numbers[-1] > 950
    assert chosen(prompts[:50], 100) == (prompts[:50], [])


def test_prompts_are_computed_together_where_they_are_of_one_length():
    long, short = [[each] * 1000 for each in range(5)], [[7], [8]]
    found = list(batches([short[0], *long, short[1]]))
    assert found == [long[:4], long[4:], short]
    assert list(batches([[1] * (BATCH_TOKENS + 1)] * 2)) == [[[1] * (BATCH_TOKENS + 1)]] * 2
