"""Stands between the RPCs and the engine: admission, live generations, budgets, drain and death.

Everything here runs on the event loop; the engine's thread hands each step over with one
`call_soon_threadsafe`. A generation that is cancelled or out of time ends for its caller at once;
its places in the engine are given back when the engine has confirmed the end of each sequence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog
from opentelemetry.context import Context
from tokenwire_service.errors import ServiceError
from tokenwire_service.tasks import Supervisor

from tokenwire_worker import errors
from tokenwire_worker.core import validation
from tokenwire_worker.core.admission import Admission
from tokenwire_worker.core.generations import NOWHERE, Ending, Live, Reason, Sink
from tokenwire_worker.core.request import GenerationRequest
from tokenwire_worker.core.stall import StallClock
from tokenwire_worker.engine_listener import LoopListener
from tokenwire_worker.engines.port import (
    Busy,
    Engine,
    EngineInfo,
    Generation,
    Output,
    Refused,
    Step,
)
from tokenwire_worker.generation_record import CancelCause, GenerationRecord, Recorder
from tokenwire_worker.kv_event_feed import KvEventFeed

LOOK_S = 0.25
"""Between two looks at the engine's progress."""

SHOWN_REQUESTS = 16
"""Most request ids that the log line of a stall names."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Flight:
    """A generation from its acceptance until the engine has let go of all its sequences."""

    live: Live | None
    """None once the caller has been told the end."""
    record: GenerationRecord
    in_engine: set[int] = field(default_factory=set)
    """Sequences that hold a place in the engine."""
    budget: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the worker is."""

    running_sequences: int
    waiting_requests: int
    kv_cache_usage: float
    """Share of the KV cache in use, 0 to 1."""
    steps: int
    generated_tokens: int
    draining: bool


