"""The vLLM adapter's own code on the stand-in: threads, steps, cancelling, failing, dying."""

import asyncio
import json
import queue
import threading
import time
from pathlib import Path

import pytest
from tokenwire_service.settings import parse
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
from tokenwire_worker.engines.vllm.settings import VllmSettings
from tokenwire_worker.model_source import with_text_files
from tokenwire_worker.settings import WorkerSettings

from tests.engines.conftest import STAND_INS
from tests.engines.gguf_file import write_gguf
from tests.engines.vllm import stand_in
from tests.services.processes import ROOT

WAIT_S = 10.0
GREEDY = Sampling(temperature=0)


class Listener:
    """Keeps what it hears, with the thread that told it."""

    def __init__(self):
        self.steps = queue.Queue()
        self.deaths = queue.Queue()
        self.kv_events = queue.Queue()
        self.threads = set()

    def on_step(self, step):
        self.threads.add(threading.get_ident())
        self.steps.put(step)

    def on_death(self, reason):
        self.deaths.put(reason)

    def on_kv_events(self, events):
        for event in events:
            self.kv_events.put(event)

    def collect(self, sequences):
        """Returns the outputs until so many sequences have ended, by key and sequence."""
        outputs, ended = {}, 0
        while ended < sequences:
            for output in self.steps.get(timeout=WAIT_S).outputs:
                outputs.setdefault((output.key, output.sequence), []).append(output)
                ended += output.finish is not None or output.error is not None
        return outputs

    def one(self):
        """Returns all outputs of the one sequence that runs."""
        return next(iter(self.collect(1).values()))


def ids(outputs):
    return [token for output in outputs for token in output.token_ids]


@pytest.fixture(scope="module")
def adapter():
    with stand_in.installed():
        from tokenwire_worker.engines.vllm import adapter

        yield adapter


