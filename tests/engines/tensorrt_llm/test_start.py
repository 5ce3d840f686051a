"""How an engine starts, or does not, and what it then says of itself."""

from __future__ import annotations

import pytest
from tokenwire_worker.engines import EngineError, EngineStartError
from tokenwire_worker.engines.port import Ability

from tests.engines.tensorrt_llm.conftest import EOS, VOCABULARY, generation


def test_its_bounds_are_those_of_model_settings_and_cache(started):
    info = started().engine.info
    assert (info.engine, info.engine_version) == ("tensorrt_llm", "1.2.1")
    assert (info.context_tokens, info.prompt_tokens) == (2048, 2048)
    assert (info.vocabulary_size, info.eos_token_ids) == (VOCABULARY, EOS)
    assert (info.running_sequences, info.kv_block_tokens, info.kv_blocks) == (256, 32, 2048)


def test_a_prompt_fits_a_step_where_it_is_not_chunked(started):
    flags = ("--no-tensorrt-llm.enable-chunked-prefill", "--tensorrt-llm.max-num-tokens", "128")
    engine = started(*flags)
    assert engine.engine.info.prompt_tokens == 128
    assert len(engine.run(generation(tokens=128))[0].ids) == 8


def test_what_the_cache_cannot_hold_whole_is_out_of_bounds(started):
    info = started("--tensorrt-llm.kv-cache-config.max-tokens", "330").engine.info
    assert (info.kv_blocks, info.context_tokens, info.prompt_tokens) == (10, 320, 320)


def test_without_warm_up_the_size_of_the_cache_is_not_known(started):
    engine = started("--tensorrt-llm.warm-up-requests", "0", "--tensorrt-llm.max-seq-len", "512")
    assert (engine.engine.info.kv_blocks, engine.engine.info.context_tokens) == (0, 512)
    assert engine.stand_in.requests == []
    assert len(engine.run(generation())[0].ids) == 8


def test_warm_up_runs_prompts_that_share_nothing(started):
    engine = started("--tensorrt-llm.warm-up-requests", "3")
    prompts = [tuple(each["prompt"]) for each in engine.stand_in.requests]
    assert len(set(prompts)) == len(prompts) == 3
    assert engine.steps == 0, "nobody hears of it"


def test_a_folder_without_a_checkpoint_is_refused(started, tmp_path):
    with pytest.raises(EngineError, match=r"has no config\.json; the tensorrt_llm engine loads"):
        started(folder=tmp_path)
    with pytest.raises(EngineError, match="is not a folder"):
        started(folder=tmp_path / "none")


def test_what_the_constructor_refuses_is_a_setting(started, monkeypatch):
    from tokenwire_worker.engines.tensorrt_llm import adapter

    given = {"no_such": 1}
    original = adapter.arguments.constructor_arguments
    monkeypatch.setattr(
        adapter.arguments, "constructor_arguments", lambda *a, **k: original(*a, **k) | given
    )
    with pytest.raises(EngineError, match="LLM got invalid argument: no_such"):
        started()


def test_what_else_ends_the_start_may_be_gone_next_time(started, monkeypatch):
    import tensorrt_llm

    def out_of_memory(*_, **__):
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(tensorrt_llm, "LLM", out_of_memory)
    with pytest.raises(
        EngineStartError, match=r"TensorRT-LLM did not start: CUDA out of memory\.$"
    ):
        started()


def test_a_failing_warm_up_ends_the_start(started, monkeypatch):
    import tensorrt_llm

    def fail(*_, **__):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(tensorrt_llm.LLM, "generate_async", fail)
    with pytest.raises(EngineStartError, match="failed in warm-up: no kernel image"):
        started()


def test_the_other_abilities_are_there(started):
    assert Ability.KV_EVENTS in started().engine.info.abilities
