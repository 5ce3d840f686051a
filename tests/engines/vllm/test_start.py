"""What the vLLM adapter serves, on the stand-in: settings, abilities, models."""

import threading
from pathlib import Path

import pytest
from tokenwire_service.settings import parse
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.port import (
    Ability,
)
from tokenwire_worker.model_source import with_text_files
from tokenwire_worker.settings import WorkerSettings

from tests.engines.gguf_file import write_gguf
from tests.engines.vllm.heard import llm
from tests.services.processes import ROOT


def test_info_is_the_engines(engine):
    info = engine.info
    assert (info.engine, info.engine_version) == ("vllm", "0.26.0")
    assert (info.context_tokens, info.prompt_tokens, info.vocabulary_size) == (4096, 4096, 4096)
    assert (info.kv_block_tokens, info.kv_blocks, info.running_sequences) == (16, 4096, 256)
    assert info.eos_token_ids == (3,)  # 5000 is beyond the vocabulary
    assert (info.highest_temperature, info.top_logprobs) == (2.0, 20)
    assert info.stop_token_ids == 128 - 1 - 1
    assert (info.banned_sequences, info.banned_ids) == (128, 1024)
    assert Ability.LORA not in info.abilities
    every = set(Ability) - {Ability.LORA}
    assert info.abilities >= every


def test_abilities_follow_the_settings(build):
    assert Ability.GUIDED_REGEX not in build(skip_tokenizer_init=True).info.abilities
    assert Ability.KV_EVENTS not in build(kv_events=False).info.abilities
    assert Ability.KV_EVENTS not in build(enable_prefix_caching=False).info.abilities
    drafting = build(speculative_config={"method": "ngram"}).info.abilities
    assert not drafting & {Ability.MIN_P, Ability.LOGIT_BIAS}


def test_settings_reach_vllm(build, model):
    build(
        tensor_parallel_size=8,
        pipeline_parallel_size=2,
        enable_expert_parallel=True,
        max_model_len=512,
        kv_cache_dtype="fp8",
        drain_grace_s=4.5,
    )
    arguments = llm().arguments
    assert arguments.model == arguments.tokenizer == str(model)
    assert (arguments.tensor_parallel_size, arguments.pipeline_parallel_size) == (8, 2)
    assert (arguments.enable_expert_parallel, arguments.kv_cache_dtype) == (True, "fp8")
    assert (arguments.max_model_len, arguments.generation_config) == (512, "vllm")
    assert (arguments.scheduling_policy, arguments.shutdown_timeout) == ("priority", 5)
    assert arguments.kv_events_config.endpoint.startswith("ipc://")
    assert arguments.structured_outputs_config.backend == "xgrammar"
    assert arguments.quantization == "ModelConfig.quantization"  # left to vLLM


def test_any_other_argument_passes_through(build):
    build(arg={"seed": "7", "compilation_config": '{"level": 3}', "nnodes": "2", "revision": "x"})
    arguments = llm().arguments
    assert (arguments.seed, arguments.nnodes, arguments.revision) == (7, 2, "x")
    assert arguments.compilation_config == {"level": 3}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arg": {"sead": 1}}, "--vllm.arg sead: vLLM has no such argument; is it seed?"),
        ({"arg": {"dtype": "half"}}, "has a setting of its own, --vllm.dtype"),
        ({"arg": {"data_parallel_size": 2}}, "start several workers"),
        ({"arg": {"model": "x"}}, "--vllm.arg model: is set by the worker"),
        ({"arg": {"kv_events_config": {}}}, "is set by the worker"),
        ({"arg": {"nnodes": "two"}}, "--vllm: .*nnodes"),
        ({"lora": {"mine": "/nowhere"}}, "--vllm.lora mine: /nowhere/adapter_config.json"),
        ({"enable_expert_parallel": True}, "requires --vllm.tensor-parallel-size of at least 2"),
    ],
)
def test_wrong_settings_are_named(build, options, said):
    with pytest.raises(EngineError, match=said):
        build(**options)


def test_a_model_that_vllm_refuses_is_named_and_leaves_no_thread(build, model):
    (model / "config.json").write_text('{"not_for_vllm": 1, "vocab_size": 2, "n_ctx": 8}')
    before = threading.active_count()
    with pytest.raises(EngineError, match="vLLM refuses --model"):
        build()
    assert threading.active_count() == before


def test_a_model_without_config_is_refused_before_anything_is_loaded(build, model):
    (model / "config.json").unlink()
    with pytest.raises(EngineError, match=r"has no config\.json"):
        build()


def test_a_gguf_file_goes_to_vllm_with_the_text_files_that_are_made_of_it(vllm_adapter, tmp_path):
    path = write_gguf(ROOT / "models/demo/hf", tmp_path / "demo.gguf", "Q4_1")
    given = ["--model", str(path), "--engine", "vllm", "--cache-folder", str(tmp_path / "cache")]
    settings = parse(WorkerSettings, "test", given)
    vllm_adapter.check_model(settings)
    engine = vllm_adapter.build(with_text_files(settings))
    try:
        arguments = llm().arguments
        assert arguments.model == str(path), "vLLM computes every type of weights"
        assert (Path(arguments.tokenizer) / "tokenizer.json").is_file()
        assert engine.info.eos_token_ids == (6,)
    finally:
        engine.close()
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(EngineError, match="it is cut short"):
        vllm_adapter.check_model(settings)
