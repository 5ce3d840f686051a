"""The vLLM adapter's own code on the stand-in: threads, steps, guides, KV events."""

import asyncio
import time

import pytest
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.port import (
    Ability,
    Finish,
    Generation,
    Guide,
    KvCleared,
    KvStored,
    Refused,
    Sampling,
)

from tests.engines.conftest import STAND_INS
from tests.engines.vllm import stand_in
from tests.engines.vllm.heard import GREEDY, WAIT_S, ids, llm


def test_deltas_come_in_order_until_max_tokens(engine):
    engine.submit(1, Generation([10, 20], 5, GREEDY))
    outputs = engine.listener.one()
    assert ids(outputs) == [30, 31, 32, 33, 34]
    assert [output.finish for output in outputs] == [None] * (len(outputs) - 1) + [Finish.LENGTH]
    assert engine.listener.threads == {engine._thread._thread.ident}


def test_a_stop_token_ends_a_sequence_and_is_its_last_id(engine):
    engine.submit(1, Generation([30], 50, GREEDY, stop_token_ids=(33,)))
    outputs = engine.listener.one()
    assert ids(outputs) == [30, 31, 32, 33]
    assert outputs[-1].finish is Finish.STOP


def test_one_engine_step_is_one_step_however_many_run(engine):
    count, tokens = 300, 20
    llm().paused = True
    for key in range(count):
        engine.submit(key, Generation([key + 20], tokens, GREEDY))
    while len(llm().requests) < count:
        time.sleep(0.01)
    llm().paused = False
    steps = []
    while sum(len(step.outputs) for step in steps) < count * tokens:
        steps.append(engine.listener.steps.get(timeout=WAIT_S))
    assert [len(step.outputs) for step in steps] == [count] * tokens
    began = [step.began_s for step in steps]
    assert began == sorted(began)


def test_an_engine_step_that_brings_nothing_is_a_step_too(engine):
    llm().paused = True
    engine.submit(1, Generation([40], 2, GREEDY))
    while not llm().requests:
        time.sleep(0.01)
    engine._thread.call(llm().loggers[0].record, None, None)
    assert engine.listener.steps.get(timeout=WAIT_S).outputs == []
    llm().paused = False
    assert ids(engine.listener.one()) == [40, 41]
    engine._thread.call(llm().loggers[0].record, None, None)  # the engine is idle
    engine.submit(2, Generation([50], 1, GREEDY))
    assert engine.listener.steps.get(timeout=WAIT_S).outputs[0].key == 2


def test_first_output_tells_what_was_cached_and_when_it_was_taken_up(engine):
    prompt = list(range(100, 140))
    before = time.monotonic()
    for key, cached in ((1, 0), (2, 32)):
        engine.submit(key, Generation(prompt, 3, GREEDY))
        first, *others = engine.listener.one()
        assert first.cached_prompt_tokens == cached
        assert before <= first.started_s <= time.monotonic()
        assert {other.cached_prompt_tokens for other in others} == {None}
        assert {other.started_s for other in others} == {None}
        times = others[-1].times
        assert first.started_s == times.started_s <= times.first_token_s < times.last_token_s
    engine.submit(3, Generation(prompt, 3, GREEDY, cache_salt="mine"))
    assert engine.listener.one()[0].cached_prompt_tokens == 0


def test_several_sequences_even_greedy_ones_with_seeds_of_their_own(engine):
    engine.submit(1, Generation([40], 3, GREEDY, sequence_count=3))
    outputs = engine.listener.collect(3)
    assert {key: ids(each) for key, each in outputs.items()} == {
        (1, number): [40, 41, 42] for number in range(3)
    }
    engine.submit(2, Generation([40], 3, Sampling(seed=9), sequence_count=2))
    engine.listener.collect(2)
    assert [call["params"].seed for call in llm().calls[-2:]] == [9, 10]
    assert len({call["id"] for call in llm().calls}) == 5


def test_log_probabilities_stand_beside_their_ids(engine):
    engine.submit(1, Generation([40], 6, GREEDY, logprobs=True, top_logprobs=2))
    for output in engine.listener.one():
        assert [each.token_id for each in output.logprobs] == output.token_ids
        assert {len(each.alternatives) for each in output.logprobs} == {2}
    engine.submit(2, Generation([40], 3, GREEDY))
    assert {output.logprobs for output in engine.listener.one()} == {None}


def test_log_probabilities_of_the_prompt_come_before_any_tokens_and_once(engine):
    prompt = list(range(40, 60))
    engine.submit(1, Generation(prompt, 3, GREEDY, sequence_count=3, prompt_logprobs=2))
    outputs = []
    while sum(output.finish is not None for output in outputs) < 3:
        outputs += engine.listener.steps.get(timeout=WAIT_S).outputs
    first, *others = outputs
    assert first.sequence == 0
    told = list(first.prompt_logprobs.part(0, 99))
    assert [each.token_id for each in told] == prompt
    assert [len(each.alternatives) for each in told] == [0] + [2] * 19
    assert {output.prompt_logprobs for output in others} == {None}


