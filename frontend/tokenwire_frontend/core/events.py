"""What a client is told of a generation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from tokenwire_service.errors import ServiceError

from tokenwire_frontend.core.log import Delta
from tokenwire_frontend.core.prompt_log import PromptPart


@dataclass(slots=True)
class Stage:
    """One stage of a request; seconds from its receipt."""

    service: str
    name: str
    start_s: float
    duration_s: float


class Mode(Enum):
    """How a worker begins with a generation."""

    NEW = "new"
    """With the prompt."""
    CARRIED = "carried"
    """With the prompt and the ids so far."""
    REPLAYED = "replayed"
    """With the prompt; what it generates is compared with the ids so far, up to their end."""
    PREFILL = "prefill"
    """With the prompt alone, which it computes for another."""
    FETCHED = "fetched"
    """With the prompt, whose KV cache it fetches from the worker before."""


@dataclass(slots=True)
class Part:
    """One worker's part in a generation."""

    worker: str
    sequence: int
    """0 where it had all."""
    token_offset: int
    """Ids that the sequence had when the part began."""
    mode: Mode
    left_because: str = ""
    """Reason of the error with which the worker was lost; empty: it was not."""


@dataclass(slots=True)
class Completion:
    """The end of a generation: tokens counted, and times in seconds from its receipt."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int | None
    """None: the engine does not tell."""
    time_to_first_token_s: float | None
    """None: no token came."""
    time_per_output_token_s: float | None
    """None: fewer than two tokens came."""
    total_s: float
    stages: list[Stage]
    worker: str
    parts: Sequence[Part] = ()
    """Of the workers, in their order; empty: one did all of it."""


@dataclass(frozen=True, slots=True)
class Resume:
    """What a client needs to come back to a generation that outlives its call."""

    token: str
    ttl_s: float
    """How long it is kept without a client."""


@dataclass(slots=True)
class News:
    """What has happened since the client was last told; at most one of completion and failure."""

    deltas: list[Delta] = field(default_factory=list)
    wire_bytes: int = 0
    """Most bytes of the deltas, and of what is told of the prompt, on the wire."""
    prompt: PromptPart | None = None
    """Log probabilities of the prompt, which come before the deltas."""
    completion: Completion | None = None
    failure: ServiceError | None = None


class Content(Enum):
    """What deltas have of the output."""

    TEXT_AND_IDS = "text and ids"
    TEXT = "text"
    """Text, reasoning and tool calls. A delta that has nothing of them is not sent."""
    IDS = "ids"


@dataclass(frozen=True, slots=True)
class Delivery:
    """When the client is told of what is new, and of how much of it."""

    max_delay_s: float = 0.0
    """Deltas may be held this long, to merge; never a sequence's first tokens or its end."""
    max_tokens: int = sys.maxsize
    """Most tokens of one delta."""
    content: Content = Content.TEXT_AND_IDS
    only_end: bool = False
    """Told once, at the end."""
