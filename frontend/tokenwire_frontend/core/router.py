"""Which worker takes a request: one small pure interface, and its policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol


@dataclass(slots=True)
class Candidate:
    """A worker that is ready for the request's model."""

    name: str
    running_sequences: int
    """As the worker last reported, from all frontends."""
    waiting_requests: int
    """As the worker last reported, from all frontends."""
    unreported_requests: int
    """What this frontend has submitted, less what has ended, since that report; below 0 where more
    has ended."""
    running_limit: int
    """Sequences that the worker's engine runs at once."""
    waiting_limit: int = 0
    """Requests that may wait there; 0: none, or it does not say."""
    step_s: float | None = None
    """Mean time of an engine step, as the worker last reported; None: it does not say."""
    queue_s: float | None = None
    """Time that one more request would wait for the engine, likewise."""

    @property
    def full(self) -> bool:
        """Whether one more request would find its queue full, as far as the report tells."""
        return 0 < self.waiting_limit <= self._waiting_requests

    @property
    def wait_s(self) -> float | None:
        """Time that one more request waits for its first token, in seconds; None: not known.

        0 where the engine has room. Else it waits for those before it, which with what came since
        the report are more, or fewer, than the report knows of, and then for a step.
        """
        if not self.queue_s:
            return self.queue_s
        ahead = max(self._waiting_requests + 1, 0) / (self.waiting_requests + 1)
        return self.queue_s * ahead + (self.step_s or 0.0) if ahead else 0.0

    @property
    def _waiting_requests(self) -> int:
        """Requests that wait by the report and by what came since, below 0 where places are free.

        What came goes to the engine first, as far as there is room.
        """
        since = self.unreported_requests
        if since > 0:
            since = max(since - max(self.running_limit - self.running_sequences, 0), 0)
        return self.waiting_requests + since

    @property
    def load(self) -> float:
        """Requests for each that the engine runs at once; above 1 some wait."""
        requests = self.running_sequences + self.waiting_requests + self.unreported_requests
        return requests / self.running_limit


@dataclass(slots=True)
class Choice:
    """The worker chosen, and why, in words for a span attribute."""

    index: int
    reason: str


class Router(Protocol):
    """Chooses among the candidates, at least one, for a prompt."""

    def choose(
        self, prompt: Sequence[int], candidates: Sequence[Candidate], preferred: str = ""
    ) -> Choice:
        """Returns the place of the chosen candidate.

        Args:
            prompt: the prompt's ids.
            candidates: the workers.
            preferred: name of the one that has the KV blocks of the prompt's beginning; it need not
                be among the candidates. Empty: none is known.
        """


PREFERRED_LOAD = 1.25
"""How many times the least load a preferred worker may have on which a request would wait: its KV
blocks save a prefill, and a longer wait than this costs more than that."""


class LeastLoaded:
    """Chooses the worker with the least load for its size; equals take turns.

    A preferred worker is chosen where it runs the request at once, or its load is about the least.
    """

    def __init__(self) -> None:
        self._turns = count()

    def choose(
        self,
        prompt: Sequence[int],  # noqa: ARG002 - part of the interface
        candidates: Sequence[Candidate],
        preferred: str = "",
    ) -> Choice:
        """Returns the preferred candidate, or the one with the lowest load over limit."""
        loads = [worker.load for worker in candidates]
        least = min(loads)
        for index, worker in enumerate(candidates):
            if worker.name == preferred and not worker.full:
                load = loads[index]
                if load + 1 / worker.running_limit <= 1 or load <= PREFERRED_LOAD * least:
                    return Choice(index, f"conversation load={load:.3f} of {len(candidates)}")
        equals = [index for index, load in enumerate(loads) if load == least]
        index = equals[next(self._turns) % len(equals)]
        return Choice(index, f"least_loaded load={least:.3f} of {len(candidates)}")
