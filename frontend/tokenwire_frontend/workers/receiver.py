"""Who hears of a submitted generation. Called on the event loop, in order, never after the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenwire_service.errors import ServiceError

from tokenwire_frontend.core.fast_path import Inlet, TokenQuota
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.logprobs import TokenLogprob


@dataclass(slots=True)
class WorkerReport:
    """What a worker counted and timed of a generation.

    Durations are in seconds; None means that it did not happen, or the engine does not tell.
    """

    cached_prompt_tokens: int | None
    queue_s: float | None
    prefill_s: float | None
    decode_s: float | None
    transfer_handle: bytes = b""
    """What another worker fetches the prompt by; empty: none can."""


class Receiver(Protocol):
    """Hears of one generation; `on_completed` or `on_failed` comes last, and once."""

    def on_accepted(self) -> None:
        """The worker took it."""

    def on_prompt_logprobs(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Log probabilities of the prompt's next tokens, before any token of a sequence."""

    def on_tokens(
        self,
        sequence: int,
        token_ids: Sequence[int],
        logprobs: Sequence[TokenLogprob],
        came_s: float,
    ) -> None:
        """New ids of one sequence; `came_s` is time.monotonic() of their frame."""

    def inlet(self, quota: TokenQuota) -> Inlet | None:
        """Returns what takes ids that need nothing but to be written down; None: nothing does.

        Asked for after `on_accepted`, of a generation of one sequence without log probabilities.

        Args:
            quota: what the worker may still send.
        """

    def on_ending(self, sequence: int, finish: Finish, stop_token_id: int | None) -> None:
        """One sequence has ended."""

    def on_completed(self, report: WorkerReport) -> None:
        """Every sequence has ended."""

    def on_failed(self, error: ServiceError) -> None:
        """The worker refused it, failed at it, or is gone."""
