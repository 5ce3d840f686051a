"""One run: a quiet part, in which the right answers are made, and then load and faults together."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from tests.chaos.answers import Collected, Pace, Told, difference
from tests.chaos.by_hand import ByHand, Place
from tests.chaos.cases import Ask, Case, Known, known_cases
from tests.chaos.faults import Storm, kinds_of
from tests.chaos.fleet import Fleet
from tests.chaos.load import HUNG_S, Load
from tests.chaos.report import Report
from tests.chaos.rolling import Rolling

PROGRESS_S = 5.0
LAG_S = 0.05
"""Between two looks at how late the callers' process is."""

REST_S = 30.0
"""Longest wait until the frontends hold nothing any more, once all callers have gone."""

LOG_LINES = 30
"""Of a trace, in the report."""


@dataclass(frozen=True)
class Settings:
    """What a run is told."""

    engine: str = "simulated"
    requests: int = 10_000
    minutes: float = 60.0
    """At most; what was asked for by then is waited for."""
    seed: int = 0
    callers: int = 32
    cases: int = 60
    """Different requests, each with its answer."""
    step_ms: float = 10.0
    pause_s: float = 2.0
    """Mean time between two faults of workers."""
    kinds: tuple[str, ...] = ()
    """Faults; empty: all that the engine can have."""
    rolling: int = 0
    """Times that all services are restarted in turn, instead of faults; the load ends then."""


async def run(settings: Settings, folder: Path) -> Report:
    """Runs, with the services' logs in a folder, and returns what it has shown.

    Raises:
        FleetError: a service did not start or did not come back.
    """
    try:
        async with Fleet(settings.engine, folder, settings.step_ms) as fleet:
            known = await _known(fleet, settings)
            _say(f"{len(known)} answers are known; load and faults begin, seed {settings.seed}")
            return await _under_faults(fleet, known, settings)
    except ExceptionGroup as group:
        # What the tasks of a run raise comes in a group; the first says why it can't go on.
        raise group.exceptions[0] from group


async def _known(fleet: Fleet, settings: Settings) -> list[Known]:
    by_hand = ByHand([each.address for each in fleet.frontends])

    async def ask(case: Case) -> list[Told]:
        async with asyncio.timeout(HUNG_S) as limit:
            collected = Collected(case.sequences, Pace(limit, HUNG_S))
            return await by_hand.stream(Place(case.generation("known"), collected, Random(0)))

    try:
        alone = await known_cases(settings.engine, settings.cases, str(settings.seed), ask)
        return await _steady(alone, settings.callers, ask)
    finally:
        await by_hand.close()


async def _steady(alone: list[Known], callers: int, ask: Ask) -> list[Known]:
    """Returns the cases whose answers among others are those that they have alone.

    What a sampled token is may hang on the last bit of a logit, and that on the size of the batch,
    also without a fault.
    """
    places = asyncio.Semaphore(callers)

    async def holds(known: Known) -> bool:
        async with places:
            return not difference(known.expected, await ask(known.case))

    held = await asyncio.gather(*(holds(each) for each in alone))
    steady = [known for known, each in zip(alone, held, strict=True) if each]
    if len(steady) < len(alone):
        _say(f"left out: {len(alone) - len(steady)} whose answers depend on what runs beside them")
    return steady


async def _under_faults(fleet: Fleet, known: list[Known], settings: Settings) -> Report:
    begun_s = time.monotonic()
    load = Load(
        [each.address for each in fleet.frontends],
        known,
        str(settings.seed),
        settings.requests,
        begun_s + settings.minutes * 60,
    )
    storm = _storm(fleet, settings)
    lag = _Lag()

    async def all_requests() -> None:
        await load.run(settings.callers)
        storm.stopping.set()

    async with asyncio.TaskGroup() as group:
        watches = [group.create_task(lag.watch()), group.create_task(_progress(load, storm))]
        raging = group.create_task(storm.rage())
        raging.add_done_callback(lambda _: load.end())
        await all_requests()
        took_s = time.monotonic() - begun_s
        await raging
        left = await _left_behind(fleet)
        for watch in watches:
            watch.cancel()
    return Report(
        settings=asdict(settings),
        took_s=took_s,
        begun_s=begun_s,
        outcomes=load.outcomes,
        faults=storm.faults,
        left_behind=left,
        tracebacks=fleet.tracebacks(),
        longest_lag_s=lag.longest_s,
        logs_of=lambda trace_id: fleet.lines_of(trace_id, LOG_LINES) if trace_id else [],
    )


def _storm(fleet: Fleet, settings: Settings) -> Storm:
    seed = str(settings.seed)
    if settings.rolling:
        return Rolling(fleet, seed, settings.pause_s, settings.rolling)
    return Storm(fleet, seed, settings.pause_s, settings.kinds or kinds_of(settings.engine))


class _Lag:
    """How late this process is: no stream's gap can be known better."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def watch(self) -> None:
        """Looks until it is cancelled."""
        while True:
            begun_s = time.monotonic()
            await asyncio.sleep(LAG_S)
            self.longest_s = max(self.longest_s, time.monotonic() - begun_s - LAG_S)


async def _left_behind(fleet: Fleet) -> dict[str, int]:
    """Waits until the frontends hold nothing any more, and returns what they still do."""
    end_s = time.monotonic() + REST_S
    while True:
        held = {each.name: await fleet.active_generations(each) for each in fleet.frontends}
        if not any(held.values()) or time.monotonic() > end_s:
            return held
        await asyncio.sleep(LAG_S)


async def _progress(load: Load, storm: Storm) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        moved = sum(1 for each in load.outcomes if each.moved)
        going_on = [each.kind for each in storm.faults if each.recovered_s is None]
        _say(
            f"sent {load.sent}, {dict(load.statuses)}, moved {moved}, faults {len(storm.faults)}"
            + (f", now {dict(Counter(going_on))}" if going_on else "")
        )


def _say(line: str) -> None:
    with suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)
