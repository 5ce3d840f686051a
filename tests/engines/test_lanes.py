"""Forms that are tried at once, by trial processes that do what each form says."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tokenwire_worker.engines.guides import checker as checker_module
from tokenwire_worker.engines.guides import lanes, process, weight
from tokenwire_worker.engines.guides.checker import GuideChecker
from tokenwire_worker.engines.guides.process import TrialProcess
from tokenwire_worker.engines.port import Ability, Busy, Guide, Refused, Untried

WAIT_S = 60.0
"""Bound of every wait: a hang fails instead."""

HEAVY = "{99999}"
"""Makes any form look heavy."""


def form(text: str) -> Guide:
    return Guide(Ability.GUIDED_REGEX, text)


class Lab:
    """A checker on scripted processes, and the folder that holds some of their forms."""

    def __init__(self, folder: Path) -> None:
        self.processes: list[TrialProcess] = []
        self.checker = GuideChecker(self._process)
        self._folder = folder
        self._held = 0

    def _process(self) -> TrialProcess:
        made = TrialProcess("tests.engines.scripted_trials")
        self.processes.append(made)
        return made

    def check(self, text: str) -> asyncio.Task[object]:
        """Has a form tried by a caller of its own."""
        return asyncio.get_running_loop().create_task(self.checker.check(form(text)))

    async def hold(self, mark: str = "") -> Held:
        """Has a form tried that takes until it is let go; returns once it has begun."""
        held = self.held(mark)
        await held.begun()
        return held

    def held(self, mark: str = "") -> Held:
        self._held += 1
        folder = self._folder / str(self._held)
        folder.mkdir()
        return Held(folder, self, mark)

    def pids(self) -> set[int]:
        return {each._process.pid for each in self.processes if each._process is not None}


class Held:
    def __init__(self, folder: Path, lab: Lab, mark: str) -> None:
        self.folder = folder
        self.text = f"hold {folder} {mark}"
        self.task = lab.check(self.text)

    async def begun(self) -> int:
        """Returns the process that tries it, once it does."""
        return (await self.pids(1))[-1]

    async def pids(self, count: int) -> list[int]:
        """Returns the processes that have tried it, once there are so many."""
        async with asyncio.timeout(WAIT_S):
            while True:
                found = [each for each in self.folder.iterdir() if each.name != "go"]
                if len(found) >= count:
                    found.sort(key=lambda each: each.stat().st_mtime_ns)
                    return [int(each.name) for each in found]
                await asyncio.sleep(0.005)

    def let_go(self) -> None:
        (self.folder / "go").touch()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a coroutine with a lab, and closes that after it."""
    monkeypatch.setattr(lanes, "MOMENT_S", 0.05)
    monkeypatch.setattr(lanes, "CPU_S", 0.5)
    monkeypatch.setattr(checker_module, "WAIT_S", WAIT_S)

    @asynccontextmanager
    async def lab() -> AsyncIterator[Lab]:
        made = Lab(tmp_path)
        try:
            yield made
        finally:
            await asyncio.to_thread(made.checker.close)

    def runs(work) -> None:
        async def main() -> None:
            async with asyncio.timeout(WAIT_S), lab() as made:
                await work(made)

        before = threading.active_count()
        asyncio.run(main())
        assert threading.active_count() <= before, "threads are left"

    return runs


async def refusal(task) -> str:
    with pytest.raises(Refused) as refused:
        await task
    return refused.value.description


async def busy(task) -> Busy:
    with pytest.raises(Busy) as refused:
        await task
    return refused.value


async def untried(task) -> str:
    with pytest.raises(Untried) as told:
        await task
    return told.value.description


# --- nobody waits for somebody else's form --------------------------------------------------------


def test_known_forms_are_answered_while_every_process_is_busy(run):
    async def work(lab):
        await lab.check("ok")
        assert await refusal(lab.check("bad luck")) == "luck"
        slow, quick = await lab.hold(HEAVY), await lab.hold()
        await lab.check("ok")
        assert await refusal(lab.check("bad luck")) == "luck"
        assert not slow.task.done()
        assert not quick.task.done()

    run(work)


@pytest.mark.parametrize("looks", ["", HEAVY], ids=["light", "heavy"])
def test_a_new_form_passes_those_that_take_long(run, looks):
    async def work(lab):
        slow = [await lab.hold(looks)]
        slow += [lab.held(f"{number}{looks}") for number in range(5)]
        await lab.check("ok")
        assert not any(each.task.done() for each in slow)
        for each in slow:
            each.let_go()
            await each.task

    run(work)


def test_a_form_has_its_moment_in_cpu_time(run, monkeypatch):
    """The second takes several moments on the clock, and computes nothing."""
    monkeypatch.setattr(lanes, "MOMENT_STRETCH", 1000)

    async def work(lab):
        slow, quick = await lab.hold(HEAVY), await lab.hold()
        looks = threading.Semaphore(0)
        for each in lab.processes:
            monkeypatch.setattr(each, "cpu_s", lambda: looks.release() or 0.0)
        for _ in range(3):
            assert await asyncio.to_thread(looks.acquire, timeout=WAIT_S)
        quick.let_go()
        await quick.task
        assert len(await quick.pids(1)) == 1
        assert not slow.task.done()
        slow.let_go()
        await slow.task

    run(work)


