"""The adapter's own code on the stand-in: requests, cancelling, failing, dying."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise

import pytest
from tokenwire_worker.engines.port import Finish, Refused, Sampling
from tokenwire_worker.engines.tensorrt_llm.watchdog import LOOP_STUCK_S, Watchdog

from tests.engines.tensorrt_llm.conftest import EOS, LONG, VOCABULARY, chat, generation

# --- requests ------------------------------------------------------------------------------------


def test_each_sequence_is_a_request_of_its_own(started):
    engine = started()
    before = len(engine.stand_in.requests)
    engine.run(generation(sequence_count=3, sampling=Sampling(seed=5)))
    params = [each["params"] for each in engine.stand_in.requests[before:]]
    assert [(each.n, each.seed) for each in params] == [(1, 5), (1, 6), (1, 7)]


def test_cache_salt_lora_and_retention_go_with_the_request(started, tmp_path):
    lora = f"pirate={tmp_path}"
    engine = started("--tensorrt-llm.lora", lora, "--tensorrt-llm.kv-retention")
    assert engine.engine.info.lora_adapters == ("pirate",)
    engine.run(generation(lora_adapter="pirate", cache_salt="tenant", priority=100))
    asked = engine.last_request
    assert asked["cache_salt"] == "tenant"
    assert (asked["lora"].lora_name, asked["lora"].lora_path) == ("pirate", str(tmp_path))
    assert asked["retention"].token_range_retention_configs[0].priority == 100
    engine.run(generation(lora_adapter=""))
    asked = engine.last_request
    assert (asked["cache_salt"], asked["lora"], asked["retention"]) == (None, None, None)


def test_adapters_are_loaded_and_unloaded_while_it_runs(started, tmp_path):
    engine = started("--tensorrt-llm.lora-config.enabled")
    live = engine.engine.lora
    asyncio.run(live.load("law", tmp_path))
    trial = engine.last_request
    assert (trial["lora"].lora_name, trial["params"].max_tokens) == ("law", 1)
    engine.run(generation(lora_adapter="law"))
    assert engine.last_request["lora"] is trial["lora"]
    asyncio.run(live.unload("law"))
    with pytest.raises(Refused, match="does not exist"):
        asyncio.run(live.load("law", tmp_path / "nothing"))
    asyncio.run(live.load("law", tmp_path))
    assert engine.last_request["lora"].lora_int_id > trial["lora"].lora_int_id


def test_speculative_decoding_is_configured_by_its_own_class(started):
    engine = started(
        *("--tensorrt-llm.speculative-config.decoding-type", "NGram"),
        *("--tensorrt-llm.speculative-config.max-draft-len", "4"),
    )
    config = engine.engine._llm.args.speculative_config
    assert (type(config).__name__, config.max_draft_len) == ("NGramDecodingConfig", 4)
    assert engine.engine._llm.args.disable_overlap_scheduler


def test_reused_prompt_tokens_are_told_once(started):
    engine = started()
    engine.run(generation(tokens=100))
    engine.outputs.clear()
    engine.run(generation(tokens=100))
    cached = [each.cached_prompt_tokens for each in engine.outputs]
    assert cached == [96] + [None] * 7
    engine.outputs.clear()
    engine.run(generation(tokens=100, cache_salt="another"))
    assert engine.outputs[0].cached_prompt_tokens == 0


@pytest.mark.parametrize("sampler", ["TRTLLMSampler", "TorchSampler"])
@pytest.mark.parametrize("logprobs", [False, True])
def test_the_models_end_is_the_last_id_with_either_sampler(started, sampler, logprobs):
    engine = started("--tensorrt-llm.sampler-type", sampler)
    (ran,) = engine.run(chat(stop_token_ids=EOS, logprobs=logprobs))
    assert (len(ran.ids), ran.ids[-1], ran.finish) == (5, EOS[0], Finish.STOP)
    assert [each.token_id for each in ran.logprobs] == (ran.ids if logprobs else [])


def test_alternatives_come_with_the_torch_sampler(started):
    engine = started("--tensorrt-llm.sampler-type", "TorchSampler")
    assert engine.engine.info.top_logprobs == 20
    (ran,) = engine.run(generation(logprobs=True, top_logprobs=3))
    for each in ran.logprobs:
        assert len(each.alternatives) == 3
        assert each.alternatives[0].token_id == each.token_id, "greedy"
        logprobs = [other.logprob for other in each.alternatives]
        assert logprobs == sorted(logprobs, reverse=True)


def test_a_stop_kept_from_the_engine_is_aborted_there(started):
    engine = started()
    (whole,) = engine.run(generation(max_tokens=30))
    stop = whole.ids[10]
    asked = generation(max_tokens=LONG, stop_token_ids=(stop,), min_tokens=5)
    (ran,) = engine.run(asked)
    assert ran.ids[-1] == stop
    assert 5 < len(ran.ids) <= 11
    assert len(engine.stand_in.aborts) == 1


def test_steps_hold_all_that_one_message_of_the_engine_brought(started):
    engine = started()
    engine.stand_in.pause()
    keys = [engine.submit(generation(first, max_tokens=20)) for first in range(100, 108)]
    engine.engine.run(_turn())
    engine.stand_in.resume()
    engine.finish(*keys)
    # A loop that is late finds two messages, or more, where there was one.
    assert sum(engine.batches) == 160
    assert all(batch % 8 == 0 for batch in engine.batches)


async def _turn() -> None:
    """Lets the engine's loop come round, so that what was submitted before is with the stand-in."""


