"""A generation as a caller asked for it, before it is checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenwire_worker.engines.port import Guide, Sampling


@dataclass(slots=True)
class GenerationRequest:
    """What `worker.v1.Request` says, field by field; nothing is checked yet."""

    prompt: list[int]
    """Token ids."""
    request_id: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 0
    """Per sequence; 0: what is left of the context."""
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    sequence_count: int = 0
    """0 means 1."""
    logprobs: bool = False
    top_logprobs: int = 0
    guide: Guide | None = None
    lora_adapter: str = ""
    cache_salt: str = ""
    priority: int = 0
    time_budget_s: float | None = None
    """Time that is left; 0 or less: nothing is to be generated. NaN: not a valid Duration."""
    traceparent: str = ""
    tracestate: str = ""
