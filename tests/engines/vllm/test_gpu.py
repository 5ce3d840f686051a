"""What only the real vLLM can show, on a GPU host; beside it the contract suite runs there too."""

import asyncio
import importlib.util
import json
import multiprocessing
import os
import queue
import random
import re
import signal

import jsonschema
import pytest
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.port import (
    Ability,
    Generation,
    Guide,
    KvEvent,
    KvStored,
    Refused,
    Sampling,
)

from tests.engines.conftest import MODELS, build
from tests.engines.guides.schemas import EVERYDAY
from tests.engines.recorder import GREEDY, Recorder

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"
)

WAIT_S = 60.0


class Watcher(Recorder):
    """A recorder that also takes KV cache events and whole outputs."""

    def __init__(self, engine):
        super().__init__(engine)
        self.kv_events: queue.Queue[KvEvent] = queue.Queue()
        self.outputs = []

    def on_kv_events(self, events):
        for event in events:
            self.kv_events.put(event)

    def _take(self, output):
        self.outputs.append(output)
        super()._take(output)


def start(*arguments):
    watcher = Watcher(build("--context-tokens", "2048", *arguments, engine="vllm"))
    watcher.engine.start(watcher)
    return watcher


def prompt(seed, tokens=100):
    return random.Random(seed).choices(range(8, 4000), k=tokens)


@pytest.fixture(scope="module")
def watcher():
    made = start()
    yield made
    made.engine.close()
    assert made.death is None


def test_info_is_of_the_real_engine(watcher):
    info = watcher.engine.info
    assert (info.engine, info.context_tokens, info.vocabulary_size) == ("vllm", 2048, 4096)
    assert info.kv_block_tokens >= 1
    assert info.kv_blocks > 1000
    assert info.running_sequences == 128
    assert info.top_logprobs == 20


def test_kv_events_tell_the_prompts_blocks_each_the_child_of_the_one_before(watcher):
    size = watcher.engine.info.kv_block_tokens
    ids = prompt(1, tokens=4 * size + 3)
    watcher.run(Generation(ids, 2, GREEDY))
    told, hashes, parent = [], [], 0
    while len(told) < 4 * size:
        event = watcher.kv_events.get(timeout=WAIT_S)
        assert isinstance(event, KvStored)
        assert event.parent_hash == parent
        assert len(event.token_ids) == size * len(event.block_hashes)
        told += event.token_ids
        hashes += event.block_hashes
        parent = hashes[-1]
    assert told == ids[: 4 * size]
    assert len(set(hashes)) == len(hashes)
    assert 0 not in hashes


def test_a_prefix_is_reused_within_its_salt_alone(watcher):
    def cached(**fields):
        before = len(watcher.outputs)
        watcher.run(Generation(prompt(2, tokens=200), 2, GREEDY, **fields))
        return watcher.outputs[before].cached_prompt_tokens

    assert cached() == 0
    assert cached() >= 160
    assert cached(cache_salt="mine") == 0
    assert cached(cache_salt="mine") >= 160
    assert cached(cache_salt="other") == 0


def test_alternatives_are_likeliest_first_and_have_the_greedy_token_in_front(watcher):
    (ran,) = watcher.run(Generation(prompt(3), 10, GREEDY, logprobs=True, top_logprobs=5))
    for token in ran.logprobs:
        values = [each.logprob for each in token.alternatives]
        assert len(values) == 5
        assert values == sorted(values, reverse=True)
        assert token.alternatives[0].token_id == token.token_id
        assert token.alternatives[0].logprob == token.logprob
    hot = Sampling(temperature=2.0, seed=1)
    (ran,) = watcher.run(Generation(prompt(3), 30, hot, logprobs=True, top_logprobs=3))
    assert all(len({each.token_id for each in t.alternatives}) == 3 for t in ran.logprobs)
    assert any(t.token_id not in [each.token_id for each in t.alternatives] for t in ran.logprobs)


def test_as_many_stop_ids_as_are_taken_with_a_minimum_do_not_end_the_engine(watcher):
    info = watcher.engine.info
    stops = tuple(dict.fromkeys((*range(100, 100 + info.stop_token_ids), *info.eos_token_ids)))
    (ran,) = watcher.run(Generation(prompt(4), 20, GREEDY, min_tokens=10, stop_token_ids=stops))
    assert len(ran.ids) >= 10
    assert not set(ran.ids[:9]) & set(stops)


