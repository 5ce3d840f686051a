"""One live generation: what a worker sends comes in, what the client has not taken yet waits here.

Nothing waits anywhere else. A client that reads slowly finds its deltas merged, and holds back
neither the worker's stream nor any other client; what waits is bounded by max_tokens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from tokenwire_service.errors import ServiceError

from tokenwire_frontend import errors
from tokenwire_frontend.core.events import Completion, News, Pace, Stage
from tokenwire_frontend.core.sequence import Finish, TokenLogprob
from tokenwire_frontend.core.sequence import Sequence as GeneratedSequence
from tokenwire_frontend.generation.record import GenerationRecord
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.receiver import WorkerReport

BUDGET_BACKSTOP_S = 0.5
"""The worker keeps the time budget; if it has said nothing this long after, the frontend ends the
generation itself."""


class LiveGeneration:
    """A generation from before its submission to its end; the worker link's Receiver.

    Args:
        record: where it is written down; ended here, with the generation.
        sequences: fresh, by index.
        prompt_tokens: tokens of the prompt.
        pace: when `on_news` is called.
        on_news: called when there is something to `take`; not again until it was taken.
        on_done: called once, when nothing more will come.
    """

    def __init__(
        self,
        record: GenerationRecord,
        sequences: list[GeneratedSequence],
        prompt_tokens: int,
        pace: Pace,
        on_news: Callable[[LiveGeneration], None],
        on_done: Callable[[LiveGeneration], None],
    ) -> None:
        self.record = record
        self.prompt_tokens = prompt_tokens
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once a worker has taken the generation; fails with its refusal."""
        self.done = False
        """Nothing more will come; what came may still wait to be taken."""
        self._sequences = sequences
        self._pace = pace
        self._on_news = on_news
        self._on_done = on_done
        self._told = False
        self._taken_s = 0.0
        self._held: asyncio.TimerHandle | None = None
        self._budget: asyncio.TimerHandle | None = None
        self._completion: Completion | None = None
        self._failure: ServiceError | None = None
        self._ending = Finish.CANCELLED
        self._deadline_first = False
        self._abandoned = False
        self._link: WorkerLink | None = None
        self._handle = 0
        self._submitted_s = 0.0
        self._first_token_s: float | None = None
        self._last_token_s = 0.0

    # What the frontend does with it.

    def submitted(self, link: WorkerLink, handle: int, *, deadline_first: bool) -> None:
        """Notes which worker has it now, and whether its time there ends with the deadline."""
        if self.accepted.done():  # an earlier worker refused it
            self.accepted = asyncio.get_running_loop().create_future()
        self._link, self._handle = link, handle
        self._submitted_s = time.monotonic()
        self._deadline_first = deadline_first

    def arm_budget(self, time_left_s: float) -> None:
        """Ends the generation this long from now if the worker has not."""
        loop = asyncio.get_running_loop()
        self._budget = loop.call_later(
            time_left_s + BUDGET_BACKSTOP_S, self.end, Finish.TIME_BUDGET
        )

    def end(self, finish: Finish) -> None:
        """Ends every open sequence here and now, and cancels it at the worker."""
        if self.done:
            return
        self._ending = finish
        self._cancel_at_worker(finish.value)
        self._complete(None)

    def cancel(self) -> None:
        """Asks the worker to stop; the sequences end with CANCELLED when it has."""
        if not self.done:
            self._cancel_at_worker("client_cancel")

    def abandon(self) -> None:
        """Cancels at the worker and tells nobody any more: the client is gone."""
        if self.done:
            return
        self._silence()
        self._abandoned = True
        self._cancel_at_worker(self.record.absence)
        if self._link is None:
            self._complete(None)

    def fail(self, error: ServiceError) -> None:
        """Ends it here and now with an error, and cancels it at the worker."""
        if not self.done:
            self._cancel_at_worker("drain")
            self._fail(error)

    def refuse(self, error: ServiceError) -> None:
        """Ends a generation that no worker took; the caller tells the client."""
        self._silence()
        if not self.done:
            self._failure = error
            self.record.refuse(error)
            self._finish()

    def take(self) -> News:
        """Returns what is new, and lets `on_news` be called again."""
        deltas = [delta for each in self._sequences if (delta := each.take()) is not None]
        self.record.deltas(len(deltas))
        if self.record.captures:
            for delta in deltas:
                self.record.note_text(delta.sequence, delta.text)
        self._told = False
        self._taken_s = time.monotonic()
        return News(deltas, self._completion, self._failure)

    # What the worker link tells it.

    def on_accepted(self) -> None:
        """The worker took it."""
        if not self.accepted.done():
            self.accepted.set_result(None)
            self.record.accepted(self.prompt_tokens)

    def on_tokens(
        self, sequence: int, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] = ()
    ) -> None:
        """New ids of one sequence."""
        if self.done:
            return
        self._last_token_s = came_s = time.monotonic()
        if self._first_token_s is None:
            self._first_token_s = came_s
            self.record.first_token()
        state = self._sequences[sequence]
        stopped = state.push(token_ids, logprobs)
        self.record.tokens(len(token_ids), time.monotonic() - came_s)
        if stopped and self._link is not None:
            alone = len(self._sequences) == 1
            self._link.cancel(self._handle, None if alone else sequence)
        if not self._told or self._held is not None:
            self._tell(urgent=stopped or state.token_count == len(token_ids))

    def on_ending(self, sequence: int, finish: Finish, stop_token_id: int | None) -> None:
        """One sequence has ended."""
        if self.done:
            return
        if finish is Finish.TIME_BUDGET and self._deadline_first:
            # The worker knows of one limit only. Its word may come before gRPC's own timer.
            self.record.cancelled("deadline")
            self._complete(None, errors.deadline_exceeded())
        else:
            self._sequences[sequence].finish(finish, stop_token_id)
            self._tell(urgent=True)

    def on_completed(self, report: WorkerReport) -> None:
        """Every sequence has ended."""
        if not self.done:
            self._complete(report)

    def on_failed(self, error: ServiceError) -> None:
        """The worker refused it, failed at it, or is gone."""
        if self.done:
            return
        if self._abandoned:
            self._complete(None)
            return
        if not self.accepted.done():
            self.record.left_worker(error)
            self.accepted.set_exception(error)
            return
        if all(each.end is not None for each in self._sequences):
            self._complete(None)  # all that the client asked for was there already
            return
        self._fail(error)

    # How it ends, and when the client is told.

    def _fail(self, error: ServiceError) -> None:
        self._failure = error
        self.record.fail(error, self._counted(None))
        self._finish()

    def _complete(self, report: WorkerReport | None, failure: ServiceError | None = None) -> None:
        """Ends it; the client is told the failure where there is one."""
        for each in self._sequences:
            each.finish(self._ending)
        if self.record.captures:
            for each in self._sequences:
                self.record.note_text(each.index, each.untaken_text)
        completion = self._counted(report)
        ends = [each.end.finish for each in self._sequences if each.end is not None]
        self.record.complete(completion, ends)
        if failure is None:
            self._completion = completion
        else:
            failure.logged = True
            self._failure = failure
        self._finish()

    def _counted(self, report: WorkerReport | None) -> Completion:
        """Returns what was counted and timed until now."""
        received_s = self.record.received_s
        tokens = max(each.token_count for each in self._sequences)
        first, per_token = self._first_token_s, None
        if first is not None and tokens > 1:
            # The engine's own time where it is told: tokens that travelled together arrive at once.
            told = report.decode_s if report is not None else None
            decode_s = self._last_token_s - first if told is None else told
            per_token = decode_s / (tokens - 1)
        return Completion(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=sum(each.token_count for each in self._sequences),
            cached_prompt_tokens=report.cached_prompt_tokens if report else None,
            time_to_first_token_s=None if first is None else first - received_s,
            time_per_output_token_s=per_token,
            total_s=time.monotonic() - received_s,
            stages=[*self.record.stages, *self._worker_stages(report)],
            worker=self._link.info.name if self._link and self._link.info else "",
        )

    def _worker_stages(self, report: WorkerReport | None) -> list[Stage]:
        """Places the worker's own durations one after the other from the submission on."""
        stages, start = [], self._submitted_s - self.record.received_s
        if report is not None:
            durations = (report.queue_s, report.prefill_s, report.decode_s)
            for name, duration in zip(("queue", "prefill", "decode"), durations, strict=True):
                if duration is not None:
                    stages.append(Stage("worker", name, start, duration))
                    start += duration
        return stages

    def _finish(self) -> None:
        self.done = True
        if self._budget is not None:
            self._budget.cancel()
        if not self.accepted.done():  # a generation that ended before its submission
            self.accepted.set_result(None)
        self._on_done(self)
        self._tell(urgent=True)

    def _cancel_at_worker(self, cause: str) -> None:
        self.record.cancelled(cause)
        if self._link is not None:
            self._link.cancel(self._handle)

    def _silence(self) -> None:
        """Lets `on_news` never be called again."""
        self._told = True
        if self._held is not None:
            self._held.cancel()
            self._held = None

    def _tell(self, *, urgent: bool) -> None:
        """Calls `on_news` now, or when the pace allows; once until the news is taken."""
        if self._pace.only_end and not self.done:
            return
        wait_s = self._taken_s + self._pace.max_delay_s - time.monotonic()
        if urgent or wait_s <= 0:
            if self._held is not None:
                self._held.cancel()
                self._held = None
            elif self._told:
                return
            self._told = True
            self._on_news(self)
        elif not self._told:
            self._told = True
            self._held = asyncio.get_running_loop().call_later(wait_s, self._release)

    def _release(self) -> None:
        self._held = None
        self._on_news(self)
