"""All readers of one generation that outlives its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from tokenwire_service.errors import ServiceError

from tokenwire_frontend.core.fast_path import Listener
from tokenwire_frontend.generation.reader import Reader

if TYPE_CHECKING:
    from tokenwire_frontend.generation.generation import Generation


class Readers(Listener):
    """Stands where one reader stands otherwise; readers come and go.

    Each has cursors and a pace of its own, and begins where it likes: the logs keep all of it.

    Args:
        excess: returns why the generation has to end, where more of it is kept than may be.
    """

    __slots__ = ("_every", "ended", "excess", "generation")

    retains = True

    def __init__(self, excess: Callable[[], ServiceError | None]) -> None:
        super().__init__(_nothing)
        self.listens = True
        self.excess = excess
        self.ended = asyncio.Event()
        """Nothing more will come of the generation."""
        self._every: list[Reader] = []
        self.generation: Generation | None = None

    def __len__(self) -> int:
        return len(self._every)

    @property
    def cancelled(self) -> bool:
        """A client has cancelled it."""
        return any(each.cancelled for each in self._every)

    def add(self, reader: Reader) -> None:
        """Lets one more read; `begin` it then."""
        self._every.append(reader)
        if self.generation is not None:
            reader.attach(self.generation)
            if reader.cancelled:
                self.generation.cancel()

    def remove(self, reader: Reader) -> None:
        """Tells this one no more."""
        reader.close()
        self._every.remove(reader)

    def attach(self, generation: Generation) -> None:
        """Has all read this generation."""
        self.generation = generation
        for each in self._every:
            each.attach(generation)

    def wake(self, *, urgent: bool) -> None:
        """Tells each, now or when its pace allows."""
        for each in self._every:
            each.wake(urgent=urgent)
        if urgent and self.generation is not None and self.generation.done:
            self.ended.set()

    def close(self) -> None:
        """Leaves them alone: each ends with its own call."""


def _nothing() -> None:
    """Is never called: each reader has its own."""