def test_a_bias_makes_a_token_certain_or_impossible(watcher):
    (plain,) = watcher.run(Generation(prompt(7), 10, GREEDY))
    always = Sampling(temperature=0, logit_bias=((77, 100.0),))
    (ran,) = watcher.run(Generation(prompt(7), 10, always, stop_token_ids=()))
    assert ran.ids == [77] * 10
    never = Sampling(temperature=0, logit_bias=tuple((each, -100.0) for each in set(plain.ids)))
    (ran,) = watcher.run(Generation(prompt(7), 10, never))
    assert not set(ran.ids) & set(plain.ids)


def test_a_banned_sequence_never_comes_and_as_many_as_are_taken_do_not_end_the_engine(watcher):
    (plain,) = watcher.run(Generation(prompt(8), 10, GREEDY))
    first, second, third = plain.ids[:3]
    banned = Sampling(temperature=0, banned_sequences=((first, second), (third,)))
    (ran,) = watcher.run(Generation(prompt(8), 10, banned))
    assert ran.ids[0] == first
    assert ran.ids[1] != second
    assert third not in ran.ids
    info = watcher.engine.info
    size = info.banned_ids // info.banned_sequences
    most = tuple((100 + each,) * size for each in range(info.banned_sequences))
    (ran,) = watcher.run(Generation(prompt(8), 5, Sampling(temperature=0, banned_sequences=most)))
    assert len(ran.ids) == 5


def test_a_prompt_has_the_log_probabilities_that_its_tokens_have_when_generated(watcher):
    (plain,) = watcher.run(Generation(prompt(9), 30, GREEDY, logprobs=True))
    whole = [*prompt(9), *plain.ids]
    before = len(watcher.outputs)
    for _ in range(2):  # the second time the prompt is in the prefix cache
        watcher.run(Generation(whole, 2, GREEDY, prompt_logprobs=3, sequence_count=2))
    told = [each.prompt_logprobs for each in watcher.outputs[before:] if each.prompt_logprobs]
    assert len(told) == 2
    for found in told:
        tokens = list(found.part(0, len(whole)))
        assert [each.token_id for each in tokens] == whole
        assert tokens[0].logprob == 0
        generated = [each.logprob for each in tokens[-30:]]
        assert generated == pytest.approx([each.logprob for each in plain.logprobs], abs=0.05)
        assert all(each.alternatives[0].token_id == each.token_id for each in tokens[-30:])


def test_times_are_the_engines_and_in_order(watcher):
    before = len(watcher.outputs)
    watcher.run(Generation(prompt(5), 10, GREEDY))
    first, last = watcher.outputs[before], watcher.outputs[-1]
    times = last.times
    assert first.started_s == times.started_s <= times.first_token_s < times.last_token_s
    assert times.last_token_s - times.started_s < WAIT_S


def test_priorities_run(watcher):
    keys = [
        watcher.submit(Generation(prompt(seed), 8, GREEDY, priority=seed * 50 - 100))
        for seed in range(5)
    ]
    assert [len(ran.ids) for ran in watcher.finish(*keys)] == [8] * 5


def test_an_ngram_draft_gives_the_same_tokens_several_at_once(watcher):
    repeated = prompt(6, tokens=20) * 8
    (plain,) = watcher.run(Generation(repeated, 60, GREEDY))
    drafting = start(
        "--vllm.speculative-config",
        '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}',
    )
    try:
        (ran,) = drafting.run(Generation(repeated, 60, GREEDY))
        assert ran.ids == plain.ids
        assert max(map(len, ran.deltas)) > 1
    finally:
        drafting.engine.close()


