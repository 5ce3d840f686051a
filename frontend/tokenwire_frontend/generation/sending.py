"""How a generation is sent to a worker: the prompt, what is left of its time, and its span."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tokenwire_service.errors import ServiceError
from tokenwire_service.telemetry import semconv

from tokenwire_frontend import errors
from tokenwire_frontend.core.events import Mode
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.request import GenerationRequest
from tokenwire_frontend.core.routing.router import Choice, RoutedPrompt
from tokenwire_frontend.generation.attempt import Attempt
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.queues import Ticket
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.messages import carries_output, fill_request, prompt_request

Route: TypeAlias = Callable[[Model, RoutedPrompt], tuple[WorkerLink, Choice]]
"""Chooses a worker; raises NO_WORKER."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was checked and tokenised."""

    model: Model
    request: GenerationRequest
    ids: Sequence[int]
    """The prompt's."""
    banned: Sequence[Sequence[int]]
    """Ids of each banned word, in every form that it has."""
    ticket: Ticket
    """With which it comes back to the queue."""

    @property
    def repeatable(self) -> bool:
        """Whether the same request gives the same ids again."""
        sampling, defaults = self.request.sampling, self.model.defaults
        wanted = sampling.temperature
        temperature = defaults.temperature if wanted is None else wanted
        return temperature == 0 or sampling.seed is not None


class Sending:
    """Sends one generation, or sequences of it, to workers.

    Args:
        generation: what is sent.
        incoming: as it was received.
        prepared: as it is sent.
    """

    def __init__(self, generation: Generation, incoming: Incoming, prepared: Prepared) -> None:
        self._generation = generation
        self._incoming = incoming
        self._prepared = prepared

    @property
    def prompt(self) -> RoutedPrompt:
        """What a worker is chosen for."""
        turn = self._generation.turn
        return RoutedPrompt(
            self._prepared.ids,
            self._prepared.model.name,
            self._prepared.request.lora_adapter,
            self._prepared.request.cache_salt,
            preferred="" if turn is None else turn.worker,
        )

    @property
    def budget_left_s(self) -> float | None:
        """What is left of the time budget; None: it has none."""
        budget_s = self._prepared.request.time_budget_s
        return None if budget_s is None else budget_s - self._elapsed_s

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._incoming.received_s

    async def send(
        self, route: Route, sequence: int | None, mode: Mode, transfer_handle: bytes = b""
    ) -> Attempt | None:
        """Sends the generation or a sequence to a worker, with what is left of its time.

        Returns None where the generation is done, maybe since its budget is spent. An attempt that
        can't be sent is settled with the reason.

        Args:
            route: chooses the worker.
            sequence: the only one that it gets; None: all of them.
            mode: how it begins.
            transfer_handle: what it fetches the prompt by; empty: it computes it.

        Raises:
            ServiceError: NO_WORKER.
        """
        generation, prepared = self._generation, self._prepared
        record = generation.record
        so_far = () if mode is not Mode.CARRIED else generation.logs[sequence or 0].ids
        message = await prompt_request(prepared.ids, so_far)
        if generation.done:
            return None
        routed_s = time.monotonic()
        link, choice = route(prepared.model, self.prompt)
        budget_s, deadline_s = prepared.request.time_budget_s, self._incoming.deadline_s
        elapsed_s = self._elapsed_s
        if budget_s is not None and budget_s <= elapsed_s:
            generation.end(Finish.TIME_BUDGET)
            return None
        limits = [limit for limit in (budget_s, deadline_s) if limit is not None]
        hop = record.routed(link.info.name if link.info else "", link.address, choice)
        fill_request(
            message,
            prepared.request,
            record.request_id,
            prepared.model.defaults,
            banned=prepared.banned,
            time_left_s=max(min(limits) - elapsed_s, 0.0) if limits else None,
            trace_context=hop.trace_context,
            sequence=sequence,
            prefill_only=mode is Mode.PREFILL,
            transfer_handle=transfer_handle,
        )
        deadline_first = limits != [] and min(limits) == deadline_s
        attempt = generation.try_at(link, sequence, mode, deadline_first=deadline_first)
        attempt.hop = hop
        try:
            if mode is Mode.CARRIED and not carries_output(link.info):
                raise errors.output_not_carried(link.address)
            handle = link.submit(message, attempt)
        except ServiceError as error:
            attempt.unsent(error)
        else:
            attempt.sent(handle)
            record.stage(semconv.SPAN_ROUTE, routed_s, attempt.submitted_s)
        return attempt
