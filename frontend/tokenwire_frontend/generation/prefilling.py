"""Long prompts, which one worker computes for another to go on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenwire_service.errors import ServiceError
from tokenwire_service.telemetry import semconv

from tokenwire_frontend import errors
from tokenwire_frontend.core.breaker import is_the_cause
from tokenwire_frontend.core.events import Mode
from tokenwire_frontend.core.held_calls import told_of_tools
from tokenwire_frontend.generation.attempt import PrefillAttempt
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.losses import DEATHS, LOST, has_unloaded
from tokenwire_frontend.generation.sending import Prepared, Sending
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.pairings import computing_s
from tokenwire_frontend.workers.pool import WorkerPool

TRIES = 2
"""Workers for prefill that a prompt is sent to, before it is computed where its tokens are."""

PROMPT_NOT_HANDED_OVER = "PROMPT_NOT_HANDED_OVER"
"""Reason with which a worker refuses a prompt alone: no other could go on with it exactly."""


@dataclass(frozen=True, slots=True)
class Handover:
    """A prompt that a worker has computed for another."""

    transfer_handle: bytes
    transfer_group: str
    """Of the workers that can fetch it."""
    sent_s: float
    """time.monotonic() when the worker was sent it."""
    computing_s: float | None
    """How long the worker would have taken to compute all of it; None: not known."""


async def prefill(
    pool: WorkerPool,
    sending: Sending,
    generation: Generation,
    prepared: Prepared,
    note_death: Callable[[WorkerLink], set[object]],
) -> Handover | None:
    """Has a worker compute a long prompt for another to go on with.

    Returns None where it is to be computed where its tokens are: it is short, or known there; no
    worker is for that, it does not pay, or none does it; or the generation is over.

    Args:
        pool: the workers.
        sending: sends the generation.
        generation: it.
        prepared: as it is sent.
        note_death: notes that a worker has died with it, and returns that death.

    Raises:
        ServiceError: it is refused for a reason of its own.
    """
    request = prepared.request
    if request.sequence_count > 1 or request.output.prompt_logprobs is not None:
        return None
    if not pool.prefers_prefill(prepared.model, sending.prompt):
        return None
    tried: list[WorkerLink] = []
    deaths: list[set[object]] = []
    while len(tried) < TRIES:
        try:
            attempt = await sending.send(
                lambda model, prompt: pool.route_prefill(model, prompt, tried), None, Mode.PREFILL
            )
        except ServiceError:  # none is left to try
            return None
        if attempt is None:
            return None
        assert isinstance(attempt, PrefillAttempt)  # noqa: S101 - for the type checker
        refusal = await attempt.settled
        tried.append(attempt.link)
        generation.record.prefilled(semconv.HANDED_OVER if refusal is None else refusal.reason)
        if refusal is None:
            return _handover(generation, attempt)
        if refusal.reason == PROMPT_NOT_HANDED_OVER:
            return None
        if refusal.code not in LOST and not has_unloaded(refusal):
            raise told_of_tools(refusal, request)
        if attempt.accepted and refusal.reason in DEATHS:
            deaths.append(note_death(attempt.link))
            if is_the_cause(deaths):
                raise errors.kills_engines(len(deaths), refusal)
    return None


def _handover(generation: Generation, attempt: PrefillAttempt) -> Handover | None:
    info = attempt.link.info
    report = attempt.report
    if generation.logs[0].end is not None or not report.transfer_handle or info is None:
        return None  # its time is over, or nobody can fetch it
    took_s = computing_s(report, generation.prompt_tokens)
    return Handover(report.transfer_handle, info.transfer_group, attempt.submitted_s, took_s)