class Dispatcher:
    """Runs generations on one engine and routes what comes of them to their sinks."""

    def __init__(
        self,
        engine: Engine,
        recorder: Recorder,
        waiting_limit: int,
        stall_s: float | None = None,
    ) -> None:
        """Binds to the running event loop; `start` starts the engine.

        Args:
            engine: the engine, not started.
            recorder: where generations are written down.
            waiting_limit: requests that may wait for the engine.
            stall_s: time without progress after which the engine is given up; 0: never; None: as
                the engine says.
        """
        self.info: EngineInfo = engine.info
        """What the engine serves."""
        self.waiting_limit = waiting_limit
        """Requests that may wait for the engine."""
        self.draining = False
        """Whether new work is refused because the worker is being stopped."""
        self.over = asyncio.Event()
        """Set when nothing is live any more and nothing will be: streams end."""
        self.kv_events = KvEventFeed()
        """What happens to the engine's KV cache; it ends with `over`."""
        self._loop = asyncio.get_running_loop()
        self.died: asyncio.Future[str] = self._loop.create_future()
        """Done, with the reason, when the engine is gone for good."""
        self._engine = engine
        self._recorder = recorder
        self._metrics = recorder.metrics
        self._worker = recorder.worker
        self._admission = Admission(self.info.running_sequences, waiting_limit)
        self._flights: dict[int, _Flight] = {}
        self._live_count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_key = 0
        self._steps = 0
        self._watchers: set[asyncio.Event] = set()
        self._stall_s = self.info.stall_s if stall_s is None else stall_s
        self._gone: ServiceError | None = None
        """What everything fails with once the engine is gone."""

    def start(self, supervisor: Supervisor) -> None:
        """Starts the engine, and with the supervisor the watch over its progress."""
        self._engine.start(
            LoopListener(self._loop, self._on_step, self._on_death, self.kv_events.publish)
        )
        if self._stall_s:
            supervisor.keep("stall_watch", self._watch_for_stall)

    # --- what callers do -------------------------------------------------------------------------

    async def checked(self, request: GenerationRequest) -> Generation:
        """Returns the generation that a request asks for, once it is known that it can run.

        Awaits only where the request is guided: its form is tried by the engine.

        Raises:
            ServiceError: fields are at fault, or the worker takes no new work.
        """
        generation = self.validated(request)
        if generation.guide is not None:
            await self.try_guide(generation)
        return generation

    def validated(self, request: GenerationRequest) -> Generation:
        """Returns the generation that a request asks for; a guide is still to be tried.

        Raises:
            ServiceError: fields are at fault, or the worker takes no new work.
        """
        self._refuse_if_closing()
        found = validation.violations(request, self.info)
        if found:
            raise errors.invalid_fields(found)
        return validation.complete(request, self.info)

    async def try_guide(self, generation: Generation) -> None:
        """Has the engine try the guide of a generation.

        Raises:
            ServiceError: the engine cannot hold an output to it.
        """
        try:
            await self._engine.check(generation)
        except Refused as refusal:
            raise errors.refused_by_engine(refusal) from refusal
        except Busy as busy:
            raise errors.engine_busy(self._worker, busy) from busy

    def submit(
        self,
        request: GenerationRequest,
        generation: Generation,
        sink: Sink,
        *,
        handle: int,
        received_s: float,
        parent: Context | None,
    ) -> int:
        """Takes a generation; its events go to the sink, acceptance first.

        Args:
            request: what the caller asked for.
            generation: what `validated` or `checked` made of it.
            sink: where its events go.
            handle: the caller's number for it, which each event carries.
            received_s: time.monotonic of its receipt, from which the time budget runs.
            parent: trace context of the caller; None: it starts a trace.

        Returns:
            The number by which it may be cancelled.

        Raises:
            ServiceError: the queue is full, or the worker takes no new work.
        """
        self._refuse_if_closing()
        self._last_key = key = self._last_key + 1
        left_s = _left(request.time_budget_s, received_s)
        spent = left_s is not None and left_s <= 0
        if not spent and not self._admission.offer(
            key, generation.sequence_count, generation.priority
        ):
            raise errors.queue_full(self._worker, self.waiting_limit)
        record = self._recorder.begin(request, received_s, parent)
        live = Live(key, handle, record.request_id, generation, sink, received_s)
        flight = self._flights[key] = _Flight(live, record)
        self._live_count += 1
        self._idle.clear()
        sink.accepted(handle, live.request_id)
        if spent:
            self._end_for_caller(flight, Reason.TIME_BUDGET, CancelCause.TIME_BUDGET)
            return key
        if left_s is not None:
            flight.budget = self._loop.call_later(left_s, self._on_budget_spent, key)
        self._feed()
        self._load_changed()
        return key

    def cancel(self, key: int, sequences: Iterable[int] = ()) -> None:
        """Cancels a generation, or some of its sequences; the sink is told the end of each.

        What is not live, or is no sequence of it, is passed over.
        """
        flight = self._flights.get(key)
        if flight is None or flight.live is None:
            return
        some = list(sequences)
        if some and flight.live.open - set(some):
            for sequence in flight.live.open & set(some):
                flight.live.end(sequence, Ending(Reason.CANCELLED))
                if sequence in flight.in_engine:
                    self._engine.cancel(key, sequence)
            return
        if not some or flight.live.open & set(some):
            self._end_for_caller(flight, Reason.CANCELLED, CancelCause.CALLER)

    def abandon(self, key: int) -> None:
        """Cancels a generation whose caller is gone; the sink is told nothing."""
        flight = self._flights.get(key)
        if flight is not None and flight.live is not None:
            flight.live.sink = NOWHERE
            self._end_for_caller(flight, Reason.CANCELLED, CancelCause.CALLER_GONE)

    def load(self) -> Load:
        """Tells how busy the worker is."""
        return Load(
            running_sequences=self._admission.running,
            waiting_requests=self._admission.waiting,
            kv_cache_usage=self._engine.load().kv_cache_usage,
            steps=self._steps,
            generated_tokens=self._metrics.generated_tokens.value,
            draining=self.draining,
        )

    def watch_load(self) -> asyncio.Event:
        """Returns an event that is set whenever the load changes; `unwatch_load` ends it."""
        event = asyncio.Event()
        self._watchers.add(event)
        return event

    def unwatch_load(self, event: asyncio.Event) -> None:
        """Ends what `watch_load` began."""
        self._watchers.discard(event)

    # --- the end ---------------------------------------------------------------------------------

    async def drain(self, grace_s: float) -> None:
        """Takes nothing new, lets what is live finish within the grace, and fails the rest."""
        self.draining = True
        self._load_changed()
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except TimeoutError:
            self._fail_all(lambda: errors.grace_over(self._worker))
        self._end_streams()

    async def close(self) -> None:
        """Ends the engine and waits until its thread has ended."""
        await self._loop.run_in_executor(None, self._engine.close)

    def _on_death(self, reason: str) -> None:
        self._give_up(reason, errors.engine_died(self._worker, reason))

    def _give_up(self, reason: str, error: ServiceError) -> None:
        """Fails everything, for good."""
        if not self.died.done():
            self._gone = error
            self.died.set_result(reason)
            self._fail_all(lambda: error)
            self._flights.clear()
            self._end_streams()

    async def _watch_for_stall(self) -> None:
        look_s = min(LOOK_S, self._stall_s / 4)
        clock = StallClock(self._stall_s, look_s)
        while not self.died.done():
            now_s = time.monotonic()
            busy = self._admission.running > 0
            if clock.look(self._engine.progress(), busy=busy, now_s=now_s):
                self._on_stall(now_s)
            await asyncio.sleep(look_s)

    def _on_stall(self, now_s: float) -> None:
        held = [flight for flight in self._flights.values() if flight.in_engine]
        oldest_s = min((flight.live.received_s for flight in held if flight.live), default=now_s)
        log.critical(
            "engine_stalled",
            stall_s=self._stall_s,
            sequences=self._admission.running,
            generations=len(held),
            waiting_requests=self._admission.waiting,
            oldest_s=round(now_s - oldest_s, 3),
            request_ids=[flight.record.request_id for flight in held[:SHOWN_REQUESTS]],
        )
        self._engine.kill()
        reason = f"it made no progress for {self._stall_s:g} s, with work in flight"
        self._give_up(reason, errors.engine_stalled(self._worker, self._stall_s))

    def _end_streams(self) -> None:
        self.over.set()
        self.kv_events.end()
        self._load_changed()

    def _fail_all(self, error: Callable[[], ServiceError]) -> None:
        for flight in list(self._flights.values()):
            if flight.live is not None:
                self._fail(flight, error())

    def _refuse_if_closing(self) -> None:
        if self._gone is not None:
            raise self._gone
        if self.draining:
            raise errors.draining(self._worker)

    # --- what the engine brings ------------------------------------------------------------------

    def _on_step(self, step: Step, ended_s: float) -> None:
        """Routes one step. The hot path: its loop runs once for each sequence and step."""
        flights, generated = self._flights, self._metrics.generated_tokens
        self._metrics.step(ended_s - step.began_s, len(step.outputs))
        for key in step.started:
            flight = flights.get(key)
            if flight is not None and flight.live is not None:
                flight.live.started_s = step.began_s
        ended = False
        for output in step.outputs:
            flight = flights.get(output.key)
            if flight is None:
                continue
            live = flight.live
            ids = output.token_ids
            if ids and live is not None and output.sequence in live.open:
                count = len(ids)
                generated.value += count
                live.completion_tokens += count
                live.last_token_s = ended_s
                if live.first_token_s is None:
                    live.note_first_token(ended_s, output)
                live.sink.tokens(live.handle, output.sequence, ids, output.logprobs)
            if output.finish is not None or output.error is not None:
                self._on_sequence_over(flight, output)
                ended = True
        self._steps += 1
        if ended:
            self._feed()
        if self._watchers:
            self._load_changed()

    def _on_sequence_over(self, flight: _Flight, output: Output) -> None:
        live = flight.live
        if output.error is not None:
            self._admission.release(len(flight.in_engine))
            flight.in_engine.clear()
            if live is None:
                self._flights.pop(output.key, None)
            else:
                self._fail(flight, errors.engine_failed(output.error))
            return
        if output.sequence in flight.in_engine:
            flight.in_engine.discard(output.sequence)
            self._admission.release()
        if live is None:
            if not flight.in_engine:
                self._flights.pop(output.key, None)
        elif output.finish is not None and output.sequence in live.open:
            if output.times is not None:
                live.note_times(output.times)
            last = output.token_ids[-1] if output.token_ids else None
            live.end(output.sequence, live.ending(output.finish, last))
            if not live.open:
                self._close(flight)

    def _on_budget_spent(self, key: int) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.live is not None:
            self._end_for_caller(flight, Reason.TIME_BUDGET, CancelCause.TIME_BUDGET)

    # --- how generations begin and end -----------------------------------------------------------

    def _feed(self) -> None:
        """Gives the engine what it has room for."""
        for key in self._admission.take():
            flight = self._flights[key]
            live = flight.live
            if live is None:
                raise AssertionError("a generation that waits is live. This is a bug.")
            flight.in_engine.update(range(live.generation.sequence_count))
            self._engine.submit(key, live.generation)
            # Sequences that were cancelled while the request waited.
            for sequence in flight.in_engine - live.open:
                self._engine.cancel(key, sequence)

    def _end_for_caller(self, flight: _Flight, reason: Reason, cause: CancelCause) -> None:
        """Ends what is open of a generation now, and stops it in the engine."""
        live = flight.live
        if live is None:
            return
        flight.record.cancel_cause = cause
        for sequence in sorted(live.open):
            live.end(sequence, Ending(reason))
        self._stop_in_engine(flight, live.key)
        self._close(flight)
        self._feed()

    def _fail(self, flight: _Flight, error: ServiceError) -> None:
        live = flight.live
        if live is None:
            return
        self._stop_in_engine(flight, live.key)
        live.sink.failed(live.handle, error)
        flight.record.fail(live, error)
        self._forget(flight, live)

    def _stop_in_engine(self, flight: _Flight, key: int) -> None:
        self._admission.withdraw(key)
        if flight.in_engine:
            self._engine.cancel(key)

    def _close(self, flight: _Flight) -> None:
        live = flight.live
        if live is None:
            return
        completion = live.completion(time.monotonic())
        live.sink.completed(live.handle, completion)
        flight.record.finish(live, completion)
        self._forget(flight, live)

    def _forget(self, flight: _Flight, live: Live) -> None:
        flight.live = None
        if flight.budget is not None:
            flight.budget.cancel()
        if not flight.in_engine:
            self._flights.pop(live.key, None)
        self._live_count -= 1
        if not self._live_count:
            self._idle.set()
        self._load_changed()

    def _load_changed(self) -> None:
        for event in self._watchers:
            event.set()


def _left(budget_s: float | None, received_s: float) -> float | None:
    return None if budget_s is None else budget_s - (time.monotonic() - received_s)
