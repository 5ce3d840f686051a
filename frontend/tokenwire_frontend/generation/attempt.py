"""One try at one worker."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenwire_service.errors import Code, ServiceError

from tokenwire_frontend import errors
from tokenwire_frontend.core.events import Mode
from tokenwire_frontend.core.fast_path import Inlet, TokenQuota
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.logprobs import TokenLogprob
from tokenwire_frontend.generation.lease import Lease
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.receiver import WorkerReport

if TYPE_CHECKING:
    from tokenwire_frontend.generation.generation import Generation
    from tokenwire_frontend.generation.record import Hop

_FAULTS = frozenset({Code.UNAVAILABLE, Code.INTERNAL, Code.ABORTED})
"""Codes with which a worker fails at a generation for a reason of its own."""

_NO_FAULTS = frozenset({"DRAINING", "WORKER_LOST", errors.INTERNAL_FAULT})
"""Reasons that say nothing of the worker, or, once for all that it had, what the link tells."""


class Attempt:
    """A generation, or one sequence of it, at one worker: what the worker's link tells goes on.

    Once it is closed the generation hears nothing of it any more: a worker's late frames, and a
    refusal that meets a cancel, end here. An exception that a frame causes ends this generation and
    never the link.

    Args:
        generation: what is tried.
        link: the worker.
        lease: the generation's, which the attempt keeps open for as long as the worker has it.
        sequence: the one that the worker gets; None: all of them.
        mode: how the worker begins.
    """

    __slots__ = (
        "_first", "_generation", "_handle", "_inlet", "_lease", "_prompt_told", "_unverified",
        "accepted", "hop", "link", "mode", "sequence", "settled", "submitted_s", "token_offset",
    )  # fmt: skip

    def __init__(
        self,
        generation: Generation,
        link: WorkerLink,
        lease: Lease,
        sequence: int | None = None,
        mode: Mode = Mode.NEW,
    ) -> None:
        self.link = link
        self.sequence = sequence
        self.mode = mode
        self.hop: Hop | None = None
        """Its span."""
        self.accepted = False
        self.settled: asyncio.Future[ServiceError | None]
        """The worker's word: None once it has taken the generation, else why not."""
        self.settled = asyncio.get_running_loop().create_future()
        self.submitted_s = 0.0
        """time.monotonic() of the submission."""
        self.token_offset = 0 if sequence is None else generation.logs[sequence].token_count
        """Ids that the sequence has when it begins."""
        self._first = sequence or 0
        self._prompt_told = 0
        """Tokens of the prompt of which this worker has told."""
        self._unverified = self.token_offset if mode is Mode.REPLAYED else 0
        """Ids of the sequence that the worker has yet to generate once more."""
        self._generation: Generation | None = generation
        self._inlet: Inlet | None = None
        self._lease = lease
        self._handle = 0

    def sent(self, handle: int) -> None:
        """Notes the link's handle of it, once it is sent."""
        self._handle = handle
        self._lease.lend(arrived=self.mode is not Mode.PREFILL)
        self.submitted_s = time.monotonic()
        self.link.breaker.sent(self.submitted_s)

    def unsent(self, error: ServiceError) -> None:
        """Notes that it could not be sent, and why."""
        generation = self._leave()
        if generation is not None:
            generation.refused(self, error)
        self._settle(error)

    @property
    def was_sent(self) -> bool:
        """The worker may have heard of it."""
        return self._handle != 0

    def has(self, sequence: int) -> bool:
        """Returns whether the worker was given this sequence."""
        return self.sequence is None or self.sequence == sequence

    def cancel(self, sequence: int | None = None) -> None:
        """Asks the worker to end what it has or one sequence of it; the ends still come."""
        if self._generation is not None:
            self.link.cancel(self._handle, sequence if self.sequence is None else None)

    def close(self) -> None:
        """Lets the generation hear no more of it, and the worker end what it still has."""
        if self._leave() is not None:
            self.link.cancel(self._handle)

    # What the link tells: see workers.receiver.Receiver. Nothing that these raise would reach the
    # generation; it would end the link, and with it every other.

    def on_accepted(self) -> None:
        """The worker took it."""
        generation = self._generation
        if generation is None or self.accepted:
            return
        self.accepted = True
        try:
            generation.accepted(self)
        except Exception as error:  # noqa: BLE001 - ends this generation alone
            generation.fault(error)
        self._settle_acceptance()

    def _settle_acceptance(self) -> None:
        self._settle(None)

    def on_prompt_logprobs(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Log probabilities of the prompt's next tokens."""
        generation = self._generation
        if generation is None or generation.prompt_log is None:
            return
        try:
            # Another worker may have told of them before, or tells of them now.
            known = generation.prompt_log.token_count - self._prompt_told
            self._prompt_told += len(logprobs)
            if known < len(logprobs):
                generation.prompt_logprobs(logprobs[known:])
        except Exception as error:  # noqa: BLE001 - as above
            generation.fault(error)

    def on_tokens(
        self,
        sequence: int,
        token_ids: Sequence[int],
        logprobs: Sequence[TokenLogprob],
        came_s: float,
    ) -> None:
        """New ids of one sequence."""
        if not self.accepted:
            self.on_accepted()
        generation = self._generation
        if generation is None:
            return
        try:
            sequence += self._first
            if self._unverified:
                known = self._verify(generation, sequence, token_ids)
                token_ids, logprobs = token_ids[known:], logprobs[known:]
            if token_ids:
                generation.tokens(sequence, token_ids, logprobs, came_s)
        except Exception as error:  # noqa: BLE001 - as above
            generation.fault(error)

    def inlet(self, quota: TokenQuota) -> Inlet | None:
        """Returns what takes tokens of the only sequence, once the first has come as others do."""
        generation = self._generation
        if generation is None or len(generation.logs) > 1:
            return None
        self._inlet = generation.inlet(quota)
        return self._inlet

    def on_ending(self, sequence: int, finish: Finish, stop_token_id: int | None) -> None:
        """One sequence has ended."""
        generation = self._generation
        if generation is None:
            return
        try:
            if self._unverified and finish in (Finish.STOP, Finish.LENGTH):
                generation.diverged(self)
            else:
                generation.ending(self._first + sequence, finish, stop_token_id)
        except Exception as error:  # noqa: BLE001 - as above
            generation.fault(error)

    def on_completed(self, report: WorkerReport) -> None:
        """Every sequence has ended."""
        self._lease.regain()
        self.link.breaker.succeeded()
        self.on_accepted()
        generation = self._leave()
        if generation is None:
            return
        try:
            generation.completed(self, report)
        except Exception as error:  # noqa: BLE001 - as above
            generation.fault(error)

    def on_failed(self, error: ServiceError) -> None:
        """The worker refused it, failed at it, or is gone."""
        self._lease.regain()
        if error.code in _FAULTS and error.reason not in _NO_FAULTS:
            self.link.breaker.failed(time.monotonic())
        generation = self._leave()
        if generation is None:
            return
        try:
            self._tell_failure(generation, error)
        except Exception as fault:  # noqa: BLE001 - as above
            generation.fault(fault)
        self._settle(error)

    def _tell_failure(self, generation: Generation, error: ServiceError) -> None:
        if self.accepted:
            generation.lost(self, error)
        else:
            generation.refused(self, error)

    def _verify(self, generation: Generation, sequence: int, token_ids: Sequence[int]) -> int:
        """Compares ids with those that exist; returns how many of them do."""
        known = min(self._unverified, len(token_ids))
        place = self.token_offset - self._unverified
        if generation.logs[sequence].ids[place : place + known] != array("I", token_ids[:known]):
            generation.diverged(self)
            return len(token_ids)
        self._unverified -= known
        return known

    def _leave(self) -> Generation | None:
        """Lets the generation hear no more; returns it, or None where it has left already."""
        generation, self._generation = self._generation, None
        if self._inlet is not None:
            self._inlet.close()
        return generation

    def _settle(self, refusal: ServiceError | None) -> None:
        # It is done already where whoever waits was cancelled, and has yet to find out.
        if not self.settled.done():
            self.settled.set_result(refusal)


class PrefillAttempt(Attempt):
    """One try to have a worker compute the prompt for another: it is settled at its end."""

    __slots__ = ("report",)

    report: WorkerReport
    """Once it is settled without a refusal."""

    def on_ending(self, sequence: int, finish: Finish, stop_token_id: int | None) -> None:
        """The prompt is complete, or the generation's time is over."""
        if finish is not Finish.LENGTH:
            super().on_ending(sequence, finish, stop_token_id)

    def on_completed(self, report: WorkerReport) -> None:
        """The worker is done."""
        self.report = report
        super().on_completed(report)
        self._settle(None)

    def _settle_acceptance(self) -> None:
        """Leaves open whether there will be a prompt to go on with."""

    def _tell_failure(self, generation: Generation, error: ServiceError) -> None:
        # Nothing was told the client yet: it is as if the worker had refused it.
        generation.refused(self, error)
