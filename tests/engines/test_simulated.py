"""The simulated engine: ids that follow from ids, steps that take time, a cache that is told of."""

from __future__ import annotations

import itertools
import random
import statistics
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.port import (
    Finish,
    Generation,
    KvEvent,
    KvRemoved,
    KvStored,
    Output,
    Sampling,
    Step,
)
from tokenwire_worker.engines.simulated.blocks import BlockCache
from tokenwire_worker.engines.simulated.faults import Fault
from tokenwire_worker.engines.simulated.model import SimulatedModel
from tokenwire_worker.engines.simulated.scheduler import Pace, Scheduler

from tests.engines.conftest import build
from tests.engines.recorder import GREEDY, WAIT_S, Recorder

SIZE = 1000
EOS = 7
BLOCK = 4
PACE = Pace(step_s=0.006, sequence_s=0.001, prefill_token_s=0.0001, step_tokens=64, sequences=8)


def scheduler(*faults: str, blocks: int = 4096, pace: Pace = PACE, **model: Any) -> Scheduler:
    made = SimulatedModel(SIZE, frozenset({1, 2, 3}), EOS, **model)
    return Scheduler(made, SIZE, BlockCache(blocks), BLOCK, pace, [*map(Fault.parse, faults)])


def generation(*prompt: int, tokens: int = 12, **fields: Any) -> Generation:
    return Generation(**{"prompt": prompt, "max_tokens": tokens, "sampling": GREEDY, **fields})


def step(steps: Scheduler) -> list[Output]:
    steps.begin_step()
    return ended(steps)


def ended(steps: Scheduler) -> list[Output]:
    """Ends a step; returns what it brought, those in columns first."""
    columns, outputs = steps.end_step()
    entries = zip(columns.keys, columns.sequences, columns.token_ids, strict=True)
    return [Output(key, sequence, [token]) for key, sequence, token in entries] + outputs


def run(steps: Scheduler, *generations: Generation) -> list[list[int]]:
    """Runs generations together to their ends; returns the ids of each's first sequence."""
    found: list[list[int]] = [[] for _ in generations]
    for key, each in enumerate(generations):
        steps.add(key, each)
    while steps.busy:
        for output in step(steps):
            if not output.sequence:
                found[output.key] += output.token_ids
    return found


# --- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.8, top_p=0.9, seed=3)])
def test_a_continuation_of_any_length_gives_the_ids_that_would_have_come(sampling):
    prompt = random.Random(0).choices(range(SIZE), k=301)
    whole = run(scheduler(), generation(*prompt, tokens=60, sampling=sampling))[0]
    for carried in (1, 2, 15, 16, 17, 59):
        rest = generation(*prompt, *whole[:carried], tokens=60 - carried, sampling=sampling)
        assert run(scheduler(), rest) == [whole[carried:]], carried


def test_ids_spread_over_the_vocabulary_and_avoid_control_tokens():
    ids = run(scheduler(), generation(5, 6, 7, tokens=8000))[0]
    counts = Counter(ids)
    assert not counts.keys() & {1, 2, 3, EOS}
    assert len(counts) > 0.98 * (SIZE - 4), "8 of each on average"
    # The id after a control token stands in for it too: 4 and 8 are expected more often.
    assert max(count for each, count in counts.items() if each not in (4, 8)) < 30


def test_every_id_of_a_prompt_counts():
    plain = run(scheduler(), generation(0, 0, 5))
    others = [(0, 5), (0, 0, 0, 5), (0, 0, 5, 0), (0, 5, 0), (0, 0, 6)]
    assert all(run(scheduler(), generation(*each)) != plain for each in others)
    assert run(scheduler(seed=1), generation(0, 0, 5)) != plain
    assert run(scheduler(), generation(0, 0, 5, lora_adapter="a")) != plain
    assert run(scheduler(), generation(0, 0, 5, cache_salt="a")) == plain


