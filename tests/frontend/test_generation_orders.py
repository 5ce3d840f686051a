"""Whatever ends a generation, and whatever else comes in the same turn of the event loop, in every
order and at every stage: one outcome, and nothing of it is left."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog
from tokenwire_frontend import errors
from tokenwire_frontend.core.log import Finish
from tokenwire_service.errors import ServiceError

from tests.frontend.generations import Case

LENGTHS = (1, 2, 3)
"""So many events meet in one turn."""


def worker(say: Callable[[Any], None]) -> Callable[[Case], None]:
    """Returns what the worker that has the generation says, if one has it."""

    def event(case: Case) -> None:
        for link in case.pool.links:
            say(link)

    return event


def of_generation(do: Callable[[Any], None]) -> Callable[[Case], None]:
    def event(case: Case) -> None:
        if case.generation is not None:
            do(case.generation)

    return event


EVENTS: dict[str, Callable[[Case], object]] = {
    "the worker accepts": worker(lambda link: link.accept()),
    "the worker refuses or fails": worker(lambda link: link.refuse()),
    "tokens come": worker(lambda link: link.tokens()),
    "the worker ends it": worker(lambda link: link.complete()),
    "the worker's time is over": worker(lambda link: link.complete(Finish.TIME_BUDGET)),
    "the link dies": worker(lambda link: link.die()),
    "the client cancels": lambda case: case.reader.cancel(),
    "the client hangs up": lambda case: case.task.cancel(),
    "the budget's timer fires": of_generation(lambda each: each.end(Finish.TIME_BUDGET)),
    "the drain's grace is over": of_generation(
        lambda each: each.fail(errors.grace_over(), "drain")
    ),
    "the tokenizer is ready": lambda case: case.tokenizers.gate.set(),
}


async def begun(case: Case) -> None:
    await case.turn()
    assert case.tokenizers.held


async def submitted(case: Case) -> None:
    await begun(case)
    case.tokenizers.gate.set()
    await case.turn()
    assert case.pool.links[0].live


async def accepted(case: Case) -> None:
    await submitted(case)
    case.pool.links[0].accept()
    await case.turn()


async def running(case: Case) -> None:
    await accepted(case)
    case.pool.links[0].tokens()
    await case.turn()
    assert case.ids


STAGES = (begun, submitted, accepted, running)


async def settle(case: Case) -> None:
    """Lets the workers do what they were asked to, until the client has its answer."""
    for _ in range(4):
        await case.turn()
        case.tokenizers.gate.set()
        await case.turn()
        for link in case.pool.links:
            link.accept()
            link.complete(Finish.CANCELLED if link.cancels else Finish.LENGTH)
    await case.turn()


def timers() -> list[Any]:
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return [each for each in scheduled if not each.cancelled()]


async def check(
    stage: Callable[[Case], Awaitable[None]], events: tuple[str, ...]
) -> weakref.ref[Any]:
    """Returns what must not be in memory any more."""
    case = Case()
    await stage(case)
    generation = weakref.ref(case.generation)
    for name in events:
        EVENTS[name](case)
    await settle(case)
    assert case.task.done(), "the client hears nothing"
    hung_up = case.task.cancelled()
    if not hung_up:
        case.task.result()
    assert hung_up or case.outcome is not None
    if isinstance(case.outcome, ServiceError):
        assert case.outcome.code.name != "INTERNAL"
    elif not hung_up:
        assert len(case.ends) == 1
    # Late frames reach nobody.
    for receiver in (each for link in case.pool.links for each in link.every):
        receiver.on_tokens(0, (302,), (), 0.0)
        receiver.on_ending(0, Finish.STOP, None)
    assert case.admission.held == 0
    assert not case.generator._live
    assert not any(link.live for link in case.pool.links)
    assert not case.tokenizers.held
    assert not timers()
    assert len(case.activity.latest(9)) == 1
    return generation


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
@pytest.mark.parametrize("length", LENGTHS)
async def test_every_order_of_events_in_one_turn(stage, length):
    left = []
    with structlog.testing.capture_logs() as lines:
        for events in itertools.permutations(EVENTS, length):
            try:
                left.append(await check(stage, events))
            except AssertionError as error:
                raise AssertionError(f"{stage.__name__}: {', then '.join(events)}") from error
    assert {each["event"] for each in lines} <= {"generation"}
    gc.collect()
    assert not any(each() for each in left)
