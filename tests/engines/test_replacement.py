"""The OpenVINO engine's process is replaced when guides have taken as much memory as they may."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time

import pytest

pytest.importorskip("openvino_genai")

from tokenwire_worker.engines.openvino import child as child_module
from tokenwire_worker.engines.openvino import engine as module
from tokenwire_worker.engines.port import Ability, Busy, Finish, Guide, Refused

from tests.engines.recorder import WAIT_S, Recorder
from tests.engines.test_contract import LONG, generation

SMALL = ("--openvino.kv-blocks", "256", "--openvino.guide-memory-mib", "2")
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


def test_another_process_takes_over_and_nothing_of_the_first_is_lost(started):
    recorder = started(*SMALL)
    first = pid(recorder.engine._current)
    running = recorder.submit(generation(max_tokens=LONG))
    known = schema()
    use(recorder, known)
    while pid(recorder.engine._current) == first:
        if not has_room(recorder, schema()):  # the other still loads
            time.sleep(0.05)
    assert not recorder.of(running)[0].finish, "it was replaced while it had work"
    use(recorder, known)
    use(recorder, schema())
    assert recorder.finish(running)[0].finish is Finish.LENGTH
    assert len(recorder.of(running)[0].ids) == LONG
    until(lambda: not recorder.engine._draining)
    until(lambda: is_gone(first))
    assert recorder.death is None


def test_a_cancel_reaches_a_generation_of_the_first_process(started):
    recorder = started(*SMALL)
    running = recorder.submit(generation(max_tokens=LONG))
    recorder.engine._current.form_bytes = 2 * 1024**2
    recorder.check(held(recorder, schema()))
    until(lambda: recorder.engine._draining)
    recorder.engine.cancel(running)
    assert recorder.finish(running)[0].finish is Finish.CANCELLED
    until(lambda: not recorder.engine._draining)


def test_known_forms_go_on_while_there_is_no_room_for_new_ones(started, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    recorder = started(*SMALL)
    first = pid(recorder.engine._current)
    process = child_module.PROCESS
    monkeypatch.setattr(child_module, "PROCESS", "tests")  # has nothing to run
    used = fill(recorder)
    assert 4 <= len(used) <= 40
    assert recorder.engine._current.form_bytes <= 3 * 1024**2
    for guide in used:
        use(recorder, guide)
    assert pid(recorder.engine._current) == first
    monkeypatch.setattr(child_module, "PROCESS", process)
    until(lambda: has_room(recorder, schema()))
    assert pid(recorder.engine._current) != first
    use(recorder, schema())


def test_without_memory_for_two_it_is_replaced_when_nothing_runs(started):
    recorder = started(*SMALL, "--openvino.replace-when-idle")
    first = pid(recorder.engine._current)
    running = recorder.submit(generation(max_tokens=LONG))
    fill(recorder)
    assert pid(recorder.engine._current) == first
    assert not recorder.engine._draining
    recorder.finish(running)
    until(lambda: pid(recorder.engine._current) != first)
    # What comes while the model loads waits for it.
    (ran,) = recorder.run(generation(max_tokens=3))
    assert len(ran.ids) == 3
    assert is_gone(first)
    use(recorder, schema())


def test_a_form_of_more_memory_than_all_may_have_is_refused(started):
    recorder = started(*SMALL)
    wide = json.dumps({"enum": [f"{number:032d}" for number in range(20_000)]})
    with pytest.raises(Refused) as refused:
        recorder.check(held(recorder, Guide(Ability.GUIDED_JSON_SCHEMA, wide)))
    assert refused.value.field == "guide.json_schema"
    assert "MiB" in refused.value.description


@pytest.mark.parametrize("which", ["_current", "_draining"])
def test_the_loss_of_either_process_is_told(started, which):
    recorder = started(*SMALL)
    recorder.submit(generation(max_tokens=LONG))
    recorder.engine._current.form_bytes = 2 * 1024**2
    recorder.check(held(recorder, schema()))
    until(lambda: recorder.engine._draining)
    victim = recorder.engine._current if which == "_current" else recorder.engine._draining[0]
    os.kill(pid(victim), signal.SIGKILL)
    until(lambda: recorder.death is not None)
    assert recorder.death == "its process was ended by SIGKILL"


@pytest.mark.parametrize("in_turn", [False, True], ids=["beside", "in turn"])
def test_closing_does_not_wait_for_a_process_that_loads(started, monkeypatch, in_turn):
    arguments = ["--openvino.replace-when-idle"] if in_turn else []
    recorder = started(*SMALL, *arguments)
    monkeypatch.setattr(child_module, "PROCESS", "tests.engines.endless_load")
    recorder.engine._current.form_bytes = 2 * 1024**2
    recorder.check(held(recorder, schema()))
    until(lambda: recorder.engine._coming)
    loading = pid(recorder.engine._coming)
    recorder.engine.close()
    assert is_gone(loading)
    assert recorder.death is None


def test_a_process_of_which_one_hangs_makes_no_progress(started):
    """The other's steps do not hide it."""
    recorder = started(*SMALL)
    for _ in range(2):
        recorder.submit(generation(max_tokens=LONG))
    recorder.engine._current.form_bytes = 2 * 1024**2
    recorder.check(held(recorder, schema()))
    until(lambda: recorder.engine._draining)
    stuck = pid(recorder.engine._draining[0])
    os.kill(stuck, signal.SIGSTOP)
    recorder.run(generation(max_tokens=5))
    before = recorder.engine.progress()
    recorder.run(generation(max_tokens=20))
    assert recorder.engine.progress() <= before + 1
    recorder.engine.kill()
    until(lambda: recorder.death is not None)


def test_generations_wait_for_their_form_and_hold_up_nobody(started):
    recorder = started("--openvino.kv-blocks", "256")
    heavy = Guide(Ability.GUIDED_REGEX, ".{0,5000}")
    made = held(recorder, heavy, sequence_count=2)
    recorder.check(made)
    waiting = recorder.submit(made)
    (ran,) = recorder.run(generation(max_tokens=1))
    assert ran.finish is Finish.LENGTH
    assert all(each.finish is not None for each in recorder.finish(waiting))
    # Where nothing else runs either.
    again = held(recorder, Guide(Ability.GUIDED_REGEX, ".{0,5001}"))
    recorder.check(again)
    cancelled = recorder.submit(again)
    recorder.engine.cancel(cancelled)
    assert recorder.finish(cancelled)[0].finish is not None


def test_who_asks_for_a_form_of_the_first_process_after_it_was_replaced(started):
    """A generation that was checked there, and is submitted when another has taken over."""
    recorder = started(*SMALL)
    made = held(recorder, schema())
    recorder.check(made)
    recorder.engine._current.form_bytes = 2 * 1024**2
    first = pid(recorder.engine._current)
    asyncio.run(recorder.engine.check(held(recorder, schema())))
    until(lambda: pid(recorder.engine._current) != first)
    assert recorder.run(made)[0].finish is not None


@pytest.mark.parametrize("text", ["never tried", "(("])
def test_a_guide_that_was_not_found_good_never_reaches_the_compiler(started, text):
    recorder = started(*SMALL)
    guide = Guide(Ability.GUIDED_REGEX, text)
    if text == "((":
        with pytest.raises(Refused):
            recorder.check(held(recorder, guide))
    key = recorder.submit(held(recorder, guide))
    recorder.wait(lambda: key in recorder.errors)
    assert recorder.errors[key] == "its guide was not tried"
    assert recorder.run(generation(max_tokens=2))[0].finish is Finish.LENGTH