def test_sampling_is_cut_to_the_ranks_that_are_allowed():
    greedy = run(scheduler(), generation(5, 6, tokens=1))[0][0]
    drawn: Counter[int] = Counter()
    for seed in range(400):
        hot = Sampling(temperature=1.0, top_k=3, seed=seed)
        drawn[run(scheduler(), generation(5, 6, tokens=1, sampling=hot))[0][0]] += 1
    assert set(drawn) == {greedy, greedy + 1, greedy + 2}
    # e, 1 and 1/e to their sum.
    shares = [drawn[greedy + rank] / 400 for rank in range(3)]
    assert shares == pytest.approx([0.67, 0.24, 0.09], abs=0.07)


def test_outputs_end_by_themselves_about_when_they_are_told_to():
    prompts = [generation(*[each + 10] * 3, tokens=4000, stop_token_ids=(EOS,)) for each in
               range(300)]  # fmt: skip
    ran = run(scheduler(blocks=400_000, mean_output_tokens=50), *prompts)
    assert all(ids[-1] == EOS and EOS not in ids[:-1] for ids in ran)
    assert 42 < sum(map(len, ran)) / 300 < 58
    again = generation(10, 10, 10, tokens=4000, stop_token_ids=(EOS,), min_tokens=len(ran[0]) + 1)
    (later,) = run(scheduler(blocks=400_000, mean_output_tokens=50), again)
    assert later[: len(ran[0]) - 1] == ran[0][:-1]
    assert len(later) > len(ran[0])


# --- steps ---------------------------------------------------------------------------------------


def test_a_step_takes_what_its_batch_and_its_prompts_say():
    steps = scheduler()
    steps.add(1, generation(*[9] * 100))
    steps.add(2, generation(*[8] * 10))
    assert steps.begin_step() == (pytest.approx(0.006 + 64 * 0.0001), [1, 2])
    assert ended(steps) == [], "the first prompt takes two steps"
    assert steps.begin_step()[0] == pytest.approx(0.006 + 46 * 0.0001)
    assert [output.key for output in ended(steps)] == [1, 2]
    assert steps.begin_step()[0] == pytest.approx(0.006 + 2 * 0.001)


def test_sequences_that_decode_come_before_prompts_in_a_steps_tokens():
    steps = scheduler()
    for key in range(4):
        steps.add(key, generation(9, tokens=50))
    step(steps)
    steps.add(9, generation(*[8] * 121))
    took = [len(step(steps)) for _ in range(3)]
    assert took == [4, 4, 5], "60 tokens of the prompt go with each step"


def test_steps_follow_one_another_at_the_times_that_are_set():
    engine = build("--simulated.step-ms", "3", engine="simulated")
    steps: list[Step] = []
    over = threading.Event()

    class Listener(Recorder):
        def on_step(self, step: Step) -> None:
            steps.append(step)
            if any(output.finish for output in step.outputs):
                over.set()

    engine.start(Listener(engine))
    engine.submit(1, generation(9, tokens=40))
    assert over.wait(WAIT_S)
    engine.close()
    assert len(steps) == 40
    took = [later.began_s - sooner.began_s for sooner, later in itertools.pairwise(steps)]
    # The first has the prompt; a machine that is away for long loses some time.
    assert statistics.median(took) == pytest.approx(0.003 + 0.00002, abs=1e-6)


def test_more_than_run_at_once_wait_and_higher_priority_goes_first():
    steps = scheduler(pace=Pace(0.006, 0, 0, 64, sequences=2))
    for key in range(4):
        steps.add(key, generation(9, tokens=1))
    steps.add(4, generation(9, tokens=1, priority=1))
    started = []
    while steps.busy:
        started += steps.begin_step()[1]
        steps.end_step()
    assert started == [4, 0, 1, 2, 3]