def test_forms_that_look_light_and_are_not_take_turns_in_the_slow_lane(run):
    async def work(lab):
        first = await lab.hold()
        second = await lab.hold()
        await second.pids(1)
        # Its moment is over, and the slow place is the first's: it waits for that, from the start.
        await lab.check("ok")
        first.let_go()
        await first.task
        await second.pids(2)
        second.let_go()
        await second.task

    run(work)


def test_a_full_slow_lane_leaves_the_quick_one_open(run, monkeypatch):
    monkeypatch.setattr(lanes, "SLOW_WAITING", 2)

    async def work(lab):
        slow = [await lab.hold(HEAVY)]
        slow += [lab.held(f"{number}{HEAVY}") for number in range(2)]
        await asyncio.sleep(0)
        refused = await busy(lab.check(f"ok{HEAVY}"))
        assert refused.reason == "GUIDE_QUEUE_FULL"
        assert refused.retry_after_s > 0
        await lab.check("ok")
        # A form that turns out to be slow finds no place there either.
        assert (await busy(lab.held().task)).reason == "GUIDE_QUEUE_FULL"
        for each in slow:
            each.let_go()
            await each.task
        await lab.check(f"ok {HEAVY}")

    run(work)


def test_the_queues_are_bounded_in_characters(run, monkeypatch):
    monkeypatch.setattr(lanes, "WAITING_CHARACTERS", 1000)

    async def work(lab):
        held = await lab.hold("x" * 2000)
        assert (await busy(lab.check("ok"))).reason == "GUIDE_QUEUE_FULL"
        held.let_go()
        await held.task
        await lab.check("ok")

    run(work)


# --- callers that share a form, and callers that leave --------------------------------------------


def test_one_trial_answers_all_who_ask_for_the_form(run):
    async def work(lab):
        held = await lab.hold()
        others = [lab.check(held.text) for _ in range(3)]
        await asyncio.sleep(0)
        held.let_go()
        await asyncio.gather(held.task, *others)
        assert len(await held.pids(1)) == 1

    run(work)


def test_a_caller_that_leaves_takes_nothing_from_one_that_stays(run):
    async def work(lab):
        held = await lab.hold(HEAVY)
        other = lab.check(held.text)
        await asyncio.sleep(0)
        behind = lab.held(f"2{HEAVY}")
        held.task.cancel()
        await asyncio.wait([held.task])
        held.let_go()
        await other
        assert len(await held.pids(1)) == 1
        behind.let_go()
        await behind.task

    run(work)


def test_a_queued_form_that_nobody_waits_for_is_not_tried(run):
    async def work(lab):
        held = await lab.hold(HEAVY)
        behind = lab.held(f"2{HEAVY}")
        await asyncio.sleep(0)
        behind.task.cancel()
        await asyncio.wait([behind.task])
        held.let_go()
        await held.task
        await lab.check(f"ok {HEAVY}")
        assert not list(behind.folder.iterdir())

    run(work)


def test_a_form_that_nobody_waits_for_is_stopped_where_others_wait_for_its_place(run):
    async def work(lab):
        held = await lab.hold(HEAVY)
        behind = lab.held(f"2{HEAVY}")
        await asyncio.sleep(0)
        held.task.cancel()
        await behind.begun()
        behind.let_go()
        await behind.task

    run(work)


def test_what_nobody_waits_for_is_remembered_where_it_costs_nobody_anything(run):
    async def work(lab):
        held = await lab.hold(HEAVY)
        held.task.cancel()
        await asyncio.wait([held.task])
        held.let_go()
        await lab.check(held.text)
        assert len(await held.pids(1)) == 1

    run(work)


def test_a_stopped_form_that_somebody_asks_for_again_is_tried_again(run):
    async def work(lab):
        held = await lab.hold(HEAVY)
        behind = lab.held(f"2{HEAVY}")
        await asyncio.sleep(0)
        held.task.cancel()
        await asyncio.wait([held.task])
        again = lab.check(held.text)
        held.let_go()
        behind.let_go()
        await asyncio.gather(again, behind.task)

    run(work)


# --- processes that are lost ----------------------------------------------------------------------


def test_a_form_that_ends_its_process_is_known_for_it(run):
    async def work(lab):
        assert await refusal(lab.check("crash")) == "is more than the grammar compiler can take"
        slow, quick = await lab.hold(HEAVY), await lab.hold()
        assert await refusal(lab.check("crash")) == "is more than the grammar compiler can take"
        slow.let_go()
        quick.let_go()
        await asyncio.gather(slow.task, quick.task)

    run(work)


