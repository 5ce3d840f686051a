"""Statistics and KV cache events of a running engine."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import pytest
from tokenwire_worker.engines.port import KvCleared, KvRemoved, KvStored

from tests.engines.tensorrt_llm.conftest import generation


def test_the_share_of_the_cache_in_use(started):
    engine = started("--tensorrt-llm.kv-cache-config.max-tokens", "640")
    key = engine.submit(generation(tokens=64, max_tokens=500))
    engine.wait(lambda: len(engine.of(key)[0].ids) > 50)
    load = engine.engine.load()
    assert load.running_sequences == 1
    assert load.kv_cache_usage == pytest.approx(18 / 20)
    engine.engine.cancel(key)
    engine.finish(key)
    assert engine.engine.load().kv_cache_usage == 0


def test_statistics_are_followed_across_silences(started, monkeypatch):
    from tokenwire_worker.engines.tensorrt_llm import feeds

    monkeypatch.setattr(feeds, "SILENCE_S", 0.01)
    engine = started()
    seen = queue.Queue()
    monkeypatch.setattr(engine.engine.meter, "take", seen.put)
    engine.run(generation())
    for number in range(3):
        # No further request says that there is more to come, and the last iteration may have ended.
        engine.stand_in.stats_result._done = True
        engine.stand_in.stats_result.put({"number": number})
        while seen.get(timeout=60).get("number") != number:
            pass


def test_kv_events_are_told_as_the_ports(started):
    engine = started("--tensorrt-llm.warm-up-requests", "0")
    asked = generation(tokens=70, max_tokens=8)
    (ran,) = engine.run(asked)
    engine.wait(lambda: engine.kv_events)
    (stored,) = engine.kv_events
    assert isinstance(stored, KvStored)
    assert stored.parent_hash == 0
    assert len(stored.block_hashes) == 2, "the third is not full"
    assert list(stored.token_ids) == [*asked.prompt, *ran.ids][:64]
    engine.kv_events.clear()
    with engine.stand_in._changed:
        engine.stand_in.cache.drop(stored.block_hashes[1:])
        engine.stand_in.cache.lose_events(5)
    engine.run(generation(tokens=70, max_tokens=40))
    engine.wait(lambda: len(engine.kv_events) == 3)
    removed, cleared, again = engine.kv_events
    assert removed == KvRemoved(list(stored.block_hashes[1:]))
    assert isinstance(cleared, KvCleared)
    assert again.parent_hash == stored.block_hashes[0]


def test_a_fault_of_the_events_is_no_death(started, monkeypatch):
    from tokenwire_worker.engines.tensorrt_llm import feeds

    monkeypatch.setattr(feeds, "RETRY_S", 0.01)
    engine = started("--tensorrt-llm.warm-up-requests", "0")
    engine.run(generation(tokens=40))
    engine.wait(lambda: engine.kv_events)
    engine.stand_in.kv_events_result.put({"no": "event"})
    engine.wait(lambda: KvCleared() in engine.kv_events)
    engine.kv_events.clear()
    engine.run(generation(300, tokens=40))
    engine.wait(lambda: engine.kv_events)
    assert isinstance(engine.kv_events[0], KvStored)


def test_an_engine_that_tells_nothing_serves_all_the_same(started, monkeypatch):
    import tensorrt_llm
    from tokenwire_worker.engines.tensorrt_llm import feeds

    asked = queue.Queue()

    def refuse(*_, **__):
        asked.put(None)
        raise AssertionError("not here")

    monkeypatch.setattr(feeds, "RETRY_S", 0.001)
    monkeypatch.setattr(feeds, "log", SimpleNamespace(warning=lambda *_, **__: None))
    monkeypatch.setattr(tensorrt_llm.LLM, "get_stats_async", refuse)
    monkeypatch.setattr(tensorrt_llm.LLM, "get_kv_cache_events_async", refuse)
    engine = started()
    assert engine.engine.info.kv_blocks == 0
    assert len(engine.run(generation())[0].ids) == 8
    for _ in range(8):
        asked.get(timeout=60)
    assert engine.kv_events == [], "nobody is told to start over for nothing"
    assert engine.death is None
