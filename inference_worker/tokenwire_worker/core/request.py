"""A generation as a caller asked for it, before it is checked."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from tokenwire_worker.engines.port import Guide, Sampling


class TokenIds:
    """Token ids of a caller, with what judges them without reading them again."""

    __slots__ = ("highest", "highest_at", "ids", "length")

    def __init__(self, length: int) -> None:
        """Takes how many ids there are; where these are too many they need not be added."""
        self.length = length
        self.ids = array("I")
        self.highest = -1
        """The largest id; -1 of none."""
        self.highest_at = -1
        """Where the first of these is."""

    @classmethod
    def of(cls, ids: Sequence[int]) -> Self:
        """Returns these ids."""
        made = cls(len(ids))
        made.add(ids)
        return made

    def add(self, ids: Sequence[int]) -> None:
        """Adds the next ids."""
        highest = max(ids, default=-1)
        if highest > self.highest:
            self.highest, self.highest_at = highest, len(self.ids) + ids.index(highest)
        self.ids.extend(ids)


@dataclass(slots=True)
class GenerationRequest:
    """What `worker.v1.Request` says, field by field; nothing is checked yet.

    What a caller may make longer than is allowed may be any sequence here: it is counted before it
    is read.
    """

    prompt: TokenIds
    output_so_far: TokenIds = field(default_factory=lambda: TokenIds(0))
    """Ids that the sequence has already."""
    request_id: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 0
    """Per sequence; 0: what is left of the context."""
    min_tokens: int = 0
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    sequence_count: int = 0
    """0 means 1."""
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: int | None = None
    """Alternatives to each token of the prompt; None: nothing is told of the prompt's tokens."""
    guide: Guide | None = None
    lora_adapter: str = ""
    cache_salt: str = ""
    priority: int = 0
    time_budget_s: float | None = None
    """Time that is left; 0 or less: nothing is to be generated. NaN: not a valid Duration."""
    prefill_only: bool = False
    transfer_handle: bytes = b""
    traceparent: str = ""
    tracestate: str = ""
