"""The dispatcher on an engine that does what it is told: ends in any order, and odd outputs."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import Any

import pytest
from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.tasks import Supervisor
from tokenwire_worker.core.generations import Completion, Ending, Reason
from tokenwire_worker.core.request import GenerationRequest, TokenIds
from tokenwire_worker.core.stall import StallClock
from tokenwire_worker.dispatcher import Dispatcher
from tokenwire_worker.engines.port import (
    Ability,
    Columns,
    Finish,
    Guide,
    KvCleared,
    Output,
    Sampling,
    Step,
    TokenLogprob,
)

from tests.worker.scripted_engine import PLACES, ScriptedEngine, heard
from tests.worker.worker_here import NOTHING, parts, until


class Caller:
    """A sink that keeps what it hears, and checks the order of it."""

    def __init__(self) -> None:
        self.ids: dict[int, list[int]] = {}
        self.endings: dict[int, Ending] = {}
        self.completion: Completion | None = None
        self.error: ServiceError | None = None
        self.is_accepted = False
        self.raises: Exception | None = None
        """What it raises when it is told of tokens."""

    @property
    def over(self) -> bool:
        return self.completion is not None or self.error is not None

    def accepted(self, _handle: int, _request_id: str) -> None:
        assert not self.is_accepted
        self.is_accepted = True

    def tokens(self, _handle: int, sequence: int, ids: list[int], _logprobs: Any) -> None:
        assert self.is_accepted
        assert not self.over
        assert sequence not in self.endings
        if self.raises is not None:
            raise self.raises
        self.ids.setdefault(sequence, []).extend(ids)

    def columns(
        self, handles: list[int], sequences: list[int], counts: list[int], token_ids: list[int]
    ) -> None:
        ids = iter(token_ids)
        for handle, sequence, count in zip(handles, sequences, counts, strict=True):
            self.tokens(handle, sequence, list(itertools.islice(ids, count)), None)
        assert next(ids, None) is None, "more ids than counted"

    def ended(self, _handle: int, sequence: int, ending: Ending) -> None:
        assert not self.over
        assert sequence not in self.endings
        self.endings[sequence] = ending

    def completed(self, _handle: int, completion: Completion) -> None:
        assert not self.over
        self.completion = completion

    def failed(self, _handle: int, error: ServiceError) -> None:
        assert not self.over
        self.error = error

    @property
    def reasons(self) -> set[Reason]:
        return {ending.reason for ending in self.endings.values()}


class Rig:
    """A dispatcher on a scripted engine."""

    def __init__(self, dispatcher: Dispatcher, engine: ScriptedEngine) -> None:
        self.dispatcher, self.engine = dispatcher, engine

    def submit(self, **fields: Any) -> tuple[int, Caller]:
        """Submits a generation; returns its number and its caller."""
        asked = GenerationRequest(TokenIds.of([5, 6, 7]), **{"max_tokens": 50, **fields})
        caller = Caller()
        key = self.dispatcher.submit(
            asked,
            self.dispatcher.validated(asked),
            caller,
            handle=1,
            received_s=asyncio.get_running_loop().time(),
            parent=None,
        )
        return key, caller

    def fill(self) -> list[tuple[int, Caller]]:
        """Takes every place in the engine."""
        return [self.submit() for _ in range(PLACES)]

    @property
    def held(self):
        return self.dispatcher.held()


@pytest.fixture
async def rig():
    engine = ScriptedEngine()
    dispatcher, _ = parts(engine)
    async with Supervisor() as supervisor:
        dispatcher.start(supervisor)
        yield Rig(dispatcher, engine)


# --- every order of ends -------------------------------------------------------------------------

ENDS = ("cancel", "abandon", "budget", "finish", "error", "sink", "death")


async def end(rig: Rig, how: str, key: int, caller: Caller) -> None:
    """Ends a generation in one of the ways, whatever has ended it before."""
    dispatcher, engine = rig.dispatcher, rig.engine
    if how == "cancel":
        dispatcher.cancel(key)
    elif how == "abandon":
        dispatcher.abandon(key)
    elif how == "budget":
        dispatcher._on_budget_spent(key)
    elif how == "finish":
        sequences = range(2 if key in engine.running else 1)
        outputs = [Output(key, each, [9], Finish.LENGTH) for each in sequences]
        engine._hear().on_step(Step(outputs))
    elif how == "error":
        engine._hear().on_step(Step([Output(key, 0, [], error="no room")]))
    elif how == "sink":
        caller.raises = RuntimeError("odd")
        engine._hear().on_step(Step([Output(key, 0, [9])]))
    else:
        engine._hear().on_death("out of memory")


@pytest.mark.parametrize("waits", [False, True], ids=["runs", "waits"])
@pytest.mark.parametrize("sequences", [1, 2])
async def test_ends_in_every_order_within_one_turn_leave_nothing(waits, sequences):
    for order in itertools.permutations(ENDS, 3):
        engine = ScriptedEngine()
        dispatcher, _ = parts(engine)
        async with Supervisor() as supervisor:
            dispatcher.start(supervisor)
            rig = Rig(dispatcher, engine)
            others = rig.fill() if waits else []
            key, caller = rig.submit(time_budget_s=1000.0, sequence_count=sequences)
            for how in order:
                await end(rig, how, key, caller)
            await heard()
            assert caller.over or "abandon" in order, order
            for other, _ in others:
                dispatcher.cancel(other)
            await engine.confirm()
            assert rig.held == NOTHING, order


async def test_a_budget_that_ends_as_the_engine_does_is_told_once(rig):
    key, caller = rig.submit(time_budget_s=1000.0)
    assert rig.held.timers == 1
    await rig.engine.finish(key, 8)
    rig.dispatcher._on_budget_spent(key)
    assert caller.reasons == {Reason.LENGTH}
    assert rig.held == NOTHING


async def test_places_are_held_until_the_engine_confirms(rig):
    key, caller = rig.submit()
    rig.dispatcher.cancel(key)
    assert caller.completion is not None
    assert (rig.held.live, rig.held.running_sequences) == (0, 1)
    await rig.engine.confirm()
    assert rig.held == NOTHING


async def test_what_waited_goes_on_when_a_place_is_given_back(rig):
    running = rig.fill()
    waiting, _ = rig.submit()
    assert waiting not in rig.engine.running
    await rig.engine.finish(running[0][0], 8)
    assert waiting in rig.engine.running


async def test_a_sequence_cancelled_while_it_waited_is_cancelled_in_the_engine(rig):
    running = rig.fill()
    waiting, caller = rig.submit(sequence_count=2)
    rig.dispatcher.cancel(waiting, [1])
    assert caller.reasons == {Reason.CANCELLED}
    for key, _ in running[:2]:
        await rig.engine.finish(key, 8)
    assert rig.engine.cancels == [(waiting, 1)]


async def test_a_spent_budget_never_reaches_the_engine(rig):
    key, caller = rig.submit(time_budget_s=-1.0)
    assert key not in rig.engine.running
    assert caller.reasons == {Reason.TIME_BUDGET}
    assert rig.held == NOTHING


# --- what an engine may bring --------------------------------------------------------------------


async def test_an_exception_over_one_output_loses_no_other(rig, lines):
    (bad, bad_caller), (good, good_caller) = rig.submit(), rig.submit()
    bad_caller.raises = ValueError("odd ids")
    await rig.engine.step(Output(bad, 0, [1]), Output(good, 0, [2]), Output(good, 0, [3]))
    assert good_caller.ids == {0: [2, 3]}
    assert (bad_caller.error.code, bad_caller.error.reason) == (Code.INTERNAL, "INTERNAL_FAULT")
    (line,) = [line for line in lines if line["event"] == "generation_fault"]
    assert line["trace_id"] in bad_caller.error.message
    assert line["exc_info"] is bad_caller.raises
    assert rig.engine.cancels == [(bad, None)], "the engine has it no longer"


async def test_a_fault_with_the_last_output_gives_the_place_back(rig):
    key, caller = rig.submit()
    caller.raises = ValueError("odd ids")
    await rig.engine.tokens(key, 1, finish=Finish.LENGTH)
    assert caller.error.reason == "INTERNAL_FAULT"
    assert rig.held == NOTHING


@pytest.mark.parametrize(
    "odd",
    [
        Output(99, 0, [1]),
        Output(99, 0, [], Finish.STOP),
        Output(99, 0, [], error="who?"),
        Output(1, 7, [1]),
        Output(1, 7, [], Finish.LENGTH),
        Output(1, -1, [], Finish.LENGTH),
        Output(1, 0, []),
    ],
    ids=lambda output: f"{output.key}-{output.sequence}-{output.finish}",
)
async def test_output_of_what_is_not_there_is_passed_over(rig, odd):
    key, caller = rig.submit()
    await rig.engine.step(odd)
    await rig.engine.finish(key, 4)
    assert caller.ids == {0: [4]}
    assert caller.reasons == {Reason.LENGTH}
    assert rig.held == NOTHING


@pytest.mark.parametrize("finish", ["gone", -1, 3.5])
async def test_an_end_that_no_engine_knows_fails_that_generation(rig, lines, finish):
    key, caller = rig.submit()
    await rig.engine.tokens(key, 1, finish=finish)
    assert caller.error.reason == "INTERNAL_FAULT"
    assert rig.held == NOTHING


async def test_columns_go_to_their_callers_and_what_is_not_there_is_passed_over(rig):
    (one, first), (two, second) = rig.submit(sequence_count=2), rig.submit()
    await rig.engine.columns((one, 1, [1, 2]), (99, 0, [3]), (two, 0, [4]), (one, 0, [5]))
    await rig.engine.step(Output(one, 0, [6], Finish.LENGTH))
    await rig.engine.columns((one, 0, [7]), (two, 3, [8]), (two, 0, [9, 10]))
    await rig.engine.finish(two, 11)
    rig.dispatcher.cancel(one)
    await rig.engine.columns((one, 1, [12]))
    assert (first.ids, second.ids) == ({1: [1, 2], 0: [5, 6]}, {0: [4, 9, 10, 11]})
    assert first.completion.completion_tokens == 4
    assert second.completion.completion_tokens == 4
    assert second.completion.decode_s is not None
    assert rig.dispatcher.load().generated_tokens == 8


@pytest.mark.parametrize("counts", [[1, 1], ["x"], [None]])
async def test_columns_that_do_not_fit_together_fail_what_they_name(rig, lines, counts):
    (odd, failed), (good, caller) = rig.submit(), rig.submit()
    rig.engine._hear().on_step(Step(columns=Columns([odd], [0], counts, [5])))
    await heard()
    assert failed.error.reason == "INTERNAL_FAULT"
    await rig.engine.finish(good, 7)
    assert caller.ids == {0: [7]}


async def test_output_after_the_end_is_passed_over(rig):
    key, caller = rig.submit(sequence_count=2)
    await rig.engine.tokens(key, 1, finish=Finish.LENGTH)
    await rig.engine.tokens(key, 2)
    await rig.engine.tokens(key, 3, finish=Finish.LENGTH)
    await rig.engine.tokens(key, 4, sequence=1, finish=Finish.LENGTH)
    await rig.engine.tokens(key, 5, sequence=1)
    assert caller.ids == {0: [1], 1: [4]}
    assert caller.completion.completion_tokens == 2
    assert rig.held == NOTHING


async def test_an_engine_that_refuses_to_take_one_up_fails_that_one(rig, lines):
    rig.engine.raises = RuntimeError("no")
    _, refused = rig.submit()
    assert refused.error.reason == "INTERNAL_FAULT"
    assert rig.held == NOTHING
    rig.engine.raises = None
    key, caller = rig.submit()
    await rig.engine.finish(key, 3)
    assert caller.completion is not None


async def test_refusals_while_the_queue_moves_up_reach_those_behind(rig, lines):
    running = rig.fill()
    waiting = [rig.submit() for _ in range(3)]
    rig.engine.raises = RuntimeError("no")
    await rig.engine.finish(running[0][0], 8)
    assert [caller.error.reason for _, caller in waiting] == ["INTERNAL_FAULT"] * 3
    assert rig.held.waiting_requests == 0


async def test_an_engine_that_cannot_cancel_still_ends_it_for_the_caller(rig, lines):
    key, caller = rig.submit()
    rig.engine.raises = RuntimeError("no")
    rig.dispatcher.cancel(key)
    assert caller.reasons == {Reason.CANCELLED}
    await rig.engine.finish(key, 8)
    assert rig.held == NOTHING


async def test_an_error_of_a_generation_that_waits_takes_it_out_of_the_queue(rig):
    rig.fill()
    waiting, caller = rig.submit()
    await rig.engine.step(Output(waiting, 0, [], error="no room"))
    assert caller.error.reason == "ENGINE_FAILED"
    assert rig.held.waiting_requests == 0


async def test_death_fails_what_runs_and_what_waits_and_what_comes(rig):
    callers = [caller for _, caller in [*rig.fill(), rig.submit()]]
    await rig.engine.die()
    assert {caller.error.reason for caller in callers} == {"ENGINE_DIED"}
    with pytest.raises(ServiceError, match="out of memory"):
        rig.submit()
    assert rig.held == NOTHING
    assert rig.dispatcher.over.is_set()


async def test_odd_kv_events_are_a_lost_count_and_no_fault_of_the_others(rig, lines):
    await rig.engine.publish("no event")
    await rig.engine.publish(KvCleared())
    watch = rig.dispatcher.kv_events.watch(1)
    events = [await anext(watch) for _ in range(2)]
    await watch.aclose()
    assert [event for _, [event] in events] == [KvCleared(), KvCleared()]
    assert [line["event"] for line in lines] == ["engine_event_fault"]


# --- an engine that hangs ------------------------------------------------------------------------


async def test_a_stall_fails_everything_kills_the_engine_and_is_logged(lines):
    engine = ScriptedEngine()
    dispatcher, _ = parts(engine, stall_s=0.05)
    async with Supervisor() as supervisor:
        dispatcher.start(supervisor)
        rig = Rig(dispatcher, engine)
        callers = [caller for _, caller in [*rig.fill(), rig.submit(request_id="five")]]
        await until(dispatcher.died.done)
    assert {caller.error.reason for caller in callers} == {"ENGINE_STALLED"}
    assert {caller.error.code for caller in callers} == {Code.UNAVAILABLE}
    assert engine.killed
    (line,) = [line for line in lines if line["event"] == "engine_stalled"]
    assert (line["sequences"], line["generations"], line["waiting_requests"]) == (PLACES, PLACES, 1)
    assert len(line["request_ids"]) == PLACES
    assert rig.held == NOTHING


def stalled_after(looks: list[tuple[int, bool]], stall_s: float = 10.0) -> int | None:
    """Looks once a second; returns the number of the look that found a stall."""
    clock = StallClock(stall_s, look_s=1.0)
    for at, (progress, busy) in enumerate(looks):
        if clock.look(progress, busy=busy, now_s=float(at)):
            return at
    return None


def test_an_idle_engine_never_stalls():
    assert stalled_after([(0, False)] * 1000) is None


def test_a_busy_engine_stalls_when_the_time_is_over():
    assert stalled_after([(0, True)] * 100) == 10


def test_progress_starts_the_time_again():
    assert stalled_after([(at // 9, True) for at in range(200)]) is None


def test_callers_that_give_up_do_not_hide_a_stall():
    looks = [(0, at % 4 != 3) for at in range(200)]
    assert stalled_after(looks) is not None


def test_time_in_which_the_worker_was_suspended_is_not_counted():
    clock = StallClock(10.0, look_s=1.0)
    assert not clock.look(0, busy=True, now_s=0.0)
    assert not clock.look(0, busy=True, now_s=500.0)
    assert not clock.look(0, busy=True, now_s=501.0)


# --- what reaches the engine ---------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1e-4, 1e-6, 1e-30, 1e-40, 1e-44])
async def test_tiny_temperatures_are_greedy_on_every_engine(rig, temperature):
    key, _ = rig.submit(sampling=Sampling(temperature=temperature, top_p=0.5))
    assert rig.engine.running[key].sampling.temperature == 0


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 0.01, 2.0])
async def test_other_temperatures_are_as_asked(rig, temperature):
    key, _ = rig.submit(sampling=Sampling(temperature=temperature))
    assert rig.engine.running[key].sampling.temperature == temperature


async def test_odd_log_probabilities_fail_one_generation(rig, lines):
    key, caller = rig.submit(logprobs=True)
    await rig.engine.tokens(key, 1, logprobs=[TokenLogprob(1, math.nan)])
    assert caller.error is None
    await rig.engine.finish(key, 2)
    assert caller.completion is not None


# --- timers that fire early ----------------------------------------------------------------------


async def test_a_budget_ends_no_sooner_than_it_says(rig, early_timers):
    rig.fill()
    _, caller = rig.submit(time_budget_s=0.02)
    await until(lambda: caller.over)
    assert caller.reasons == {Reason.TIME_BUDGET}
    assert caller.completion.queue_s >= 0.02
    assert not rig.held.timers


async def test_a_guide_that_is_not_tried_in_time_never_reaches_the_engine(rig, early_timers):
    guide = Guide(Ability.GUIDED_REGEX, "a{9}")
    asked = GenerationRequest(TokenIds.of([5]), max_tokens=5, guide=guide, time_budget_s=0.02)
    generation = rig.dispatcher.validated(asked)
    received_s = asyncio.get_running_loop().time()
    await rig.dispatcher.try_guide(asked, generation, received_s)
    caller = Caller()
    rig.dispatcher.submit(asked, generation, caller, handle=1, received_s=received_s, parent=None)
    assert caller.reasons == {Reason.TIME_BUDGET}
    assert not rig.engine.running
