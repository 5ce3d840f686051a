"""A generation between its acceptance and the engine's last word on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tokenwire_worker.core.admission import Place
from tokenwire_worker.core.generations import Live
from tokenwire_worker.generation_record import GenerationRecord


@dataclass(slots=True, eq=False)
class Flight:
    """One generation, and everything that it holds.

    It has two ends: its caller is told the end first, and its place is given back when the engine
    has confirmed the end of each sequence.
    """

    key: int
    """The dispatcher's and the engine's number for it."""
    live: Live | None
    """What the caller still hears of; None once the caller has been told the end."""
    record: GenerationRecord
    place: Place | None
    """In the queue or in the engine; None of one that never gets there."""
    lora_adapter: str = ""
    """The LoRA adapter that it has."""
    budget: asyncio.TimerHandle | None = None
    """Ends it when its time is over."""

    @property
    def runs(self) -> bool:
        """Whether the engine has any of it."""
        return self.place is not None and bool(self.place.in_engine)

    def leave_caller(self) -> Live | None:
        """Gives up what it holds for its caller; returns whom to tell the end, if anybody."""
        live, self.live = self.live, None
        if self.budget is not None:
            self.budget.cancel()
            self.budget = None
        if self.place is not None:
            self.place.leave_queue()
        return live

    def leave_engine(self) -> None:
        """Gives back its places in the engine."""
        if self.place is not None:
            self.place.close()
