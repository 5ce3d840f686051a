"""Which workers a generation goes to: at its start, and on from one that was lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.tasks import Scope

from tokenwire_frontend import errors
from tokenwire_frontend.core.breaker import Casualties, MoveBudget, is_the_cause
from tokenwire_frontend.core.events import Mode
from tokenwire_frontend.core.held_calls import told_of_tools
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.generation.attempt import Attempt
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.losses import DEATHS, LOST, has_unloaded, is_unable
from tokenwire_frontend.generation.prefilling import Handover, prefill
from tokenwire_frontend.generation.queues import Queues
from tokenwire_frontend.generation.sending import Prepared, Sending
from tokenwire_frontend.no_room import QUEUE_FULL
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.pool import WorkerPool
from tokenwire_frontend.workers.receiver import WorkerReport

ATTEMPTS = 3
"""Workers that a new request is sent to: a refusal for want of room or for draining says nothing of
the next. Those that it can't be sent to are not counted."""

MOVES = 8
"""Workers that one sequence may lose: whoever loses more of them fares no better at the next."""

SOON_TOKENS = 8
"""New tokens of a sequence, up to which a worker's death may be the sequence's doing."""

WAIT_FIRST_S = 0.05
WAIT_MOST_S = 1.0
"""Bounds of the wait before the second try and the next ones, doubling, with jitter: so that what
one worker had does not come to the next at once, again and again."""

_COMES_BACK = DEATHS | {"DRAINING", "ENGINE_STALLED"}
"""Reasons of a worker that takes nothing now, whatever it is sent, and is about to be restarted."""

_TRY_ANOTHER = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})


@dataclass(slots=True)
class _Course:
    """What has happened to one sequence."""

    moves: int = 0
    deaths: list[set[object]] = field(default_factory=list)
    """Of workers, soon after they were given it."""
    unable: list[WorkerLink] = field(default_factory=list)
    """Workers that can't carry its output."""
    move: asyncio.Task[None] | None = None
    """The last."""