@pytest.fixture
def model(tmp_path):
    config = {"vocab_size": 4096, "max_position_embeddings": 4096, "eos_token_id": [3, 5000]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def build(adapter, model):
    built = []

    def build(drain_grace_s=30.0, **options):
        settings = WorkerSettings(
            model=str(model),
            engine="vllm",
            vllm=VllmSettings(**options),
            drain_grace_s=drain_grace_s,
        )
        adapter.check_model(settings)
        engine = adapter.build(settings)
        built.append(engine)
        engine.listener = Listener()
        engine.start(engine.listener)
        return engine

    yield build
    for engine in built:
        engine.close()


@pytest.fixture
def engine(build):
    return build()


def llm():
    return stand_in.AsyncLLM.latest


# --- what it serves -------------------------------------------------------------------------------


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
    build(tensor_parallel_size=8, max_model_len=512, kv_cache_dtype="fp8", drain_grace_s=4.5)
    arguments = llm().arguments
    assert arguments.model == arguments.tokenizer == str(model)
    assert (arguments.tensor_parallel_size, arguments.kv_cache_dtype) == (8, "fp8")
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


def test_a_gguf_file_goes_to_vllm_with_the_text_files_that_are_made_of_it(adapter, tmp_path):
    path = write_gguf(ROOT / "models/demo/hf", tmp_path / "demo.gguf", "Q4_1")
    given = ["--model", str(path), "--engine", "vllm", "--cache-folder", str(tmp_path / "cache")]
    settings = parse(WorkerSettings, "test", given)
    adapter.check_model(settings)
    engine = adapter.build(with_text_files(settings))
    try:
        arguments = llm().arguments
        assert arguments.model == str(path), "vLLM computes every type of weights"
        assert (Path(arguments.tokenizer) / "tokenizer.json").is_file()
        assert engine.info.eos_token_ids == (6,)
    finally:
        engine.close()
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(EngineError, match="it is cut short"):
        adapter.check_model(settings)


# --- generations ----------------------------------------------------------------------------------


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


# --- cancelling, failing, dying -------------------------------------------------------------------


def test_cancel_ends_every_sequence(engine):
    engine.submit(1, Generation([40], 4000, GREEDY, sequence_count=3))
    engine.listener.steps.get(timeout=WAIT_S)
    engine.cancel(1)
    outputs = engine.listener.collect(3)
    assert {each[-1].finish for each in outputs.values()} == {Finish.CANCELLED}
    assert llm().requests == {}


def test_cancel_of_one_sequence_leaves_the_others(engine):
    engine.submit(1, Generation([40], 200, GREEDY, sequence_count=2))
    engine.listener.steps.get(timeout=WAIT_S)
    engine.cancel(1, 0)
    outputs = engine.listener.collect(2)
    assert outputs[1, 0][-1].finish is Finish.CANCELLED
    assert outputs[1, 1][-1].finish is Finish.LENGTH
    assert not any(output.finish for output in outputs[1, 1][:-1])


def test_cancel_before_vllm_has_heard_of_it(engine):
    engine._thread.call(
        lambda: (engine._add(1, Generation([40], 50, GREEDY)), engine._cancel(1, None))
    )
    (output,) = engine.listener.one()
    assert (output.token_ids, output.finish) == ([], Finish.CANCELLED)
    assert llm().calls == []


def test_cancel_of_what_is_not_live_is_passed_over(engine):
    engine.cancel(7)
    engine.submit(1, Generation([40], 2, GREEDY))
    assert engine.listener.one()[-1].finish is Finish.LENGTH
    engine.cancel(1)
    engine.submit(2, Generation([40], 2, GREEDY))
    assert engine.listener.one()[-1].finish is Finish.LENGTH


def test_what_vllm_refuses_fails_alone(engine):
    engine.submit(1, Generation([40], 100, GREEDY))
    engine.submit(2, Generation([13], 5, GREEDY, sequence_count=2))
    outputs = engine.listener.collect(2)
    (failed,) = [each[-1] for key, each in outputs.items() if key[0] == 2]
    assert (failed.error, failed.finish) == ("unlucky", None)
    assert outputs[1, 0][-1].finish is Finish.LENGTH


def test_an_ending_that_the_port_does_not_know_is_an_error(engine):
    engine.submit(1, Generation([40], 4000, GREEDY))
    engine.listener.steps.get(timeout=WAIT_S)
    engine._thread.call(lambda: llm().requests.pop("1-0").put([], "error"))
    assert engine.listener.one()[-1].error == "vLLM ended it with 'error'"


def test_load_is_the_schedulers_and_nothing_when_idle(engine):
    engine.submit(1, Generation([40] * 160, 4000, GREEDY))
    engine.submit(2, Generation([40] * 160, 4000, GREEDY))
    for _ in range(10):
        engine.listener.steps.get(timeout=WAIT_S)
    load = engine.load()
    assert load.running_sequences == 2
    assert 20 / 4096 <= load.kv_cache_usage < 0.1
    engine.cancel(1)
    engine.cancel(2)
    engine.listener.collect(2)
    assert (engine.load().running_sequences, engine.load().kv_cache_usage) == (0, 0.0)


@pytest.mark.parametrize("busy", [True, False])
def test_death_is_told_once_and_the_engine_can_still_be_closed(engine, busy):
    if busy:
        engine.submit(1, Generation([40], 4000, GREEDY, sequence_count=3))
        engine.listener.steps.get(timeout=WAIT_S)
    engine._thread.call(llm().die)
    assert "engine" in engine.listener.deaths.get(timeout=WAIT_S).lower()
    engine.submit(2, Generation([40], 5, GREEDY))
    engine.close()
    assert engine.listener.deaths.empty()


def test_close_cancels_what_it_holds_and_ends_the_thread(engine):
    engine.submit(1, Generation([40], 4000, GREEDY, sequence_count=2))
    engine.listener.steps.get(timeout=WAIT_S)
    engine.close()
    outputs = engine.listener.collect(2)
    assert {each[-1].finish for each in outputs.values()} == {Finish.CANCELLED}
    assert not engine._thread._thread.is_alive()
    assert llm().stopped
    assert engine.listener.deaths.empty()
    engine.close()  # a second time changes nothing


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
