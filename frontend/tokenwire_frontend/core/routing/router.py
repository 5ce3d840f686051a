"""What every routing policy takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from tokenwire_frontend.core.routing.candidate import Candidate
from tokenwire_frontend.core.routing.kv_index import KvIndex


class Policy(Enum):
    """The policies, by the names that `--routing` takes."""

    PREFIX = "prefix"
    LEAST_LOADED = "least_loaded"
    ROUND_ROBIN = "round_robin"


class Cause(Enum):
    """Why a worker was chosen, as a metric's attribute tells it."""

    ONLY = "only"
    """It was the only candidate."""
    CONVERSATION = "conversation"
    """It had the turn before."""
    HELD = "held"
    """No worker holds more of the prompt."""
    SPREAD = "spread"
    """Those that hold more of the prompt have more than their share of the load."""
    HASH = "hash"
    """No worker holds the prompt's beginning, and the prompt's hash falls to it."""
    LEAST_LOADED = "least_loaded"
    TURN = "turn"
    """Its turn has come."""


@dataclass(frozen=True, slots=True)
class RoutedPrompt:
    """What a worker is chosen for."""

    ids: Sequence[int]
    """The prompt's."""
    model: str = ""
    lora_adapter: str = ""
    cache_salt: str = ""
    preferred: str = ""
    """Name of the worker that had the turn before in this conversation, which need not be among
    the candidates; empty: none."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The worker chosen, and why."""

    index: int
    """Its place among the candidates."""
    policy: Policy
    cause: Cause
    reason: str
    """The same in words for a span attribute, with the worker's load."""
    reused_tokens: int | None = None
    """Tokens of the prompt that the worker's KV cache is expected to have; None: not known."""


class Router(ABC):
    """Chooses among the workers that are ready for a request."""

    index: KvIndex | None = None
    """What it knows of the workers' KV caches; None: it does not ask for that."""

    @abstractmethod
    def choose(self, prompt: RoutedPrompt, candidates: Sequence[Candidate]) -> Choice:
        """Returns the chosen one of the candidates, at least one: the request goes there."""

    def held(self, prompt: RoutedPrompt, candidates: Sequence[Candidate]) -> int:  # noqa: ARG002
        """Returns the most tokens of the prompt that a candidate's KV cache is expected to have."""
        return 0

    def sent(self, prompt: RoutedPrompt, worker: Candidate) -> None:  # noqa: B027
        """Notes that the prompt goes to a worker which was chosen otherwise."""

    def forget(self, worker: str) -> None:  # noqa: B027 - most know nothing of single workers
        """Notes that a worker is gone, and with it what it held."""
