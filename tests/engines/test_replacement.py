"""The OpenVINO engine's process is replaced when guides have taken as much memory as they may."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

pytest.importorskip("openvino_genai")

from tokenwire_worker.engines.openvino import child as child_module
from tokenwire_worker.engines.openvino import engine as module
from tokenwire_worker.engines.port import Ability, Busy, Finish, Guide, Refused

from tests.engines.conftest import build
from tests.engines.recorder import WAIT_S, Recorder
from tests.engines.test_contract import LONG, generation

GUIDE_MIB = 2

SMALL = ("--openvino.kv-blocks", "256", "--openvino.guide-memory-mib", f"{GUIDE_MIB}")
"""Room for some twelve of the schemas below, and for half as many more until there is another."""

numbers = itertools.count()


def schema() -> Guide:
    """A form that is like no other."""
    number = next(numbers)
    text = {
        "type": "object",
        "properties": {f"x{number}_{i}": {"type": "string", "maxLength": 20} for i in range(8)},
        "required": [f"x{number}_0"],
    }
    return Guide(Ability.GUIDED_JSON_SCHEMA, json.dumps(text))


def held(recorder: Recorder, guide: Guide, **fields):
    return generation(
        guide=guide, stop_token_ids=recorder.engine.info.eos_token_ids, max_tokens=4, **fields
    )


def use(recorder: Recorder, guide: Guide) -> None:
    """Runs a generation that is held to a form."""
    made = held(recorder, guide)
    recorder.check(made)
    (ran,) = recorder.run(made)
    assert ran.finish is not None


def has_room(recorder: Recorder, guide: Guide) -> bool:
    try:
        recorder.check(held(recorder, guide))
    except Busy as refused:
        busy = refused
    else:
        return True
    assert busy.reason == "GUIDE_MEMORY"
    assert busy.retry_after_s > 0
    return False


def fill(recorder: Recorder) -> list[Guide]:
    """Uses new forms until there is no room for more; returns those that there was room for."""
    used: list[Guide] = []
    for _ in range(200):
        guide = schema()
        if not has_room(recorder, guide):
            return used
        use(recorder, guide)
        used.append(guide)
    raise AssertionError("memory for guides has no bound")


def until(holds) -> None:
    ends_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < ends_s, "a hang"
        time.sleep(0.01)


def pid(child) -> int:
    return child._process.pid


def is_gone(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return False


@contextmanager
def stopped(number: int) -> Iterator[None]:
    """Keeps a process from running, so that what it has lasts for as long as a test wants."""
    os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # the test has ended it
            os.kill(number, signal.SIGCONT)


def begin(recorder: Recorder, tokens: int = LONG) -> int:
    """Starts a generation of many tokens, and waits for the first of them."""
    key = recorder.submit(generation(max_tokens=tokens))
    recorder.wait(lambda: bool(recorder.of(key)[0].ids))
    return key


def fill_at_once(recorder: Recorder) -> None:
    """Has the engine meet that its forms have all of their memory."""
    recorder.engine._current.form_bytes = GUIDE_MIB * 1024**2
    recorder.engine._replace_if_full()


@contextmanager
def replaced(recorder: Recorder) -> Iterator[int]:
    """Has another process take over while the first has a generation, which it is kept from ending.

    Yields the generation's key.
    """
    running = begin(recorder)
    with stopped(pid(recorder.engine._current)):
        fill_at_once(recorder)
        until(lambda: recorder.engine._draining)
        yield running


@pytest.fixture(scope="module")
def _small() -> Iterator[Recorder]:
    recorder = Recorder(build(*SMALL))
    recorder.engine.start(recorder)
    yield recorder
    recorder.engine.close()
    assert recorder.death is None


@pytest.fixture
def small(_small, monkeypatch) -> Recorder:
    """A running engine that several tests share, one process of which is there."""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    engine = _small.engine
    until(lambda: not engine._coming and not engine._draining)
    engine._retry_s = 0.0
    assert _small.death is None, "an earlier test has ended the engine"
    return _small


def test_another_process_takes_over_and_nothing_of_the_first_is_lost(small):
    first = pid(small.engine._current)
    known = schema()
    use(small, known)
    running = begin(small, 500)
    with stopped(first):
        while not small.engine._coming and pid(small.engine._current) == first:
            assert has_room(small, schema())
        until(lambda: pid(small.engine._current) != first)
        assert not small.of(running)[0].finish, "it was replaced while it had work"
        use(small, known)
        use(small, schema())
    assert small.finish(running)[0].finish is Finish.LENGTH
    assert len(small.of(running)[0].ids) == 500
    until(lambda: not small.engine._draining)
    until(lambda: is_gone(first))
    assert small.death is None


def test_commands_that_the_process_does_not_take_wait_and_lose_nothing(small):
    """They are more than its socket holds."""
    with stopped(pid(small.engine._current)):
        asked = [small.submit(generation(seed, tokens=1500)) for seed in range(150)]
        for key in asked:
            small.engine.cancel(key)
        last = small.submit(generation())
    assert {ran.finish for ran in small.finish(*asked)} == {Finish.CANCELLED}
    assert len(small.finish(last)[0].ids) == 12


def test_a_cancel_reaches_a_generation_of_the_first_process(small):
    with replaced(small) as running:
        small.engine.cancel(running)
    assert small.finish(running)[0].finish is Finish.CANCELLED
    until(lambda: not small.engine._draining)


def test_known_forms_go_on_while_there_is_no_room_for_new_ones(small, monkeypatch):
    first = pid(small.engine._current)
    with monkeypatch.context() as patched:
        patched.setattr(child_module, "PROCESS", "tests")  # has nothing to run
        used = fill(small)
        assert 4 <= len(used) <= 40
        assert small.engine._current.form_bytes <= 1.5 * GUIDE_MIB * 1024**2
        for guide in used:
            use(small, guide)
        assert pid(small.engine._current) == first
    until(lambda: has_room(small, schema()))
    assert pid(small.engine._current) != first
    use(small, schema())


def test_who_asks_for_a_form_of_the_first_process_after_it_was_replaced(small):
    """A generation that was checked there, and is submitted when another has taken over."""
    made = held(small, schema())
    small.check(made)
    first = pid(small.engine._current)
    fill_at_once(small)
    until(lambda: pid(small.engine._current) != first)
    assert small.run(made)[0].finish is not None


def test_a_form_of_more_memory_than_all_may_have_is_refused(small):
    wide = json.dumps({"enum": [f"{number:032d}" for number in range(5_000)]})
    with pytest.raises(Refused) as refused:
        small.check(held(small, Guide(Ability.GUIDED_JSON_SCHEMA, wide)))
    assert refused.value.field == "guide.json_schema"
    assert "MiB" in refused.value.description


@pytest.mark.parametrize("text", ["never tried", "(("])
def test_a_guide_that_was_not_found_good_never_reaches_the_compiler(small, text):
    guide = Guide(Ability.GUIDED_REGEX, text)
    if text == "((":
        with pytest.raises(Refused):
            small.check(held(small, guide))
    key = small.submit(held(small, guide))
    small.wait(lambda: key in small.errors)
    assert small.errors[key] == "its guide was not tried"
    assert small.run(generation(max_tokens=2))[0].finish is Finish.LENGTH


def test_generations_wait_for_their_form_and_hold_up_nobody(small):
    small.engine._guide_bytes, before = 2**30, small.engine._guide_bytes
    try:
        heavy = Guide(Ability.GUIDED_REGEX, ".{0,5000}")
        made = held(small, heavy, sequence_count=2)
        small.check(made)
        waiting = small.submit(made)
        (ran,) = small.run(generation(max_tokens=1))
        assert ran.finish is Finish.LENGTH
        assert all(each.finish is not None for each in small.finish(waiting))
        # Where nothing else runs either.
        again = held(small, Guide(Ability.GUIDED_REGEX, ".{0,5001}"))
        small.check(again)
        cancelled = small.submit(again)
        small.engine.cancel(cancelled)
        assert small.finish(cancelled)[0].finish is not None
    finally:
        small.engine._guide_bytes = before


# --- engines that end, or that replace in turn ---------------------------------------------------


def test_without_memory_for_two_it_is_replaced_when_nothing_runs(started):
    recorder = started(*SMALL, "--openvino.replace-when-idle")
    first = pid(recorder.engine._current)
    running = begin(recorder, 500)
    with stopped(first):
        fill_at_once(recorder)
        assert has_room(recorder, schema()), "up to the hard bound"
    assert pid(recorder.engine._current) == first
    assert not recorder.engine._draining
    recorder.finish(running)
    until(lambda: pid(recorder.engine._current) != first)
    # What comes while the model loads waits for it.
    (ran,) = recorder.run(generation(max_tokens=3))
    assert len(ran.ids) == 3
    assert is_gone(first)
    use(recorder, schema())


@pytest.mark.parametrize("which", ["_current", "_draining"])
def test_the_loss_of_either_process_is_told(started, which):
    recorder = started(*SMALL)
    with replaced(recorder):
        victim = recorder.engine._current if which == "_current" else recorder.engine._draining[0]
        os.kill(pid(victim), signal.SIGKILL)
        until(lambda: recorder.death is not None)
    assert recorder.death == "its process was ended by SIGKILL"


@pytest.mark.parametrize("in_turn", [False, True], ids=["beside", "in turn"])
def test_closing_does_not_wait_for_a_process_that_loads(started, monkeypatch, in_turn):
    arguments = ["--openvino.replace-when-idle"] if in_turn else []
    recorder = started(*SMALL, *arguments)
    monkeypatch.setattr(child_module, "PROCESS", "tests.engines.endless_load")
    fill_at_once(recorder)
    until(lambda: recorder.engine._coming)
    loading = pid(recorder.engine._coming)
    recorder.engine.close()
    assert is_gone(loading)
    assert recorder.death is None


def test_a_process_of_which_one_hangs_makes_no_progress(started):
    """The other's steps do not hide it."""
    recorder = started(*SMALL)
    with replaced(recorder):
        recorder.run(generation(max_tokens=5))
        before = recorder.engine.progress()
        recorder.run(generation(max_tokens=20))
        assert recorder.engine.progress() <= before + 1
        recorder.engine.kill()
        until(lambda: recorder.death is not None)
