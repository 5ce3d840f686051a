"""How generations and engines end, on the stand-in: cancelling, failing, dying."""

import pytest
from tokenwire_worker.engines.port import (
    Finish,
    Generation,
)

from tests.engines.vllm.heard import GREEDY, WAIT_S, llm


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
