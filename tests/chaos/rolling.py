"""A rolling restart of everything: one service after another is drained and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from tests.chaos.faults import Sound, Storm
from tests.chaos.fleet import POLL_S, Fleet, Service


class Rolling(Storm):
    """Drains each service in its turn, some rounds, and is done.

    The next one has its turn after the pause, and not before another of its kind is ready for it.

    Args:
        fleet: the services.
        seed: of how long each stays down, up to 2 s.
        pause_s: between the begins of two restarts.
        rounds: times that every service is restarted.
    """

    def __init__(self, fleet: Fleet, seed: str, pause_s: float, rounds: int) -> None:
        super().__init__(fleet, seed, pause_s, ())
        self._rounds = rounds

    async def rage(self) -> None:
        """Restarts everything and returns when all services are back.

        Raises:
            FleetError: a service has not come back.
        """
        source = Random(f"{self._seed}/rolling")
        for _ in range(self._rounds):
            await self._each("frontend drain", self._fleet.frontends, self._sound_frontends, source)
            await self._each("worker drain", self._fleet.workers, self._sound_workers, source)
        await asyncio.gather(*self._going_on)

    async def _each(
        self, kind: str, services: Sequence[Service], sound: Sound, source: Random
    ) -> None:
        for service in services:
            while not _may_leave(service, await sound()):
                self._raise_what_failed()
                await asyncio.sleep(POLL_S)
            self._begin(service, kind, Random(source.getrandbits(32)))
            await asyncio.sleep(self._pause_s)


def _may_leave(service: Service, sound: Sequence[Service]) -> bool:
    return service in sound and len(sound) > 1
