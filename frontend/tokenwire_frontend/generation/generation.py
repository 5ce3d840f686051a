"""One live generation: its state, its log, the attempts that feed it, the reader that takes it.

What a worker sends comes in through an attempt and is written into the sequences' logs; nothing
waits anywhere else. Where a worker is lost, the generation's placing finds another, which goes on
after what the logs hold.

Every way to DONE goes through `_finish`, once, so whatever meets in one turn of the event loop, the
first counts and the others find it done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from tokenwire_service.errors import ServiceError

from tokenwire_frontend import errors
from tokenwire_frontend.core.decoder import SequenceDecoder
from tokenwire_frontend.core.events import Completion, Mode, Resume
from tokenwire_frontend.core.fast_path import CHECK_TOKENS, Inlet, TokenQuota
from tokenwire_frontend.core.log import End, Finish, SequenceLog
from tokenwire_frontend.core.logprobs import TokenLogprob
from tokenwire_frontend.core.prompt_log import PromptLog
from tokenwire_frontend.generation.attempt import Attempt, PrefillAttempt
from tokenwire_frontend.generation.conversation import Turn
from tokenwire_frontend.generation.lease import Lease
from tokenwire_frontend.generation.parts import Parts
from tokenwire_frontend.generation.reader import Reader
from tokenwire_frontend.generation.readers import Readers
from tokenwire_frontend.generation.record import GenerationRecord
from tokenwire_frontend.generation.state import State
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.receiver import WorkerReport

if TYPE_CHECKING:
    from tokenwire_frontend.generation.placing import Placing

log = structlog.get_logger()

BUDGET_BACKSTOP_S = 0.5
"""The worker keeps the time budget; if it has said nothing this long after, the frontend ends the
generation itself."""


class Generation:
    """A generation from its admission to its end.

    Args:
        record: where it is written down; ended here, with the generation.
        lease: its place and timers, which its owner closes.
        reader: who takes it, or all who do.
    """

    def __init__(self, record: GenerationRecord, lease: Lease, reader: Reader | Readers) -> None:
        self.record = record
        self.state = State.STARTING
        self.prompt_tokens = 0
        self._most_tokens = 0
        self.logs: list[SequenceLog] = []
        """The sequences, by index; ended by `completion`, or as far as they came by `failure`."""
        self.prompt_log: PromptLog | None = None
        """Where log probabilities of the prompt are asked for."""
        self.completion: Completion | None = None
        self.failure: ServiceError | None = None
        self.turn: Turn | None = None
        """Of the conversation whose answer it generates."""
        self.retained = record.captures or reader.retains
        """Whether the logs keep what was taken."""
        self.resume: Resume | None = None
        """How a client comes back to it, where it outlives its call."""
        self._lease = lease
        self._reader = reader
        self._decoders: list[SequenceDecoder] = []
        self._placing: Placing | None = None
        self._attempts: list[Attempt] = []
        """At workers now: most often one, that has all sequences."""
        self._parts = Parts()
        self._deadline_first = False
        self._interrupt: asyncio.Timeout | None = None
        self._ending = Finish.CANCELLED
        self._cancelled = False
        # The workers were asked to end it: it goes on at no other.
        self.answer_bytes_limit: int | None = None
        """Where the whole answer has to fit into one message."""
        self._unchecked_tokens = 0
        self._inlet: Inlet | None = None
        # Of the attempt at the worker that has the only sequence.
        self._first_token_s: float | None = None
        self._last_token_s = 0.0
        reader.attach(self)

    @property
    def done(self) -> bool:
        """Nothing more will come."""
        return self.state is State.DONE

    @property
    def waits(self) -> bool:
        """It waits for a worker with room."""
        return self._lease.ticket.verdict is not None

    @property
    def used(self) -> tuple[int, int, int]:
        """Tokens of the prompt and of the output until now, and sequences."""
        output = sum(log.token_count - log.resumed for log in self.logs)
        return self.prompt_tokens, output, len(self.logs) or 1

    # How it starts.

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Leaves the block as soon as the generation is done: nobody wants what it does.

        The block may run on until its next wait; what it raises then counts no more.
        """
        try:
            async with asyncio.timeout(None) as self._interrupt:
                yield
        except Exception:
            if not self.done:
                raise
        finally:
            self._interrupt = None

    def take_turn(self, turn: Turn) -> None:
        """Takes a turn of a conversation, which ends with the generation."""
        self.turn, self.retained = turn, True

    def was_read(
        self, sequence_count: int, budget_s: float | None, answer_bytes_limit: int | None
    ) -> None:
        """Notes what was asked for, once it is known."""
        self.logs = [SequenceLog(index) for index in range(sequence_count)]
        self.answer_bytes_limit = answer_bytes_limit
        if budget_s is not None:
            elapsed_s = time.monotonic() - self.record.received_s
            left_s = max(budget_s - elapsed_s, 0.0) + BUDGET_BACKSTOP_S
            self._lease.call_later(left_s, self.end, Finish.TIME_BUDGET)
        if self._reader.cancelled:
            self.cancel()

    def was_tokenised(
        self,
        prompt_tokens: int,
        decoders: list[SequenceDecoder],
        prompt_log: PromptLog | None,
        most_tokens: int,
    ) -> None:
        """Notes the prompt's length, who turns ids into text, and what takes the prompt's own.

        `most_tokens` is what each sequence may have.
        """
        if self.done:
            return
        self.prompt_log = prompt_log
        self.prompt_tokens = prompt_tokens
        self._most_tokens = most_tokens
        self._decoders = decoders
        self.logs = [decoder.log for decoder in decoders]

    def placed_by(self, placing: Placing) -> None:
        """Notes who finds workers for it."""
        self._placing = placing

    def try_at(
        self, link: WorkerLink, sequence: int | None, mode: Mode, *, deadline_first: bool
    ) -> Attempt:
        """Returns an attempt at this worker, to be sent.

        Args:
            link: the worker.
            sequence: the one that it gets; None: all of them.
            mode: how it begins.
            deadline_first: the worker's time ends with the deadline, not with the budget.
        """
        kind = PrefillAttempt if mode is Mode.PREFILL else Attempt
        attempt = kind(self, link, self._lease, sequence, mode)
        self._attempts.append(attempt)
        self._deadline_first = deadline_first
        return attempt

    def stopped(self, sequence: int) -> bool:
        """Ends a sequence whose ids so far are all that it may have; returns whether it has ended.

        Its worker was lost before it could say so.
        """
        decoder = self._decoders[sequence]
        if decoder.log.end is None:
            stop_token_id = decoder.stopped_by
            if stop_token_id is not None:
                self.ending(sequence, Finish.STOP, stop_token_id)
            elif decoder.log.token_count >= self._most_tokens:
                self.ending(sequence, Finish.LENGTH, None)
        return decoder.log.end is not None

    def resumed(self) -> None:
        """Notes that every sequence which goes on has a worker, of those that began elsewhere."""
        if self.state is State.STARTING:  # none goes on
            self._run()

    def settle(self) -> None:
        """Completes it once every sequence has ended and no worker has it."""
        if not (self.done or self._attempts or self._seeks):
            self._complete()

    @property
    def _seeks(self) -> bool:
        """A worker is being found for a part of it."""
        return self._placing is not None and self._placing.seeking > 0

    # How it ends, by the frontend's or the client's will.

    def cancel(self, cause: str = "client_cancel") -> None:
        """Ends it for the client, who waits for the end: at once, or when the worker has."""
        if self.done:
            return
        self.record.cancelled(cause)
        self._cancelled = True
        if self.state is State.STARTING or self._seeks:
            self.end(Finish.CANCELLED)
        for attempt in self._attempts:
            attempt.cancel()

    def end(self, finish: Finish) -> None:
        """Ends every open sequence here and now, and cancels it at the worker."""
        if not self.done:
            self._ending = finish
            if finish is not Finish.CANCELLED:
                self.record.cancelled(finish.value)
            self._complete()

    def fail(self, error: ServiceError, cause: str = "") -> None:
        """Ends it here and now with an error, and cancels it at the worker."""
        if self.done:
            return
        if cause:
            self.record.cancelled(cause)
        self.failure = error
        if self.state is State.STARTING:
            self._finish(lambda: self.record.refuse(error))
        else:
            self._finish(lambda: self.record.fail(error, self._counted()))

    def fault(self, error: Exception) -> ServiceError:
        """Ends it because of an exception that nobody foresaw; returns what the client is told."""
        trace_id = self.record.trace_id
        log.error("generation_fault", trace_id=trace_id, exc_info=error)
        told = errors.internal_fault(error, trace_id)
        told.logged = True
        self.fail(told)
        return told

    def leave(self) -> None:
        """Ends it if it is not done, and tells nobody any more: the client is gone."""
        self._reader.close()
        if self.done:
            return
        self.record.cancelled(self.record.absence)
        if self.state is State.STARTING:
            self._finish(self.record.vanish)
        else:
            self._complete()

    # What the attempt tells it, while it is not done.

    def accepted(self, attempt: Attempt) -> None:
        """A worker took it, or a sequence of it."""
        if self.state is State.STARTING and attempt.mode is not Mode.PREFILL:
            self._run()
        self._parts.began(attempt)

    def _run(self) -> None:
        self.state = State.RUNNING
        self.record.accepted(self.prompt_tokens)

    def refused(self, attempt: Attempt, error: ServiceError) -> None:
        """A worker refused it; the next may take it."""
        self._leave(attempt, error)

    def prompt_logprobs(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Log probabilities of the prompt's next tokens."""
        if self.prompt_log is not None:
            self.prompt_log.append(logprobs)
            self._check_size()
            self._reader.wake(urgent=True)

    def inlet(self, quota: TokenQuota) -> Inlet:
        """Returns what takes tokens of the only sequence from one worker, once `tokens` opens it.

        Args:
            quota: what the worker may still send.
        """
        [decoder] = self._decoders
        if self._inlet is not None:  # of a worker before
            self._unchecked_tokens += self._inlet.open()
            self._last_token_s = max(self._last_token_s, self._inlet.came_s)
        self._inlet = Inlet(
            quota,
            decoder,
            self._reader,
            self.record.output_tokens,
            self._stop_lone,
            self.fault,
        )
        return self._inlet

    def _stop_lone(self) -> None:
        """A stop string has ended the only sequence."""
        self._look(0, stopped=True)
        self._reader.wake(urgent=True)

    def tokens(
        self,
        sequence: int,
        token_ids: Sequence[int],
        logprobs: Sequence[TokenLogprob],
        came_s: float,
    ) -> None:
        """New ids of one sequence."""
        self._last_token_s = came_s
        if self._first_token_s is None:
            self._first_token_s = came_s
            self.record.first_token(came_s)
        decoder = self._decoders[sequence]
        stopped = decoder.push(token_ids, logprobs)
        self.record.output_tokens.value += len(token_ids)
        self._unchecked_tokens += len(token_ids)
        if self._inlet is not None:
            self._unchecked_tokens += self._inlet.open()
        if self._unchecked_tokens >= CHECK_TOKENS or stopped:
            self._look(sequence, stopped=stopped)
        self._reader.wake(urgent=stopped or len(decoder.log.ids) == len(token_ids))

    def _look(self, sequence: int, *, stopped: bool) -> None:
        """Does what need not be done at every token."""
        if stopped:
            for attempt in self._attempts:
                if attempt.has(sequence):
                    attempt.cancel(None if len(self.logs) == 1 else sequence)
        if self._unchecked_tokens >= CHECK_TOKENS:
            self._unchecked_tokens = 0
            self._check_size()

    def ending(self, sequence: int, finish: Finish, stop_token_id: int | None) -> None:
        """One sequence has ended."""
        if finish is Finish.TIME_BUDGET and self._deadline_first:
            # The worker knows of one limit only. Its word may come before gRPC's own timer.
            self.record.cancelled("deadline")
            self._complete(errors.deadline_exceeded())
        else:
            self._decoders[sequence].finish(finish, stop_token_id)
            self._reader.wake(urgent=True)

    def diverged(self, attempt: Attempt) -> None:
        """A worker that began anew has generated something else than what was sent."""
        attempt.close()
        self._leave(attempt, None)
        self.interrupt(attempt.sequence or 0)

    def interrupt(self, sequence: int) -> None:
        """Ends a sequence that no worker can go on with exactly."""
        self.ending(sequence, Finish.INTERRUPTED, None)
        self.settle()

    def completed(self, attempt: Attempt, report: WorkerReport) -> None:
        """Every sequence that the worker had has ended."""
        self._leave(attempt, None)
        self._parts.ended(attempt, report)
        if self._placing is not None:
            self._placing.completed(attempt, report)
        self.settle()

    def lost(self, attempt: Attempt, error: ServiceError) -> None:
        """The worker failed at it, or is gone."""
        self._leave(attempt, error)
        had = [each.index for each in self.logs if attempt.has(each.index)]
        unfinished = [sequence for sequence in had if not self.stopped(sequence)]
        if not unfinished:
            self.settle()  # all that the client asked for was there already
        elif self._cancelled:
            self.end(Finish.CANCELLED)
        elif self._placing is None or not self._placing.go_on(attempt, unfinished, error):
            self.fail(error)

    def _leave(self, attempt: Attempt, error: ServiceError | None) -> None:
        self._attempts.remove(attempt)
        if attempt.hop is not None:
            self.record.left_worker(attempt.hop, error)
        if error is not None and attempt.accepted:
            self._parts.left(attempt, error)

    # The end.

    def _check_size(self) -> None:
        """Gives it up where more of it waits for the client than may, or than an answer holds."""
        limit_bytes = self.answer_bytes_limit
        if limit_bytes is not None:
            prompt_bytes = 0 if self.prompt_log is None else self.prompt_log.wire_bytes
            if prompt_bytes + sum(each.wire_bytes for each in self.logs) > limit_bytes:
                self.fail(errors.answer_too_large(limit_bytes))
                return
        excess = self._reader.excess()
        if excess is not None:
            self.fail(excess)

    def _complete(self, failure: ServiceError | None = None) -> None:
        """Ends it; the client is told the failure where there is one."""
        try:
            self._end_sequences()
            completion = self._counted()
        except Exception as error:  # noqa: BLE001 - ends this generation alone
            self.fault(error)
            return
        if failure is None:
            self.completion = completion
        else:
            failure.logged = True
            self.failure = failure
        ends = [each.end.finish for each in self.logs if each.end and not each.told]
        self._finish(lambda: self.record.complete(completion, ends))

    def _end_sequences(self) -> None:
        for decoder in self._decoders:
            decoder.finish(self._ending)
        for each in self.logs:
            if each.end is None:  # nothing was tokenised yet
                each.close("", End(self._ending))
            if self.record.captures:
                self.record.note_output(each.whole())

    def _finish(self, write_down: Callable[[], None]) -> None:
        """Makes it done, whatever else fails."""
        self.state = State.DONE
        for each in self.logs:
            each.seal()
        for attempt in self._attempts:
            attempt.close()
        if self._placing is not None:
            self._placing.close()
        if self._interrupt is not None:
            self._interrupt.reschedule(0.0)
        if self.turn is not None:
            self._end_turn(self.turn)
        try:
            write_down()
        except Exception:
            # The client gets its answer all the same.
            log.exception("record_fault", trace_id=self.record.trace_id)
        self._reader.wake(urgent=True)

    def _end_turn(self, turn: Turn) -> None:
        last = self._parts.last
        worker = "" if last is None else last.link.address
        answer = self.logs[0] if self.completion is not None else None
        try:
            turn.end(answer, worker)
        except Exception:
            # The client gets its answer, and CONVERSATION_MISMATCH with the next turn.
            log.exception("conversation_fault", trace_id=self.record.trace_id)

    def _counted(self) -> Completion:
        """Returns what was counted and timed until now."""
        received_s, parts = self.record.received_s, self._parts
        report, moved = parts.report, parts.moved
        tokens = max((each.token_count - each.resumed for each in self.logs), default=0)
        first, per_token = self._first_token_s, None
        if first is not None and tokens > 1:
            # The engine's own time where it is told: tokens that travelled together arrive at once.
            told = report.decode_s if report is not None and not moved else None
            last = max(self._last_token_s, 0.0 if self._inlet is None else self._inlet.came_s)
            decode_s = last - first if told is None else told
            per_token = decode_s / (tokens - 1)
        cached = parts.cached_prompt_tokens
        if cached is not None and cached > self.prompt_tokens:
            cached = None  # not to be believed, as the times that messages.worker_report leaves out
        return Completion(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=sum(each.token_count for each in self.logs),
            cached_prompt_tokens=cached,
            time_to_first_token_s=None if first is None else first - received_s,
            time_per_output_token_s=per_token,
            total_s=time.monotonic() - received_s,
            stages=sorted(
                [*self.record.stages, *parts.stages(received_s)], key=lambda stage: stage.start_s
            ),
            worker=parts.worker,
            parts=moved,
        )
