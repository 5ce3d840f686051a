"""What befalls the services: kinds of faults, and the storm that brings them at random."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from tests.chaos.fleet import POLL_S, RECOVERY_S, STALL_S, Fleet, FleetError, Service

AT_ONCE_S = 1.0
"""Longest gap of a stream after a fault that closes connections: the frontend sees it at once."""

SILENT_S = 10.0
"""Longest gap after one that only silence tells: a worker is lost after 8 s without a sign."""

SEVERAL_SILENT = "several silent workers"
"""What is behind a gap in which more than one worker was silent."""

SEVERAL_SILENT_S = 2 * SILENT_S
"""Longest gap of a stream that goes on at a second worker as that falls silent too."""

LONGEST_SILENCE_S = 12.0
"""Of what is stopped or held, so that some are heard again before they are lost and some not."""

DOWN_S = 2.0
"""Longest time until a service that was killed is started again."""


@dataclass
class Fault:
    """One fault, as it went."""

    number: int
    service: str
    kind: str
    """Its name in KINDS."""
    begun_s: float
    """On the monotonic clock, like all times of a run."""
    recovered_s: float | None = None
    """When every frontend had the service back."""
    detail: str = ""

    @property
    def silent(self) -> bool:
        """Whether it closes no connection, so that streams may wait for it to pass."""
        return self.kind in SILENT

    def concerns(self, begin_s: float, end_s: float) -> bool:
        """Whether it was going on at some time of a span."""
        return self.begun_s <= end_s and (self.recovered_s is None or self.recovered_s >= begin_s)


@dataclass(frozen=True)
class Kind:
    """A kind of fault."""

    befall: Callable[[Fleet, Service, Random, Fault], Awaitable[None]]
    weight: int
    gap_s: float | None
    """Longest gap that a stream may have for it, but for a replay; None: no bound is promised."""


async def _restart(service: Service, source: Random) -> None:
    await service.ended()
    await asyncio.sleep(source.uniform(0, DOWN_S))
    service.start()


async def _kill(fleet: Fleet, service: Service, source: Random, fault: Fault) -> None:
    service.signal(signal.SIGKILL)
    await _restart(service, source)


async def _stop(fleet: Fleet, service: Service, source: Random, fault: Fault) -> None:
    silence_s, killed = source.uniform(0.5, LONGEST_SILENCE_S), source.random() < 0.5
    fault.detail = f"for {silence_s:.1f} s, then {'SIGKILL' if killed else 'SIGCONT'}"
    service.signal(signal.SIGSTOP)
    await asyncio.sleep(silence_s)
    if killed:
        service.signal(signal.SIGKILL)
        await _restart(service, source)
    else:
        service.signal(signal.SIGCONT)


async def _drain(fleet: Fleet, service: Service, source: Random, fault: Fault) -> None:
    service.signal(signal.SIGTERM)
    await _restart(service, source)
    fault.detail = f"exit code {service.process.poll()}" if not service.runs else ""


async def _hold(fleet: Fleet, service: Service, source: Random, fault: Fault) -> None:
    silence_s, reset = source.uniform(0.5, LONGEST_SILENCE_S), source.random() < 0.5
    fault.detail = f"for {silence_s:.1f} s, then {'a reset' if reset else 'passed on'}"
    fleet.cut(service, "hold")
    await asyncio.sleep(silence_s)
    if reset:
        fleet.cut(service, "reset")
    fleet.cut(service, "pass")


async def _reset(fleet: Fleet, service: Service, source: Random, fault: Fault) -> None:
    fleet.cut(service, "reset")


async def _close(fleet: Fleet, service: Service, source: Random, fault: Fault) -> None:
    fleet.cut(service, "close")


async def _kill_engine(fleet: Fleet, service: Service, source: Random, fault: Fault) -> None:
    _signal_engine(service, signal.SIGKILL)
    await _restart(service, source)


async def _stop_engine(fleet: Fleet, service: Service, source: Random, fault: Fault) -> None:
    _signal_engine(service, signal.SIGSTOP)
    await _restart(service, source)


def _signal_engine(service: Service, number: int) -> None:
    engine = service.engine()
    if engine is None:
        raise FleetError(f"{service.name} has no engine process")
    with suppress(ProcessLookupError):
        os.kill(engine, number)


KINDS = {
    "worker kill": Kind(_kill, 4, AT_ONCE_S),
    "worker stop": Kind(_stop, 4, SILENT_S),
    "worker drain": Kind(_drain, 3, AT_ONCE_S),
    "worker reset": Kind(_reset, 2, AT_ONCE_S),
    "worker close": Kind(_close, 1, AT_ONCE_S),
    "worker hold": Kind(_hold, 2, SILENT_S),
    "engine kill": Kind(_kill_engine, 3, AT_ONCE_S),
    # The silence of an engine that has work begins with its last step.
    "engine stop": Kind(_stop_engine, 1, STALL_S + AT_ONCE_S),
    "frontend kill": Kind(_kill, 4, None),
    "frontend stop": Kind(_stop, 1, None),
    "frontend drain": Kind(_drain, 3, None),
    "frontend reset": Kind(_reset, 1, None),
    "frontend close": Kind(_close, 1, None),
}

SILENT = ("worker stop", "worker hold", "engine stop", "frontend stop")


def is_of_frontends(kind: str) -> bool:
    """Whether a kind of fault befalls frontends; the others are a matter of workers."""
    return kind.startswith("frontend")


def kinds_of(engine: str) -> list[str]:
    """Returns the kinds that an engine can have; the simulated one has no process of its own."""
    return [kind for kind in KINDS if engine != "simulated" or not kind.startswith("engine")]


Sound = Callable[[], Awaitable[list[Service]]]
"""Returns the services that have no fault and are ready for what asks for them."""


class Storm:
    """Brings faults at random, until told to stop.

    A worker has one only while every frontend that runs says that two workers are ready which have
    none, so that one is left. A frontend has one only while another is ready that has none.

    Args:
        fleet: the services.
        seed: of every choice: which fault, of which service, when, and for how long.
        pause_s: mean time between two faults of workers; those of frontends are twice as rare.
        kinds: names of those that it brings.
    """

    def __init__(self, fleet: Fleet, seed: str, pause_s: float, kinds: Collection[str]) -> None:
        self._fleet = fleet
        self._seed = seed
        self._pause_s = pause_s
        self._kinds = [kind for kind in KINDS if kind in kinds]
        self._struck: set[str] = set()
        self._going_on: set[asyncio.Task[None]] = set()
        self.faults: list[Fault] = []
        self.stopping = asyncio.Event()

    async def rage(self) -> None:
        """Brings faults until it is to stop, and returns when all services are back.

        Raises:
            FleetError: a service has not come back.
        """
        of_frontends = [kind for kind in self._kinds if is_of_frontends(kind)]
        of_workers = [kind for kind in self._kinds if not is_of_frontends(kind)]
        await asyncio.gather(
            self._bring(of_workers, self._pause_s, self._sound_workers),
            self._bring(of_frontends, 2 * self._pause_s, self._sound_frontends),
        )
        await asyncio.gather(*self._going_on)

    async def _bring(self, kinds: Sequence[str], pause_s: float, sound: Sound) -> None:
        source = Random(f"{self._seed}/{kinds}")
        while kinds and not self.stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(source.uniform(0.2, 1.8) * pause_s):
                    await self.stopping.wait()
            kind = source.choices(kinds, [KINDS[each].weight for each in kinds])[0]
            # Drawn here, so that the next fault does not depend on how long this one takes.
            own = Random(source.getrandbits(32))
            service = await self._target(sound, own)
            if service is None:
                return
            self._begin(service, kind, own)

    def _begin(self, service: Service, kind: str, source: Random) -> None:
        fault = Fault(len(self.faults) + 1, service.name, kind, time.monotonic())
        self.faults.append(fault)
        self._struck.add(service.name)
        task = asyncio.create_task(self._go_through(fault, service, source))
        self._going_on.add(task)

    async def _go_through(self, fault: Fault, service: Service, source: Random) -> None:
        await KINDS[fault.kind].befall(self._fleet, service, source, fault)
        end_s = time.monotonic() + RECOVERY_S
        while not await self._is_back(service):
            if time.monotonic() > end_s:
                raise FleetError(f"{service.name} is not back after {fault}")
            await asyncio.sleep(POLL_S)
        service.starting = False
        fault.recovered_s = time.monotonic()
        self._struck.discard(service.name)

    async def _is_back(self, service: Service) -> bool:
        if service in self._fleet.frontends:
            return bool(await self._fleet.ready_workers(service))
        if not service.runs:
            return False
        seen = await self._seen()
        return seen is not None and service.name in seen

    async def _target(self, sound: Sound, source: Random) -> Service | None:
        """Returns the service of a fault as soon as one may have it; None: the storm is to stop."""
        while not self.stopping.is_set():
            self._raise_what_failed()
            services = await sound()
            if len(services) > 1:  # of which one is left
                return source.choice(services)
            await asyncio.sleep(POLL_S)
        return None

    def _raise_what_failed(self) -> None:
        for task in self._going_on:
            if task.done():
                task.result()

    async def _sound_frontends(self) -> list[Service]:
        return [
            each
            for each in self._fleet.frontends
            if each.name not in self._struck and await self._fleet.ready_workers(each)
        ]

    async def _sound_workers(self) -> list[Service]:
        seen = await self._seen() or set()
        return [each for each in self._fleet.workers if each.name in seen - self._struck]

    async def _seen(self) -> set[str] | None:
        """Returns the workers that are ready for every frontend that has served and runs.

        None: one of them does not answer, or none runs.
        """
        found: set[str] | None = None
        for frontend in self._fleet.frontends:
            if frontend.starting or not frontend.runs:
                continue
            ready = await self._fleet.ready_workers(frontend)
            if ready is None:
                return None
            found = ready if found is None else found & ready
        return found
