"""The policy `round_robin`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from tokenwire_frontend.core.routing.candidate import Candidate
from tokenwire_frontend.core.routing.router import Cause, Choice, Policy, RoutedPrompt, Router


class RoundRobin(Router):
    """Chooses the workers in turn, whatever their load; those whose queue is full are left out."""

    def __init__(self) -> None:
        self._turns = count()

    def choose(self, prompt: RoutedPrompt, candidates: Sequence[Candidate]) -> Choice:  # noqa: ARG002 - part of the interface
        """Returns the next candidate with room in its queue, or the next where none has."""
        turn = next(self._turns)
        order = [(turn + step) % len(candidates) for step in range(len(candidates))]
        index = next((each for each in order if not candidates[each].full), order[0])
        reason = f"round_robin load={candidates[index].load:.3f} of {len(candidates)}"
        return Choice(index, Policy.ROUND_ROBIN, Cause.TURN, reason)