@pytest.mark.parametrize("cancelled", [None, 0, 1])
def test_what_waits_for_the_prompts_log_probabilities_ends_when_it_is_cancelled(engine, cancelled):
    llm().paused = True
    engine.submit(1, Generation([40], 3, GREEDY, sequence_count=2, prompt_logprobs=0))
    engine.cancel(1, cancelled)
    # The second ends at once, though the first, which it waits for, makes no progress.
    ended = engine.listener.collect(1) if cancelled == 1 else {}
    llm().paused = False
    ended |= engine.listener.collect(2 - len(ended))
    finishes = {key: outputs[-1].finish for key, outputs in ended.items()}
    assert finishes == {
        (1, each): Finish.CANCELLED if cancelled in (None, each) else Finish.LENGTH
        for each in (0, 1)
    }


def test_priority_lora_and_salt_reach_vllm(build, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 12}')
    engine = build(lora={"mine": adapter})
    assert (llm().arguments.max_lora_rank, llm().arguments.max_loras) == (16, 1)
    assert engine.info.lora_adapters == ("mine",)
    assert Ability.LORA in engine.info.abilities
    headers = (("traceparent", "00-1-1-01"),)
    generation = Generation([40], 2, lora_adapter="mine", priority=7, trace_headers=headers)
    engine.submit(1, generation)
    engine.listener.one()
    call = llm().calls[-1]
    assert call["priority"] == -7
    assert (call["lora_request"].lora_name, call["lora_request"].lora_int_id) == ("mine-1", 1)
    assert call["trace_headers"] is None  # vLLM does not trace itself
    assert [each.lora_path for each in llm().adapters] == [str(adapter)]


def test_adapters_are_loaded_and_unloaded_while_it_runs(build, tmp_path):
    engine = build(enable_lora=True, max_loras=3, max_lora_rank=20)
    assert (llm().arguments.max_lora_rank, llm().arguments.max_loras) == (32, 3)
    assert Ability.LORA in engine.info.abilities

    def used(key: int) -> tuple[str, int]:
        engine.submit(key, Generation([40], 2, lora_adapter="law"))
        engine.listener.one()
        request = llm().calls[-1]["lora_request"]
        return request.lora_name, request.lora_int_id

    asyncio.run(engine.lora.load("law", tmp_path))
    assert used(1) == ("law-1", 1)
    asyncio.run(engine.lora.unload("law"))
    assert llm().adapters == []
    with pytest.raises(Refused, match=r"path: adapter_model\.safetensors is missing"):
        asyncio.run(engine.lora.load("law", tmp_path / "broken"))
    asyncio.run(engine.lora.load("law", tmp_path))
    assert used(2) == ("law-3", 3), "another one, of whose blocks nothing is reused"


def test_trace_context_reaches_a_vllm_that_traces(build):
    engine = build(arg={"otlp_traces_endpoint": "http://127.0.0.1:4318"})
    engine.submit(1, Generation([40], 2, trace_headers=(("traceparent", "00-1-1-01"),)))
    engine.listener.one()
    assert llm().calls[-1]["trace_headers"] == {"traceparent": "00-1-1-01"}


def test_a_broken_adapter_is_found_before_anything_is_served(build, tmp_path):
    adapter = tmp_path / "broken"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    with pytest.raises(EngineError, match=r"--vllm\.lora bad: adapter_model"):
        build(lora={"bad": adapter})
    assert llm().stopped


# --- guides ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regex", "said"),
    [
        ("a(", "missing )"),
        ("unknown", "EBNF parser error"),  # by the compiler
        ("overflow", "more than the grammar compiler can take"),  # which it ends
        ("not for vllm", "vLLM's own rules"),
    ],
)
def test_a_guide_is_tried_before_it_is_taken(engine, monkeypatch, regex, said):
    # Stand-ins of the compiler and the tokenizer, found by the process that tries guides.
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS["tensorrt_llm"]))
    asyncio.run(engine.check(Generation([40], 2, guide=Guide(Ability.GUIDED_REGEX, "a+"))))
    with pytest.raises(Refused) as refused:
        asyncio.run(engine.check(Generation([40], 2, guide=Guide(Ability.GUIDED_REGEX, regex))))
    assert refused.value.field == "guide.regex"
    assert said in refused.value.description
    engine.submit(1, Generation([40], 2, GREEDY))
    assert len(ids(engine.listener.one())) == 2


def test_a_guided_output_may_end_by_the_tokenizers_own_end(engine):
    engine.submit(1, Generation([4095], 9, GREEDY, guide=Guide(Ability.GUIDED_JSON_OBJECT)))
    outputs = engine.listener.one()  # 4095, 0, 1, and 2, which is the tokenizer's
    assert ids(outputs) == [4095, 0, 1, 2]
    assert outputs[-1].finish is Finish.STOP


# --- KV cache events ------------------------------------------------------------------------------


def test_kv_events_arrive(engine):
    prompt = list(range(100, 140))
    engine.submit(1, Generation(prompt, 2, GREEDY))
    event = engine.listener.kv_events.get(timeout=WAIT_S)
    assert isinstance(event, KvStored)
    assert event.parent_hash == 0
    assert len(event.block_hashes) == 2
    assert list(event.token_ids) == prompt[:32]


def test_lost_kv_events_have_the_reader_start_over(engine):
    event = stand_in.BlockStored([5], None, [0] * 16, 16, None, "GPU", None)
    engine._thread.call(lambda: llm().publish(event, skip=3))
    assert engine.listener.kv_events.get(timeout=WAIT_S) == KvCleared()
    assert isinstance(engine.listener.kv_events.get(timeout=WAIT_S), KvStored)
