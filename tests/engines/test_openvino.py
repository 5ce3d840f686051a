"""What is particular to the OpenVINO engine: its settings, and what it guards its pipeline from."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tokenwire_service.settings import parse
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.openvino import adapter
from tokenwire_worker.engines.openvino.pipeline import load
from tokenwire_worker.engines.port import Ability, Finish, Generation, Guide, Sampling
from tokenwire_worker.settings import WorkerSettings

from tests.engines.conftest import build
from tests.engines.recorder import GREEDY, Ran, Recorder
from tests.engines.test_contract import generation, prompt
from tests.services.processes import MODEL

HF = MODEL.parent / "hf"

EXACT = ("--openvino.exact", "--openvino.kv-blocks", "512")


@contextmanager
def running(*arguments: str) -> Iterator[Recorder]:
    """Runs an engine for the tests of a file."""
    recorder = Recorder(build(*arguments))
    recorder.engine.start(recorder)
    try:
        yield recorder
    finally:
        recorder.engine.close()


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Recorder]:
    """An engine without anything special."""
    with running(*EXACT) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def plain(ordinary) -> list[list[int]]:
    """Greedy ids of some requests."""
    return ids_of(ordinary)


@pytest.fixture(scope="module")
def few_blocks() -> Iterator[Recorder]:
    """An engine whose KV cache is for 256 tokens."""
    with running("--openvino.exact", "--openvino.kv-blocks", "8") as recorder:
        yield recorder


def ids_of(recorder: Recorder) -> list[list[int]]:
    return [ran.ids for ran in recorder.run(*[generation(seed) for seed in range(6)])]


# --- drafts --------------------------------------------------------------------------------------

DRAFTS = {
    "draft model": ("--openvino.draft-model", str(MODEL), "--openvino.draft-tokens", "3"),
    "prompt lookup": ("--openvino.prompt-lookup-ngram", "3"),
}


@pytest.mark.parametrize("draft", DRAFTS.values(), ids=DRAFTS)
def test_a_draft_changes_nothing_but_the_steps(started, plain, draft):
    recorder = started(*EXACT, *draft)
    assert ids_of(recorder) == plain
    stop = plain[0][5]
    (ran,) = recorder.run(generation(stop_token_ids=(stop,)))
    assert ran.ids == plain[0][: plain[0].index(stop) + 1]
    assert ran.finish is Finish.STOP
    key = recorder.submit(generation(max_tokens=1500))
    recorder.wait(lambda: recorder.of(key)[0].ids)
    recorder.engine.cancel(key)
    assert recorder.finish(key)[0].finish is Finish.CANCELLED
    held = generation(guide=Guide(Ability.GUIDED_REGEX, "[ab]{6}"), stop_token_ids=(6,))
    recorder.check(held)
    assert recorder.run(held)[0].finish is Finish.STOP
    if draft == DRAFTS["draft model"]:  # the same model, which is always right
        (ran,) = recorder.run(generation(max_tokens=24))
        assert len(ran.ids) == 24
        assert max(len(delta) for delta in ran.deltas) > 1


# --- LoRA ----------------------------------------------------------------------------------------


def write_adapter(path: Path, seed: int) -> Path:
    """Writes a LoRA adapter of random weights for the demo model, as safetensors."""
    config = json.loads((MODEL / "config.json").read_text())
    width, rank = config["hidden_size"], 4
    chance = np.random.default_rng(seed)
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.{part}.lora_{side}.weight": (
            chance.normal(0, 0.3, (rank, width) if side == "A" else (width, rank))
        ).astype(np.float32)
        for layer in range(config["num_hidden_layers"])
        for part in ("q_proj", "o_proj")
        for side in ("A", "B")
    }
    header, start = {}, 0
    for name, values in tensors.items():
        end = start + values.nbytes
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    data = b"".join(values.tobytes() for values in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_adapters_apply_to_their_own_requests(started, plain, tmp_path):
    one, two = (write_adapter(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    recorder = started(*EXACT, "--openvino.lora", f"one={one}", "--openvino.lora", f"two={two}")
    assert recorder.engine.info.lora_adapters == ("one", "two")
    alone = {
        name: recorder.run(generation(lora_adapter=name))[0].ids for name in ("", "one", "two")
    }
    assert alone[""] == plain[0]
    assert len({tuple(ids) for ids in alone.values()}) == 3, "each has an effect of its own"
    # All at once, in turns: what came first is done first, and none takes on another's adapter.
    names = ["one", "", "two", "one", "", "two", "two", ""]
    ran = recorder.run(*[generation(lora_adapter=name) for name in names])
    assert [each.ids for each in ran] == [alone[name] for name in names]
    # What waits for its adapter can be cancelled.
    running = recorder.submit(generation(max_tokens=1500))
    waiting = recorder.submit(generation(lora_adapter="one", sequence_count=2))
    recorder.wait(lambda: len(recorder.of(running)[0].ids) > 5)
    recorder.engine.cancel(waiting)
    assert {ran.finish for ran in recorder.finish(waiting)} == {Finish.CANCELLED}
    assert {tuple(ran.ids) for ran in recorder.of(waiting)} == {()}
    recorder.engine.cancel(running)
    recorder.finish(running)


# --- the KV cache --------------------------------------------------------------------------------


def test_a_small_cache_preempts_and_loses_nothing(few_blocks, plain):
    recorder = few_blocks
    assert recorder.engine.info.context_tokens == 8 * 32
    assert ids_of(recorder) == plain
    ran = recorder.run(*[generation(seed, max_tokens=80) for seed in range(4)])
    assert [len(each.ids) for each in ran] == [80] * 4
    (whole,) = recorder.run(generation(tokens=200, max_tokens=56))
    assert (len(whole.ids), whole.finish) == (56, Finish.LENGTH)


def test_what_outgrows_the_cache_fails_alone(few_blocks):
    recorder = few_blocks
    key = recorder.submit(generation(max_tokens=500))
    recorder.wait(lambda: key in recorder.errors)
    assert recorder.errors[key] == "the KV cache has no room for this generation"
    assert len(recorder.run(generation())[0].ids) == 12


def test_what_the_pipeline_refuses_fails_alone(ordinary):
    recorder = ordinary
    other = recorder.submit(generation(max_tokens=100))
    key = recorder.submit(generation(sampling=Sampling(temperature=1.0, top_p=5.0)))
    recorder.wait(lambda: key in recorder.errors)
    assert "top_p" in recorder.errors[key]
    assert len(recorder.finish(other)[0].ids) == 100


def test_eviction_bounds_the_prompt_and_not_the_output(started):
    recorder = started(
        *("--openvino.kv-blocks", "32", "--no-openvino.prefix-caching"),
        *("--openvino.cache-eviction.max-tokens", "256"),
    )
    info = recorder.engine.info
    assert (info.context_tokens, info.prompt_tokens) == (4096, 1024)
    ran = recorder.run(*[generation(seed, tokens=300, max_tokens=300) for seed in range(2)])
    assert [len(each.ids) for each in ran] == [300] * 2
    # What was evicted depends on each step before: it can't go on in the middle.
    rest = generation(tokens=41, carried_tokens=1)
    assert recorder.engine.not_carried(rest) == ["output_so_far"]


def test_without_split_fuse_a_prompt_is_one_step(started):
    recorder = started(
        *("--no-openvino.split-fuse", "--openvino.max-batched-tokens", "128"),
        *("--openvino.max-sequences", "64", "--openvino.kv-blocks", "512"),
    )
    assert recorder.engine.info.prompt_tokens == 128
    assert len(recorder.run(generation(tokens=128))[0].ids) == 12


def test_a_repeated_prompt_takes_fewer_steps(ordinary):
    recorder = ordinary
    steps = []
    for _ in range(2):
        before = recorder.steps
        recorder.run(generation(8, tokens=1500, max_tokens=1))
        steps.append(recorder.steps - before)
    assert steps[0] >= 6, "256 tokens a step"
    assert steps[1] <= 2


def test_sequences_of_a_request_compute_its_prompt_once(ordinary):
    recorder = ordinary
    before = recorder.steps
    recorder.run(generation(9, tokens=1500, max_tokens=2, sequence_count=4))
    assert recorder.steps - before <= 10, "6 steps of prompt, and not 24"


def begins_with(first: int, ids: list[int], **fields: object) -> Generation:
    return generation(prompt=[first, *ids], logprobs=True, **fields)


def values_of(ran: Ran) -> list[float]:
    return [each.logprob for each in ran.logprobs]


def test_requests_that_begin_alike_and_come_together_compute_what_each_computes_alone(ordinary):
    recorder = ordinary
    for seed in range(3):
        start = prompt(100 + seed, 20)
        (whole,) = recorder.run(begins_with(9, start, max_tokens=40))
        recorder.run(begins_with(9, start, max_tokens=5))  # leaves a block that is not full
        # Steps of this prompt are long, so what comes meanwhile is added before the same step.
        other = recorder.submit(begins_with(10, prompt(200 + seed, 500), max_tokens=1))
        recorder.wait(lambda key=other: key in recorder.started)
        places = (9, 3, 10, 6)
        rests = [begins_with(9, start + whole.ids[:at], max_tokens=40 - at) for at in places]
        for at, ran in zip(places, recorder.run(*rests), strict=True):
            assert ran.ids == whole.ids[at:], (seed, at)
            assert values_of(ran) == pytest.approx(values_of(whole)[at:], abs=1e-3), (seed, at)
        recorder.finish(other)


def test_a_prompt_that_was_cancelled_in_its_middle_is_computed_whole_later(ordinary, started):
    recorder = ordinary
    plain = started(*EXACT, "--no-openvino.prefix-caching")
    # What generates meanwhile takes its part of each step, so that steps end amid blocks.
    others = [recorder.submit(begins_with(11, prompt(each), max_tokens=3000)) for each in range(3)]
    recorder.wait(lambda: all(recorder.of(key)[0].ids for key in others))
    for seed in range(2):
        asked = begins_with(12, prompt(300 + seed, 700))
        key = recorder.submit(asked)
        recorder.wait(lambda key=key: key in recorder.started)
        recorder.engine.cancel(key)
        (cancelled,) = recorder.finish(key)
        assert (cancelled.ids, cancelled.finish) == ([], Finish.CANCELLED)
        (again,), (alone,) = recorder.run(asked), plain.run(asked)
        assert again.ids == alone.ids, seed
        assert values_of(again) == pytest.approx(values_of(alone), abs=1e-3), seed
    for key in others:
        recorder.engine.cancel(key)
    recorder.finish(*others)


# --- settings that do not go together ------------------------------------------------------------


def load_here(*arguments: str) -> None:
    """Does what a start does, without a process for the engine."""
    settings = parse(WorkerSettings, "test", ["--model", str(MODEL), *arguments])
    adapter.check_model(settings)
    load(settings)


NO_ADAPTER = ("--openvino.lora", f"a={MODEL / 'config.json'}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--openvino.cache-eviction.max-tokens", "512"), "--no-openvino.prefix-caching"),
        ((*DRAFTS["draft model"], *DRAFTS["prompt lookup"]), "give one"),
        ((*NO_ADAPTER, *DRAFTS["prompt lookup"]), "does not go"),
        (NO_ADAPTER, "refuses"),
        (("--openvino.kv-blocks", "1000000000"), "more memory than available"),
    ],
)
def test_wrong_settings_say_what_is_wrong(arguments, says):
    with pytest.raises(EngineError, match=says) as error:
        load_here(*arguments)
    assert "\n" not in str(error.value)


def test_what_is_wrong_comes_from_the_engines_process():
    with pytest.raises(EngineError, match="Wrong value f7"):
        build("--openvino.property", "KV_CACHE_PRECISION=f7")


# --- guides --------------------------------------------------------------------------------------


def test_a_guide_needs_openvinos_tokenizer(started, tmp_path):
    for file in MODEL.iterdir():
        if file.name.startswith("openvino_") and "tokenizer" in file.name:
            continue
        (tmp_path / file.name).symlink_to(file.resolve())
    engine = started("--openvino.kv-blocks", "16", model=str(tmp_path)).engine
    assert engine.info.abilities == {Ability.LOGPROBS, Ability.MIN_P}


def test_special_tokens_may_be_objects(started, tmp_path):
    for file in MODEL.iterdir():
        (tmp_path / file.name).symlink_to(file.resolve())
    config = json.loads((MODEL / "tokenizer_config.json").read_text())
    config["bos_token"] = {"__type": "AddedToken", "content": "<|begin|>", "lstrip": False}
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    recorder = started("--openvino.kv-blocks", "16", model=str(tmp_path))
    assert Ability.GUIDED_REGEX in recorder.engine.info.abilities
    recorder.check(held("[ab]{3}"))
    [ran] = recorder.run(held("[ab]{3}"))
    assert ran.finish is Finish.STOP


def held(pattern: str) -> Generation:
    return Generation(
        prompt=prompt(),
        max_tokens=5,
        sampling=GREEDY,
        stop_token_ids=(6,),
        guide=Guide(Ability.GUIDED_REGEX, pattern),
    )
