"""One try at one worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tokenwire_service.errors import ServiceError

from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.logprobs import TokenLogprob
from tokenwire_frontend.generation.lease import Lease
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.receiver import WorkerReport

if TYPE_CHECKING:
    from tokenwire_frontend.generation.generation import Generation


class Attempt:
    """A generation at one worker: what the worker's link tells goes to the generation.

    Once it is closed the generation hears nothing of it any more: a worker's late frames, and a
    refusal that meets a cancel, end here. An exception that a frame causes ends this generation and
    never the link.

    Args:
        generation: what is tried.
        link: the worker.
        lease: the generation's, which the attempt keeps open for as long as the worker has it.
    """

    __slots__ = (
        "_generation", "_handle", "_lease", "accepted", "link", "on_token", "settled",
        "submitted_s",
    )  # fmt: skip

    def __init__(self, generation: Generation, link: WorkerLink, lease: Lease) -> None:
        self.link = link
        self.accepted = False
        self.settled: asyncio.Future[ServiceError | None]
        """The worker's word: None once it has taken the generation, else why not."""
        self.settled = asyncio.get_running_loop().create_future()
        self.submitted_s = 0.0
        """time.monotonic() of the submission."""
        self.on_token: Callable[[int, float], None] = generation.token
        """A new id of the only sequence: straight to the generation, since this is the hot path."""
        self._generation: Generation | None = generation
        self._lease = lease
        self._handle = 0

    def sent(self, handle: int) -> None:
        """Notes the link's handle of it, once it is sent."""
        self._handle = handle
        self._lease.lend()
        self.submitted_s = time.monotonic()

    def unsent(self, error: ServiceError) -> None:
        """Notes that it could not be sent, and why."""
        generation = self._leave()
        if generation is not None:
            generation.refused(error)
        self._settle(error)

    @property
    def was_sent(self) -> bool:
        """The worker may have heard of it."""
        return self._handle != 0

    def cancel(self, sequence: int | None = None) -> None:
        """Asks the worker to end the generation or one sequence; the ends still come."""
        if self._generation is not None:
            self.link.cancel(self._handle, sequence)

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
            generation.accepted()
        except Exception as error:  # noqa: BLE001 - ends this generation alone
            generation.fault(error)
        self._settle(None)

    def on_prompt_logprobs(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Log probabilities of the prompt's next tokens."""
        generation = self._generation
        if generation is None:
            return
        try:
            generation.prompt_logprobs(logprobs)
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
            generation.tokens(sequence, token_ids, logprobs, came_s)
        except Exception as error:  # noqa: BLE001 - as above
            generation.fault(error)

    def on_ending(self, sequence: int, finish: Finish, stop_token_id: int | None) -> None:
        """One sequence has ended."""
        generation = self._generation
        if generation is None:
            return
        try:
            generation.ending(sequence, finish, stop_token_id)
        except Exception as error:  # noqa: BLE001 - as above
            generation.fault(error)

    def on_completed(self, report: WorkerReport) -> None:
        """Every sequence has ended."""
        self._lease.regain()
        self.on_accepted()
        generation = self._leave()
        if generation is None:
            return
        try:
            generation.completed(report)
        except Exception as error:  # noqa: BLE001 - as above
            generation.fault(error)

    def on_failed(self, error: ServiceError) -> None:
        """The worker refused it, failed at it, or is gone."""
        self._lease.regain()
        generation = self._leave()
        if generation is None:
            return
        try:
            if self.accepted:
                generation.lost(error)
            else:
                generation.refused(error)
        except Exception as fault:  # noqa: BLE001 - as above
            generation.fault(fault)
        self._settle(error)

    def _leave(self) -> Generation | None:
        """Lets the generation hear no more; returns it, or None where it has left already."""
        generation, self._generation = self._generation, None
        self.on_token = _unheard
        return generation

    def _settle(self, refusal: ServiceError | None) -> None:
        # It is done already where whoever waits was cancelled, and has yet to find out.
        if not self.settled.done():
            self.settled.set_result(refusal)


def _unheard(_token_id: int, _came_s: float) -> None:
    """Takes an id that comes after the end."""