def test_adapters_come_and_go_and_kv_events_tell_whose_a_prompt_is(adapter, tmp_path):
    named = ["--vllm.lora", f"first={adapter}", "--vllm.max-loras", "2"]
    made = start(*named, "--vllm.dtype", "bfloat16")

    def ran(**fields):
        before = len(made.outputs)
        (one,) = made.run(Generation(prompt(12, tokens=200), 20, GREEDY, **fields))
        return one.ids, made.outputs[before].cached_prompt_tokens

    try:
        assert made.engine.info.lora_adapters == ("first",)
        plain, _ = ran()
        first, _ = ran(lora_adapter="first")
        assert first != plain
        asyncio.run(made.engine.lora.load("odd", adapter))
        odd, cached = ran(lora_adapter="odd")
        assert (odd, cached) == (first, 0)
        assert ran(lora_adapter="odd")[1] >= 160
        assert ran(lora_adapter="odd", cache_salt="mine")[1] == 0
        with pytest.raises(Refused):
            asyncio.run(made.engine.lora.load("none", tmp_path / "nowhere"))
        asyncio.run(made.engine.lora.unload("odd"))
        asyncio.run(made.engine.lora.load("odd", adapter))
        assert ran(lora_adapter="odd") == (odd, 0)  # nothing is reused of the one before
        assert ran(cache_salt="mine") == (plain, 0)
        wanted = [("", ""), ("first", ""), ("odd", "")]
        wanted += [("odd", "mine"), ("odd", ""), ("", "mine")]
        told = []
        while len(told) < len(wanted):
            event = made.kv_events.get(timeout=WAIT_S)
            if isinstance(event, KvStored) and not event.parent_hash:
                told.append((event.lora_adapter, event.cache_salt))
        assert told == wanted
    finally:
        made.engine.close()


def test_a_model_that_vllm_does_not_know_is_refused_in_words(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((MODELS["vllm"] / name).read_bytes())
    (tmp_path / "config.json").write_text(
        '{"architectures": ["NoSuchModel"], "model_type": "llama", "vocab_size": 4096,'
        ' "max_position_embeddings": 64}'
    )
    with pytest.raises(EngineError, match="vLLM refuses --model"):
        build(engine="vllm", model=str(tmp_path))


def test_the_death_of_the_engines_process_is_told():
    before = {each.pid for each in multiprocessing.active_children()}
    made = start()
    try:
        key = made.submit(Generation(prompt(8), 1900, GREEDY))
        made.wait(lambda: len(made.of(key)[0].ids) > 2)
        (child,) = [e.pid for e in multiprocessing.active_children() if e.pid not in before]
        os.kill(child, signal.SIGKILL)
        with made._news:
            assert made._news.wait_for(lambda: made.death is not None, WAIT_S)
    finally:
        made.engine.close()


@pytest.mark.parametrize("name", EVERYDAY)
def test_finished_outputs_of_schemas_are_valid(watcher, tokenizer, name):
    guide = Guide(Ability.GUIDED_JSON_SCHEMA, json.dumps(EVERYDAY[name]))
    stops = watcher.engine.info.eos_token_ids
    generations = [
        Generation(
            prompt(seed, 20),
            200,
            Sampling(temperature=2.0, seed=seed),
            guide=guide,
            stop_token_ids=stops,
        )
        for seed in range(12)
    ]
    watcher.check(generations[0])
    keys = [watcher.submit(each) for each in generations]
    for ran in watcher.finish(*keys):
        if ran.ids[-1] in stops:
            text = tokenizer.decode(ran.ids[:-1], skip_special_tokens=False)
            jsonschema.validate(json.loads(text), EVERYDAY[name])


def test_literals_of_every_form_come_out_exactly(watcher, tokenizer):
    text = "".join(chr(code) + "a9F"[code % 3] for code in (*range(0xA0, 0x180), 0x4E00, 0x1F600))
    stops = watcher.engine.info.eos_token_ids
    guides = [
        Guide(Ability.GUIDED_CHOICE, options=(text,)),
        Guide(Ability.GUIDED_REGEX, re.escape(text)),
        Guide(Ability.GUIDED_GRAMMAR, f"root ::= {json.dumps(text, ensure_ascii=False)}"),
        Guide(Ability.GUIDED_JSON_SCHEMA, json.dumps({"enum": [text]})),
    ]
    generations = [
        Generation(prompt(1), 1900, GREEDY, guide=guide, stop_token_ids=stops) for guide in guides
    ]
    for each in generations:
        watcher.check(each)
    keys = [watcher.submit(each) for each in generations]
    for ran in watcher.finish(*keys):
        output = tokenizer.decode(ran.ids[:-1], skip_special_tokens=False)
        assert output.strip('"') == text