class Placing:
    """Brings one generation to workers.

    A generation of several sequences starts as one; where its worker is lost, it goes on as so many
    single sequences.

    Args:
        pool: the workers.
        queues: where it waits again, if they have no room after all.
        budget: of moves, the frontend's.
        casualties: the frontend's.
        scope: owns the tasks that move sequences.
        wait_s: time that a sequence waits for a worker to go on at; 0: it is never moved.
        generation: what is placed.
        incoming: as it was received.
        prepared: as it is sent.
    """

    def __init__(
        self,
        pool: WorkerPool,
        queues: Queues,
        budget: MoveBudget,
        casualties: Casualties,
        scope: Scope,
        wait_s: float,
        generation: Generation,
        incoming: Incoming,
        prepared: Prepared,
    ) -> None:
        self.seeking = 0
        """Sequences for which workers are being found, of a generation that may run already."""
        self._pool = pool
        self._queues = queues
        self._budget = budget
        self._casualties = casualties
        self._who = object()
        """Stands for the generation among casualties, without keeping it."""
        self._scope = scope
        self._wait_s = wait_s
        self._generation = generation
        self._prepared = prepared
        self._sending = Sending(generation, incoming, prepared)
        self._courses: dict[int, _Course] = {}
        self._handover: Handover | None = None
        generation.placed_by(self)

    async def start(self) -> None:
        """Returns once workers have taken the generation, or it is done.

        Raises:
            ServiceError: none takes it.
        """
        generation = self._generation
        if not self._prepared.request.output_so_far:
            self._handover = await self._prefill()
            if generation.logs[0].end is None:
                await self._start(None, Mode.NEW, [], self._handover)
            else:  # its time was over with the prompt
                generation.settle()
            return
        self.seeking += 1
        try:
            for log in generation.logs:
                if not (generation.done or generation.stopped(log.index)):
                    await self._resume(log.index, self._course(log.index))
        finally:
            self.seeking -= 1
        if not generation.done:
            generation.resumed()
            generation.settle()

    def completed(self, attempt: Attempt, report: WorkerReport) -> None:
        """Notes what a worker tells at the end of what it had."""
        handover = self._handover
        if attempt.mode is Mode.FETCHED and handover is not None:
            self._pool.pairings.note(attempt.link, handover.sent_s, handover.computing_s, report)

    def go_on(self, lost: Attempt, sequences: Sequence[int], error: ServiceError) -> bool:
        """Finds other workers for the sequences of one that was lost.

        Returns False, and does nothing, where they are not to be moved; the error may say why.
        """
        if not self._wait_s or error.code not in LOST or error.reason == errors.INTERNAL_FAULT:
            return False
        generation = self._generation
        courses = [self._course(sequence) for sequence in sequences]
        for sequence, course in zip(sequences, courses, strict=True):
            course.moves += 1
            fresh = generation.logs[sequence].token_count - lost.token_offset
            if error.reason in DEATHS and fresh < SOON_TOKENS:
                course.deaths.append(self._death(lost.link))
        if any(course.moves > MOVES for course in courses):
            return False
        if not all(self._budget.take(time.monotonic()) for _ in sequences):
            error.message += "; too many generations were moved of late to move this one"
            return False
        for sequence, course in zip(sequences, courses, strict=True):
            self.seeking += 1
            course.move = self._scope.start(
                self._move(sequence, course, lost.link, error),
                on_fault=self._fault,
                trace_id=generation.record.trace_id,
            )
        return True

    def close(self) -> None:
        """Ends every move."""
        for course in self._courses.values():
            if course.move is not None:
                course.move.cancel()

    def _course(self, sequence: int) -> _Course:
        return self._courses.setdefault(sequence, _Course())

    def _death(self, link: WorkerLink) -> set[object]:
        """Notes that a worker has died soon after it was given the generation."""
        return self._casualties.note(link.address, self._who, time.monotonic())

    def _fault(self, error: Exception) -> None:
        self._generation.fault(error)

    # At the start.

    async def _prefill(self) -> Handover | None:
        """Has another worker compute a long prompt, where there is one for that."""
        self.seeking += 1
        try:
            return await prefill(
                self._pool, self._sending, self._generation, self._prepared, self._death
            )
        finally:
            self.seeking -= 1

    async def _start(
        self,
        sequence: int | None,
        mode: Mode,
        unable: list[WorkerLink],
        handover: Handover | None = None,
    ) -> None:
        """Submits to one worker after the other until one takes it.

        Those that are `unable` to carry output are passed over, and noted. What was handed over is
        fetched by the workers that can, of which one is tried before the others.
        """
        generation, model = self._generation, self._prepared.model
        tried = [*unable]
        sent = 0
        while not generation.done:
            try:
                attempt = await self._submit(sequence, mode, tried, handover)
            except ServiceError as none_ready:
                await self._wait_again(none_ready, sent)
                tried = [*unable]
                continue
            if attempt is None:
                return
            refusal = await attempt.settled
            if refusal is None:
                self._budget.earn()
                return
            tried.append(attempt.link)
            if is_unable(refusal):
                unable.append(attempt.link)
            sent += attempt.was_sent
            ready = self._pool.ready(model.name, self._prepared.request.lora_adapter)
            others = [each for each in ready if each not in tried]
            another = refusal.code in _TRY_ANOTHER or has_unloaded(refusal)
            if not another or sent == ATTEMPTS or not others:
                await self._wait_again(refusal, sent)
                tried = [*unable]
                if refusal.reason == QUEUE_FULL:
                    sent = 0

    async def _wait_again(self, refusal: ServiceError, sent: int) -> None:
        """Returns once workers may take a new request that none took.

        Where its time budget is spent before, the generation is done.

        Args:
            refusal: why the last one did not.
            sent: workers that it was sent to.

        Raises:
            ServiceError: the refusal, where waiting does not help, or did not too often; or why it
                is not the request's turn in time.
        """
        prepared = self._prepared
        if refusal.reason == QUEUE_FULL or (sent < ATTEMPTS and self._may_pass(refusal)):
            left_s = self._sending.budget_left_s
            if await self._queues.again(prepared.ticket, prepared.model.name, left_s):
                return
            left_s = self._sending.budget_left_s
            if left_s is not None and left_s <= 0:
                self._generation.end(Finish.TIME_BUDGET)
                return
        raise told_of_tools(refusal, prepared.request)

    def _may_pass(self, refusal: ServiceError) -> bool:
        """Tells whether a request waits for a worker to come back that would take it."""
        if not self._queues.awaits_workers:
            return False
        if refusal.reason == errors.NO_WORKER:  # which may also be for want of its LoRA adapter
            return not self._pool.is_ready(self._prepared.model.name)
        return refusal.reason in _COMES_BACK

    async def _resume(self, sequence: int, course: _Course) -> None:
        """Places a sequence that began elsewhere."""
        while True:
            mode = self._mode(sequence, course)
            if mode is None:
                self._generation.interrupt(sequence)
                return
            try:
                await self._start(sequence, mode, course.unable if mode is Mode.CARRIED else [])
            except ServiceError as refusal:
                if mode is not Mode.CARRIED or not is_unable(refusal):
                    raise
            else:
                return

    # On from a worker that was lost.

    async def _move(
        self, sequence: int, course: _Course, lost: WorkerLink, error: ServiceError
    ) -> None:
        try:
            await self._find(sequence, course, lost, error)
        finally:
            self.seeking -= 1
        self._generation.settle()

    async def _find(
        self, sequence: int, course: _Course, lost: WorkerLink, error: ServiceError
    ) -> None:
        """Submits to workers until one goes on with the sequence, or the generation is done."""
        generation = self._generation
        # Not before: all that died with the worker has been noted by now.
        if is_the_cause(course.deaths):
            generation.fail(errors.kills_engines(len(course.deaths), error))
            return
        generation.record.moved(error, generation.logs[sequence].token_count)
        until_s = time.monotonic() + self._wait_s
        wait_s = WAIT_FIRST_S
        tried = [lost]
        while not generation.done:
            mode = self._mode(sequence, course)
            if mode is None:
                generation.interrupt(sequence)
                return
            refusal: ServiceError | None
            try:
                unable = course.unable if mode is Mode.CARRIED else []
                attempt = await self._submit(sequence, mode, [*tried, *unable])
            except ServiceError as none_ready:
                refusal, tried = none_ready, []
            else:
                refusal = None if attempt is None else await attempt.settled
                if attempt is None or refusal is None:
                    return
                if mode is Mode.CARRIED and is_unable(refusal):
                    course.unable.append(attempt.link)
                    continue
                if refusal.code not in LOST and not has_unloaded(refusal):
                    generation.fail(refusal)
                    return
                tried = [attempt.link]
            if time.monotonic() >= until_s:
                generation.fail(error)
                return
            await self._pool.wait_for_change(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
            wait_s = min(wait_s * 2, WAIT_MOST_S)

    def _mode(self, sequence: int, course: _Course) -> Mode | None:
        """Returns how a worker is to begin with a sequence; None: none can go on with it.

        What can be generated again is, once a worker can't carry it: the next ones most likely
        can't either.
        """
        prepared = self._prepared
        if not self._generation.logs[sequence].token_count:
            return Mode.NEW
        if not course.unable:
            return Mode.CARRIED
        if prepared.repeatable:
            return Mode.REPLAYED
        ready = self._pool.ready(prepared.model.name, prepared.request.lora_adapter)
        none_is_able = ready and all(each in course.unable for each in ready)
        return None if none_is_able else Mode.CARRIED

    # Both.

    async def _submit(
        self,
        sequence: int | None,
        mode: Mode,
        tried: Collection[WorkerLink],
        handover: Handover | None = None,
    ) -> Attempt | None:
        """Sends the generation or a sequence to a worker that was not tried; see Sending.send.

        Raises:
            ServiceError: NO_WORKER.
        """
        send, pool = self._sending.send, self._pool
        if handover is not None:
            group = handover.transfer_group
            with suppress(ServiceError):  # none of those that could fetch it is left
                return await send(
                    lambda model, prompt: pool.route_fetch(model, prompt, group, tried),
                    sequence,
                    Mode.FETCHED,
                    handover.transfer_handle,
                )
        return await send(lambda model, prompt: pool.route(model, prompt, tried), sequence, mode)
