"""Generations in flight: what is known of each, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from tokenwire_service.errors import ServiceError

from tokenwire_worker.engines.port import (
    Finish,
    Generation,
    Output,
    PromptLogprobs,
    Times,
    TokenLogprob,
)


class Reason(Enum):
    """Why a sequence ended, as the caller is told."""

    STOP = "stop"
    LENGTH = "length"
    TIME_BUDGET = "time_budget"
    CANCELLED = "cancelled"


_REASONS = {
    Finish.STOP: Reason.STOP,
    Finish.LENGTH: Reason.LENGTH,
    Finish.CANCELLED: Reason.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How one sequence ended."""

    reason: Reason
    stop_token_id: int | None = None
    """With STOP: the id that ended it; None at the end of a guided output."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What was counted and timed of a generation. Times in seconds."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int | None
    queue_s: float
    prefill_s: float | None
    """Until the first token, or the end of a prompt that is computed alone; None: neither came."""
    decode_s: float | None
    """None: no token came."""
    transfer_handle: bytes = b""
    """What another worker fetches the prompt by; empty: none can."""
    fetched_prompt_tokens: int | None = None
    """None: the prompt was not to be fetched, or the engine does not tell."""


def ending_of_carried(generation: Generation) -> Ending | None:
    """Returns how a sequence has ended with the output that it has already; None: it goes on."""
    last = generation.prompt[-1]
    if not generation.carried_tokens:
        return None
    if not generation.min_tokens and last in generation.stop_token_ids:
        return Ending(Reason.STOP, last)
    return None if generation.max_tokens else Ending(Reason.LENGTH)


class Sink(Protocol):
    """Where a generation's events go, in order. Called on the event loop; must not block."""

    def accepted(self, handle: int, request_id: str) -> None:
        """Takes the acceptance of the generation."""

    def prompt_logprobs(self, handle: int, logprobs: PromptLogprobs) -> None:
        """Takes the log probabilities of the prompt; before any tokens."""

    def columns(
        self, handles: list[int], sequences: list[int], counts: list[int], token_ids: list[int]
    ) -> None:
        """Takes new ids of sequences, in the columns of `Frame`; at least one."""

    def tokens(
        self, handle: int, sequence: int, token_ids: list[int], logprobs: list[TokenLogprob] | None
    ) -> None:
        """Takes new ids of one sequence; at least one."""

    def ended(self, handle: int, sequence: int, ending: Ending) -> None:
        """Takes the end of one sequence."""

    def completed(self, handle: int, completion: Completion) -> None:
        """Takes the end of the generation; nothing follows."""

    def failed(self, handle: int, error: ServiceError) -> None:
        """Takes the failure of the generation; nothing follows."""


class _Nowhere:
    """Takes events and forgets them."""

    def accepted(self, *_: object) -> None: ...
    def prompt_logprobs(self, *_: object) -> None: ...
    def columns(self, *_: object) -> None: ...
    def tokens(self, *_: object) -> None: ...
    def ended(self, *_: object) -> None: ...
    def completed(self, *_: object) -> None: ...
    def failed(self, *_: object) -> None: ...


NOWHERE: Sink = _Nowhere()
"""The sink of a generation whose caller is gone."""


@dataclass(slots=True)
class Live:
    """One generation between its acceptance and its end. Times are time.monotonic's, in seconds."""

    key: int
    """The dispatcher's and the engine's number for it."""
    handle: int
    """The caller's number for it on its stream."""
    request_id: str
    generation: Generation
    sink: Sink
    received_s: float
    started_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    completion_tokens: int = 0
    prefilled_s: float | None = None
    """When a prompt was complete that is computed alone."""
    cached_prompt_tokens: int | None = None
    fetched_prompt_tokens: int | None = None
    transfer_handle: bytes = b""
    open: set[int] = field(default_factory=set)
    """Sequences that the caller has not been told the end of."""
    reasons: list[Reason] = field(default_factory=list)
    """Why each sequence ended that did, in order of ending."""
    _times: Times | None = None
    """The engine's own, where it tells them."""

    def __post_init__(self) -> None:
        self.open.update(range(self.generation.sequence_count))

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the caller's prompt."""
        return len(self.generation.prompt) - self.generation.carried_tokens

    def note_first_output(self, at_s: float, output: Output) -> None:
        """Notes when the first token came, and what the engine told with it."""
        if output.cached_prompt_tokens is not None:  # the engine counts carried tokens too
            self.cached_prompt_tokens = min(output.cached_prompt_tokens, self.prompt_tokens)
        self.fetched_prompt_tokens = output.fetched_prompt_tokens
        if self.started_s is None and output.started_s is not None:
            self.started_s = min(output.started_s, at_s)
        self.note_first_token(at_s)

    def note_prefilled(self, at_s: float, output: Output) -> None:
        """Notes that the prompt is complete which was to be computed alone."""
        self.transfer_handle = output.transfer_handle
        self.cached_prompt_tokens = output.cached_prompt_tokens
        if self.started_s is None:
            self.started_s = at_s if output.started_s is None else min(output.started_s, at_s)
        self.prefilled_s = at_s

    def note_first_token(self, at_s: float) -> None:
        """Notes when the first token came."""
        self.first_token_s = at_s
        if self.started_s is None:  # not every engine tells when it takes one up
            self.started_s = at_s

    def note_times(self, times: Times) -> None:
        """Takes the engine's own times of one sequence in place of what was seen from outside."""
        if self._times is not None:
            times = Times(
                min(times.started_s, self._times.started_s),
                min(times.first_token_s, self._times.first_token_s),
                max(times.last_token_s, self._times.last_token_s),
            )
        self._times = times
        self.started_s, self.first_token_s = times.started_s, times.first_token_s
        self.last_token_s = times.last_token_s

    def end(self, sequence: int, ending: Ending) -> None:
        """Notes the end of one sequence and tells the sink."""
        self.open.discard(sequence)
        self.reasons.append(ending.reason)
        self.sink.ended(self.handle, sequence, ending)

    def ending(self, finish: Finish, last_token_id: int | None) -> Ending:
        """Returns what the caller is told of a sequence that the engine ended."""
        reason = _REASONS[finish]
        if reason is Reason.STOP and last_token_id in self.generation.stop_token_ids:
            return Ending(reason, last_token_id)
        return Ending(reason)

    def completion(self, now_s: float) -> Completion:
        """Returns what was counted and timed until now."""
        started = self.started_s if self.started_s is not None else now_s
        first, last = self.first_token_s, self.last_token_s
        filled = self.prefilled_s if first is None else first
        return Completion(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            queue_s=max(started - self.received_s, 0.0),
            prefill_s=None if filled is None else max(filled - started, 0.0),
            decode_s=None if first is None or last is None else last - first,
            transfer_handle=self.transfer_handle,
            fetched_prompt_tokens=self.fetched_prompt_tokens,
        )