def test_a_step_lasts_from_the_end_of_the_one_before_or_of_idleness(started):
    engine = started()
    engine.run(generation())
    engine.times.clear()
    submitted_s = time.monotonic()
    engine.run(generation(200, max_tokens=50))
    assert engine.times[0][0] >= submitted_s, "time with nothing to do is of no step"
    for (began_s, told_s), (next_began_s, _) in pairwise(engine.times):
        assert began_s <= next_began_s <= told_s, "no time between two steps is of neither"


def test_stream_interval_covers_several_steps(started):
    engine = started("--tensorrt-llm.stream-interval", "4")
    (ran,) = engine.run(generation(max_tokens=10))
    assert [len(each) for each in ran.deltas] == [4, 4, 2]


def test_the_engines_own_times_come_with_the_end(started):
    engine = started()
    engine.run(generation())
    *earlier, last = engine.outputs
    assert all(each.times is None for each in earlier)
    assert 0 < last.times.started_s <= last.times.first_token_s < last.times.last_token_s


# --- cancelling ----------------------------------------------------------------------------------


def test_cancelling_aborts_and_the_rest_is_not_told(started):
    engine = started()
    key = engine.submit(generation(max_tokens=LONG))
    engine.wait(lambda: len(engine.of(key)[0].ids) > 3)
    engine.engine.cancel(key)
    engine.engine.cancel(key)
    (ran,) = engine.finish(key)
    assert ran.finish is Finish.CANCELLED
    assert len(engine.stand_in.aborts) == 1


def test_what_the_engine_drops_without_a_word_ends_all_the_same(started, monkeypatch):
    from tokenwire_worker.engines.tensorrt_llm import engine as module

    monkeypatch.setattr(module, "UNHEARD_S", 0.05)
    engine = started("--tensorrt-llm.max-batch-size", "1")
    first = engine.submit(generation(max_tokens=LONG))
    engine.wait(lambda: engine.of(first)[0].ids)
    waiting = engine.submit(generation(200))
    engine.engine.run(_turn())
    engine.engine.cancel(waiting)
    (ran,) = engine.finish(waiting)
    assert (ran.ids, ran.finish) == ([], Finish.CANCELLED)
    assert engine.of(first)[0].finish is None
    engine.engine.cancel(first)
    engine.finish(first)


def test_cancelling_with_log_probabilities_is_no_failure(started):
    """1.2 asserts that there are as many as ids, which does not hold for an aborted request."""
    engine = started("--tensorrt-llm.stream-interval", "50")
    key = engine.submit(generation(max_tokens=LONG, logprobs=True))
    engine.wait(lambda: engine.of(key)[0].ids)
    engine.engine.cancel(key)
    (ran,) = engine.finish(key)
    assert ran.finish is Finish.CANCELLED


def test_cancelling_one_sequence_aborts_its_request_alone(started):
    engine = started()
    key = engine.submit(generation(max_tokens=60, sequence_count=3))
    engine.wait(lambda: all(ran.ids for ran in engine.of(key)))
    engine.engine.cancel(key, 1)
    ran = engine.finish(key)
    assert [each.finish for each in ran] == [Finish.LENGTH, Finish.CANCELLED, Finish.LENGTH]
    assert len(engine.stand_in.aborts) == 1


