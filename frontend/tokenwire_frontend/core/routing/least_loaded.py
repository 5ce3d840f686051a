"""The policy `least_loaded`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from tokenwire_frontend.core.routing.candidate import Candidate
from tokenwire_frontend.core.routing.router import Cause, Choice, Policy, RoutedPrompt, Router

PREFERRED_LOAD = 1.25
"""How many times the least load a preferred worker may have on which a request would wait: its KV
blocks save a prefill, and a longer wait than this costs more than that."""


class LeastLoaded(Router):
    """Chooses the worker with the least load for its size; equals take turns.

    A preferred worker is chosen where it runs the request at once, or its load is about the least.
    """

    def __init__(self) -> None:
        self._turns = count()

    def choose(self, prompt: RoutedPrompt, candidates: Sequence[Candidate]) -> Choice:
        """Returns the preferred candidate, or the one with the lowest load over limit."""
        loads = [worker.load for worker in candidates]
        least = min(loads)
        for index, worker in enumerate(candidates):
            if worker.name == prompt.preferred and not worker.full:
                load = loads[index]
                if load + 1 / worker.running_limit <= 1 or load <= PREFERRED_LOAD * least:
                    return self._choice(index, Cause.CONVERSATION, load, candidates)
        equals = [index for index, load in enumerate(loads) if load == least]
        index = equals[next(self._turns) % len(equals)]
        return self._choice(index, Cause.LEAST_LOADED, least, candidates)

    @staticmethod
    def _choice(index: int, cause: Cause, load: float, candidates: Sequence[Candidate]) -> Choice:
        reason = f"{cause.value} load={load:.3f} of {len(candidates)}"
        return Choice(index, Policy.LEAST_LOADED, cause, reason)