@pytest.mark.parametrize("looks", ["", HEAVY], ids=["light", "heavy"])
def test_a_form_is_not_blamed_for_a_process_that_was_killed(run, looks):
    async def work(lab):
        held = await lab.hold(looks)
        os.kill(await held.begun(), signal.SIGKILL)
        assert len(await held.pids(2)) == 2
        held.let_go()
        await held.task

    run(work)


def test_a_form_that_always_loses_its_process_is_untried_and_tried_afresh_later(run):
    async def work(lab):
        for _ in range(2):
            assert await untried(lab.check("leave")) == "its process was lost"

    run(work)


def test_cpu_time_is_bounded_and_remembered(run):
    async def work(lab):
        assert await refusal(lab.check("spin")) == "takes more than 0.5 s of CPU time to compile"
        slow, quick = await lab.hold(HEAVY), await lab.hold()
        assert await refusal(lab.check("spin")) == "takes more than 0.5 s of CPU time to compile"
        assert not slow.task.done()
        assert not quick.task.done()

    run(work)


def test_a_form_is_walked_once_it_compiles(run):
    async def work(lab):
        for _ in range(2):
            assert await refusal(lab.check("walk too far")) == "too far"

    run(work)


def test_a_machine_without_time_says_nothing_of_the_form(run, monkeypatch):
    monkeypatch.setattr(lanes, "WALL_S", 0.5)

    async def work(lab):
        held = lab.held()
        assert await untried(held.task) == "the machine is too busy"
        held.let_go()
        await lab.check(held.text)

    run(work)


def test_a_caller_waits_no_longer_than_its_frontend_and_finds_the_answer_later(run, monkeypatch):
    async def work(lab):
        held = await lab.hold(HEAVY)
        monkeypatch.setattr(checker_module, "WAIT_S", 0.05)
        waits = lab.check(held.text), lab.check(f"ok {HEAVY}")
        for each in waits:
            assert await untried(each) == "the machine is too busy"
        held.task.cancel()
        await asyncio.wait([held.task])
        monkeypatch.setattr(checker_module, "WAIT_S", WAIT_S)
        held.let_go()
        await lab.check(held.text)
        assert len(await held.pids(1)) == 1

    run(work)


def test_closing_tells_everybody_who_waits(run):
    async def work(lab):
        held = [await lab.hold(HEAVY), await lab.hold(), lab.held(HEAVY + "2")]
        await asyncio.sleep(0)
        pids = lab.pids()
        await asyncio.to_thread(lab.checker.close)
        for each in held:
            assert await untried(each.task) == "the worker is being stopped"
        assert await untried(lab.check("ok")) == "the worker is being stopped"
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    run(work)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mib", "most_forms", "most_mib"), [(0, 3, 1000), (16, 1000, 40)])
def test_a_worn_process_is_replaced(run, monkeypatch, tmp_path, mib, most_forms, most_mib):
    monkeypatch.setattr(process, "MOST_FORMS", most_forms)
    monkeypatch.setattr(process, "MOST_GROWTH_BYTES", most_mib * 1024**2)

    async def work(lab):
        for number in range(12):
            verdict = await lab.check(f"keep {mib} {tmp_path} {number}")
            assert verdict.held_bytes >= mib * 1024**2
        assert len(list(tmp_path.iterdir())) >= 4

    run(work)


def test_of_bad_forms_the_one_longest_out_of_use_is_forgotten(run, monkeypatch):
    monkeypatch.setattr(checker_module, "REMEMBERED", 2)

    async def work(lab):
        for text in ("bad a", "bad b", "bad a", "bad c"):
            await refusal(lab.check(text))
        await asyncio.to_thread(lab.checker.close)
        assert await refusal(lab.check("bad a")) == "a"
        assert await refusal(lab.check("bad c")) == "c"
        assert await untried(lab.check("bad b")) == "the worker is being stopped"

    run(work)


# --- looks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "((a{1,200}){1,200}){1,200}",
        "(a{1,300}){1,300}",
        "[a-z]{0,40000}",
        "(a|b){0,30000}c",
        r"(\d\w){1,9000}",
        'root ::= ("a"{1,200} "b"){1,200}',
        '{"type": "string", "pattern": "^(a{1,500}){1,500}$"}',
        "a{99999999999999999999}",
        "a" * 20_000,
        "(" * 5000 + "a{9}" + ")" * 5000 + "{9999}",
        "a" + "{999999999}" * 1400,
    ],
    ids=lambda text: text[:30],
)
def test_heavy_looks(text):
    assert weight.is_heavy(form(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes|no",
        r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}",
        "[a-z]{1,64}@[a-z]{1,255}",
        r"\({9999",
        ")" * 100 + "{5}",
        "{}" * 1000,
        '{"type": "object", "properties": {"a": {"type": "string", "maxLength": 50}}}',
    ],
    ids=lambda text: text[:30],
)
def test_light_looks(text):
    assert not weight.is_heavy(form(text))
