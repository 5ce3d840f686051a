"""What only the real vLLM can show, on a GPU host; beside it the contract suite runs there too."""

import importlib.util
import json
import multiprocessing
import os
import queue
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import grpc
import jsonschema
import pytest
from tokenwire.worker.v1 import execution_pb2, execution_pb2_grpc
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.port import (
    Ability,
    Generation,
    Guide,
    KvEvent,
    KvStored,
    Sampling,
)

from tests.engines.conftest import EVERY, MODELS, build
from tests.engines.guides.schemas import EVERYDAY
from tests.engines.recorder import GREEDY, Recorder
from tests.services.processes import Process

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


@pytest.fixture
def adapter(tmp_path):
    """A LoRA adapter of the demo model that changes what it says."""
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    rank, width = 8, 320
    torch.manual_seed(3)
    weights = {}
    for layer in range(6):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(rank, width)
        weights[f"{name}.lora_B.weight"] = torch.randn(width, rank)
    save(weights, str(tmp_path / "adapter_model.safetensors"))
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "bias": "none",'
        ' "target_modules": ["q_proj"], "base_model_name_or_path": "demo"}'
    )
    return tmp_path


def test_an_adapter_is_applied_where_it_is_named_and_nowhere_else(adapter):
    made = start("--vllm.lora", f"odd={adapter}", "--vllm.dtype", "bfloat16")
    try:
        assert made.engine.info.lora_adapters == ("odd",)
        plain, odd, again = made.run(
            Generation(prompt(7), 20, GREEDY),
            Generation(prompt(7), 20, GREEDY, lora_adapter="odd"),
            Generation(prompt(7), 20, GREEDY),
        )
        assert odd.ids != plain.ids == again.ids
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


@pytest.mark.parametrize("busy", [False, True])
def test_the_death_of_the_engines_process_is_told(busy):
    before = {each.pid for each in multiprocessing.active_children()}
    made = start()
    try:
        if busy:
            key = made.submit(Generation(prompt(8), 1900, GREEDY))
            made.wait(lambda: len(made.of(key)[0].ids) > 2)
        (child,) = [e.pid for e in multiprocessing.active_children() if e.pid not in before]
        os.kill(child, signal.SIGKILL)
        with made._news:
            assert made._news.wait_for(lambda: made.death is not None, WAIT_S)
    finally:
        made.engine.close()


class WorkerProcess(Process):
    """A worker with vLLM as a process."""

    def __init__(self, *arguments, settings=EVERY["vllm"]):
        arguments = ["--model", str(MODELS["vllm"]), "--engine", "vllm", *settings, *arguments]
        serving = ["--listen", "127.0.0.1:0", "--log-format", "json"]
        super().__init__("tokenwire_worker", [*arguments, *serving])

    @property
    def engine_pid(self):
        """The process that vLLM titles `VLLM::EngineCore`, once the worker serves."""
        assert self.address
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # processes come and go
                parent = f"PPid:\t{self.process.pid}\n" in (folder / "status").read_text()
                if parent and "EngineCore" in (folder / "cmdline").read_text():
                    return int(folder.name)
        raise AssertionError("the worker has no engine process")


def test_a_worker_whose_engine_process_died_ends_with_70():
    worker = WorkerProcess()
    try:
        os.kill(worker.engine_pid, signal.SIGKILL)
        assert worker.wait() == 70
        assert worker.wait_for("engine_died")
    finally:
        worker.kill()


def test_ctrl_c_lets_what_runs_finish():
    """A terminal sends it to the worker and to the engine's process alike."""
    worker = WorkerProcess()
    try:
        with grpc.insecure_channel(worker.address) as channel:
            stub = execution_pb2_grpc.ExecutionServiceStub(channel)
            request = execution_pb2.Request(
                prompt_token_ids=prompt(9),
                stopping=execution_pb2.Stopping(max_tokens=1500, ignore_eos=True),
            )
            stream = stub.Execute(execution_pb2.ExecuteRequest(request=request), timeout=WAIT_S)
            counted = 0
            for response in stream:
                if response.WhichOneof("event") == "tokens" and not counted:
                    os.kill(worker.engine_pid, signal.SIGINT)
                    os.kill(worker.process.pid, signal.SIGINT)
                counted += len(response.tokens.token_ids)
        assert counted == 1500
        assert worker.wait() == 0
    finally:
        worker.kill()


def execution(worker):
    return execution_pb2_grpc.ExecutionServiceStub(grpc.insecure_channel(worker.address))


def asked(tokens, max_tokens):
    return execution_pb2.ExecuteRequest(
        request=execution_pb2.Request(
            prompt_token_ids=prompt(10, tokens=tokens),
            stopping=execution_pb2.Stopping(max_tokens=max_tokens, ignore_eos=True),
        )
    )


def test_an_engine_process_that_stands_still_with_work_ends_the_worker_with_70():
    worker = WorkerProcess("--stall-s", "5")
    try:
        stream = execution(worker).Execute(asked(100, 1900), timeout=WAIT_S)
        while next(stream).WhichOneof("event") != "tokens":
            pass
        os.kill(worker.engine_pid, signal.SIGSTOP)
        stopped_s = time.monotonic()
        with pytest.raises(grpc.RpcError) as failure:
            for _ in stream:
                pass
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert worker.wait() == 70
        # Beyond the bound: to notice it, and the exit of a process with a GPU. 2.4 s on an H200.
        assert time.monotonic() - stopped_s < 5 + 5
    finally:
        worker.kill()


def test_a_prompt_of_many_steps_is_no_stall():
    # One token of the prompt a step: more steps without an output than the bound has room for.
    smallest = ["--vllm.max-num-batched-tokens", "1", "--vllm.max-num-seqs", "1"]
    eager = ["--vllm.enforce-eager", "--vllm.gpu-memory-utilization", "0.1"]
    worker = WorkerProcess("--stall-s", "2", settings=[*smallest, *eager])
    try:
        stub = execution(worker)
        began_s = time.monotonic()
        events = list(stub.Execute(asked(1900, 1), timeout=WAIT_S))
        assert events[-1].HasField("completed")
        assert time.monotonic() - began_s > 4, "it took so little that nothing was tested"
        worker.terminate()
        assert worker.wait() == 0
    finally:
        worker.kill()


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