# --- failing and dying ---------------------------------------------------------------------------


def test_a_request_that_fails_fails_alone(started):
    engine = started()
    other = engine.submit(generation(max_tokens=50))
    key = engine.submit(generation(first=VOCABULARY))
    engine.wait(lambda: key in engine.errors)
    assert engine.errors[key] == "Token ID is out of range"
    assert len(engine.finish(other)[0].ids) == 50


def test_a_sequence_that_fails_takes_its_generation_with_it(started):
    engine = started()
    key = engine.submit(generation(max_tokens=LONG, sequence_count=3))
    engine.wait(lambda: all(ran.ids for ran in engine.of(key)))
    sequence = engine.engine._live[key][1]
    engine.engine.run(_raise_into(sequence))
    engine.wait(lambda: key in engine.errors)
    assert sorted(engine.stand_in.aborts) == [sequence.result.request_id + at for at in (-1, 0, 1)]
    assert engine.engine.load().running_sequences == 0


async def _raise_into(sequence) -> None:
    from tensorrt_llm._results import Response, notify

    sequence.result.aqueue.items.append(Response(error="a fault of this sequence"))
    notify([sequence.result.aqueue])


def test_what_cannot_be_submitted_fails_with_its_reason(started, monkeypatch):
    engine = started()

    def refuse(*_, **__):
        raise ValueError("no such thing")

    monkeypatch.setattr(engine.engine._llm, "generate_async", refuse)
    key = engine.submit(generation())
    engine.wait(lambda: key in engine.errors)
    assert engine.errors[key] == "no such thing"
    assert engine.death is None


def test_a_fatal_error_is_the_engines_death(started):
    engine = started()
    key = engine.submit(generation(max_tokens=LONG))
    engine.wait(lambda: engine.of(key)[0].ids)
    engine.stand_in.die(RuntimeError("CUDA error: out of memory\nat kernel.cu:1"))
    assert engine.wait_for_death() == "CUDA error: out of memory"


@pytest.fixture
def _watched_closely(installed, monkeypatch):
    from tokenwire_worker.engines.tensorrt_llm import watchdog

    monkeypatch.setattr(watchdog, "LOOK_S", 0.02)


@pytest.mark.usefixtures("_watched_closely")
def test_an_executor_that_has_shut_down_is_death(started):
    engine = started()
    engine.stand_in.shutdown()
    assert engine.wait_for_death() == "TensorRT-LLM's executor has shut down"


def test_what_the_adapter_itself_ends_is_no_progress_of_the_engine(started):
    engine = started()
    engine.run(generation())
    engine.stand_in.pause()
    counts = []
    for first in (200, 300):  # statistics of the first run may still come during the first of these
        key = engine.submit(generation(first))
        engine.engine.cancel(key)
        engine.finish(key)
        counts.append(engine.engine.progress())
    assert counts[0] == counts[1] > 0


def test_an_engine_is_dead_whose_event_loop_stands_still():
    healthy, deaths = [True], []
    dog = Watchdog(lambda: healthy[0], deaths.append)
    now_s = dog._turn_s
    assert dog.look(now_s + LOOP_STUCK_S - 1) is None
    assert "blocked its caller" in dog.look(now_s + LOOP_STUCK_S + 1)
    healthy[0] = False
    assert "shut down" in dog.look(now_s)


def test_closing_is_not_death_and_not_held_up(started, monkeypatch):
    from tokenwire_worker.engines.tensorrt_llm import engine as module

    monkeypatch.setattr(module, "SHUTDOWN_S", 0.05)
    engine = started()
    key = engine.submit(generation(max_tokens=LONG))
    engine.wait(lambda: engine.of(key)[0].ids)
    executor, released = engine.stand_in, threading.Event()
    monkeypatch.setattr(engine.engine._llm, "shutdown", released.wait)  # as with a dead process
    engine.engine.close()
    assert engine.of(key)[0].finish is Finish.CANCELLED
    assert engine.death is None
    assert executor.aborts, "what ran was aborted"
    released.set()
    executor.shutdown()