def test_what_finds_no_room_in_the_cache_waits_until_there_is_enough_to_its_end():
    steps = scheduler(blocks=10)
    steps.add(1, generation(*range(10, 30), tokens=4))  # 6 blocks
    steps.add(2, generation(*range(30, 46), tokens=4))  # 5
    steps.add(3, generation(9, tokens=3))  # 1, which would fit; but nothing overtakes
    assert steps.begin_step()[1] == [1]
    steps.end_step()
    assert steps.kv_cache_usage == 0.5
    while steps.begin_step()[1] != [2, 3]:
        assert {output.key for output in ended(steps)} == {1}
    steps.end_step()


# --- the cache -----------------------------------------------------------------------------------


class Mirror:
    """What somebody who hears the events knows of a cache."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.known: dict[int, tuple[int, tuple[int, ...]]] = {}
        """Parent and ids of each block."""

    def take(self, events: Iterable[KvEvent]) -> None:
        for event in events:
            if isinstance(event, KvStored):
                parent = event.parent_hash
                for at, block in enumerate(event.block_hashes):
                    assert parent == 0 or parent in self.known
                    assert block not in self.known
                    ids = tuple(event.token_ids[at * BLOCK : (at + 1) * BLOCK])
                    assert len(ids) == BLOCK
                    self.known[block] = (parent, ids)
                    parent = block
            elif isinstance(event, KvRemoved):
                for block in event.block_hashes:
                    del self.known[block]
                    assert all(parent != block for parent, _ in self.known.values())
        assert len(self.known) <= self.blocks

    def cached_tokens(self, prompt: tuple[int, ...]) -> int:
        children = {entry: block for block, entry in self.known.items()}
        parent = at = 0
        while at + BLOCK < len(prompt) and (parent, prompt[at : at + BLOCK]) in children:
            parent = children[parent, prompt[at : at + BLOCK]]
            at += BLOCK
        return at


@pytest.mark.parametrize("seed", range(6))
def test_events_tell_all_of_the_cache_and_prompts_find_what_is_there(seed):
    rng = random.Random(seed)
    blocks = rng.choice([24, 60])
    steps, mirror = scheduler(blocks=blocks), Mirror(blocks)
    expected: dict[int, int] = {}
    prompts: dict[int, tuple[int, ...]] = {}
    found = hits = 0
    for key in range(150):
        # Two letters, so that many begin alike.
        prompts[key] = tuple(rng.choices((10, 11), (4, 1), k=rng.randrange(1, 50)))
        steps.add(key, generation(*prompts[key], tokens=rng.randrange(1, 12)))
        if rng.random() < 0.2:
            steps.cancel(rng.randrange(key + 1), None)
        for _ in range(rng.randrange(4)):
            for started in steps.begin_step()[1]:
                expected[started] = mirror.cached_tokens(prompts[started])
            for output in ended(steps):
                if output.cached_prompt_tokens is not None:
                    assert output.cached_prompt_tokens == expected[output.key]
                    found, hits = found + 1, hits + (output.cached_prompt_tokens > 0)
            mirror.take(steps.take_kv_events())
            assert 0 <= steps.kv_cache_usage <= 1
    steps.end_all()
    assert steps.kv_cache_usage == 0
    assert hits > 10
    assert found - hits > 10


def test_only_the_same_adapter_and_salt_share_blocks():
    steps = scheduler()
    asked = [{}, {"lora_adapter": "a"}, {"cache_salt": "a"}, {"lora_adapter": "a", "cache_salt": "a"}]  # fmt: skip # noqa: E501
    for again in (False, True):
        for each in asked:
            steps.add(1, generation(*range(10, 30), tokens=1, **each))
            (output,) = step(steps)
            assert output.cached_prompt_tokens == (16 if again else 0)


def test_a_conversation_finds_its_own_answer():
    steps = scheduler()
    prompt = tuple(range(10, 30))
    (answer,) = run(steps, generation(*prompt, tokens=20))
    steps.add(1, generation(*prompt, *answer, 5, 6, tokens=1))
    (output,) = step(steps)
    assert output.cached_prompt_tokens == 36, "the last id of an answer is not computed"


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("explode@3", "KIND is one of"),
        ("die", "is not"),
        ("die@0", "is not"),
        ("die@3:2", "a factor goes with slow"),
        ("slow@3", "a factor goes with slow"),
        ("refuse@step3", "comes with a generation"),
        ("0/die@3", "is not"),
    ],
)
def test_a_fault_that_is_none_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        Fault.parse(text)


def test_a_refused_generation_ends_with_an_error_and_others_go_on():
    steps = scheduler("refuse@2+3", "refuse@3", blocks=25)
    for key in (1, 2, 3):
        steps.add(key, generation(9, key, tokens=5, sequence_count=2))
    outputs = [output for _ in range(6) for output in step(steps)]
    ids = Counter((output.key, output.sequence) for output in outputs if output.token_ids)
    assert ids == {(1, 0): 5, (1, 1): 5, (2, 0): 3, (2, 1): 2}
    errors = {output.key: output.error for output in outputs if output.error}
    assert errors == {2: "a fault on command, refuse@2+3", 3: "a fault on command, refuse@3"}
    assert not steps.busy
    steps.add(4, generation(9, tokens=99))
    assert steps.begin_step()[1] == [4], "all of the cache is free again"


def test_garbage_is_an_id_that_the_vocabulary_does_not_have():
    (ids,) = run(scheduler("garbage@1+2"), generation(9, tokens=4))
    assert [each < SIZE for each in ids] == [True, True, False, False]


def test_steps_are_slow_from_the_one_that_is_named():
    steps = scheduler("slow@step3:10")
    steps.add(1, generation(9, tokens=9))
    times = []
    while steps.busy:
        times.append(steps.begin_step()[0])
        steps.end_step()
    assert times[1] == pytest.approx(0.007)
    assert times[2:] == [pytest.approx(0.07)] * 7


@pytest.mark.parametrize("fault", ["die@2+3", "die@step5"])
def test_a_death_comes_after_the_tokens_that_it_waits_for(started, fault):
    recorder = started("--simulated.fault", fault, engine="simulated")
    recorder.submit(generation(9))
    key = recorder.submit(generation(8))
    with pytest.raises(AssertionError, match="a fault on command"):
        recorder.finish(key)
    assert 3 <= len(recorder.of(key)[0].ids) <= 4


def test_an_engine_that_hangs_makes_no_progress_and_can_be_closed(started):
    recorder = started("--simulated.fault", "stall@1+2", engine="simulated")
    key = recorder.submit(generation(8))
    recorder.wait(lambda: len(recorder.of(key)[0].ids) == 2)
    other = recorder.submit(generation(9))
    recorder.engine.kill()
    recorder.engine.close()
    assert recorder.death is None
    assert recorder.of(other)[0].finish is None


# --- what it is built of -------------------------------------------------------------------------


def test_it_says_that_it_is_simulated_and_needs_no_weights(tmp_path, started):
    (tmp_path / "tokenizer.json").write_text(
        '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []},'
        ' "added_tokens": [{"id": 3, "content": "<end>", "special": true}]}'
    )
    with pytest.raises(EngineError, match="give --context-tokens"):
        build(engine="simulated", model=str(tmp_path))
    context = ["--context-tokens", "500"]
    with pytest.raises(EngineError, match="eos_token_id"):
        build(*context, "--simulated.mean-output-tokens", "9", engine="simulated",
              model=str(tmp_path))  # fmt: skip
    recorder = started(*context, engine="simulated", model=str(tmp_path))
    info = recorder.engine.info
    assert (info.simulated, info.engine, info.context_tokens) == (True, "simulated", 500)
    assert (info.vocabulary_size, info.eos_token_ids) == (4, ())
    (ran,) = recorder.run(generation(0, 1, 2, tokens=50))
    assert (set(ran.ids), ran.finish) == ({0, 1, 2}, Finish.LENGTH)
