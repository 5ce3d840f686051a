"""Stands between the RPCs and the engine: admission, live generations, budgets, drain and death.

Everything here runs on the event loop; an engine on another thread hands each step over with one
`call_soon_threadsafe`. A generation that is cancelled or out of time ends for its caller at once;
its places in the engine are given back when the engine has confirmed the end of each sequence.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog
from opentelemetry.context import Context
from tokenwire_service import deadlines
from tokenwire_service.errors import ServiceError
from tokenwire_service.tasks import Supervisor

from tokenwire_worker import errors
from tokenwire_worker.core import validation
from tokenwire_worker.core.admission import Admission
from tokenwire_worker.core.generations import (
    NOWHERE,
    Ending,
    Live,
    Reason,
    Sink,
    ending_of_carried,
)
from tokenwire_worker.core.kv_events import KvEventLog
from tokenwire_worker.core.request import GenerationRequest
from tokenwire_worker.engine_listener import LoopListener
from tokenwire_worker.engines.port import (
    Busy,
    Engine,
    EngineInfo,
    Generation,
    Refused,
    Untried,
)
from tokenwire_worker.flight import Flight
from tokenwire_worker.flights import Flights
from tokenwire_worker.generation_record import CancelCause, Recorder
from tokenwire_worker.kv_event_feed import KvEventFeed
from tokenwire_worker.stall_watch import watch_for_stall

SHOWN_REQUESTS = 16
"""Most request ids that the log line of a stall names."""

_NOT_CARRIED = "it needs state that the engine has only of output which it generated itself"

FETCH_S = 2.0
"""Time that other workers have to fetch a prompt from one that drains: they begin within a step of
theirs, and what they do not get they compute."""

DEAD_CLOSE_S = 0.3
"""Time that an engine has to end which is dead: there is nothing left to save."""

log = structlog.get_logger()


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


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the worker is."""

    step_s: float | None
    """Mean time of an engine step of late; None: there was none."""
    queue_s: float | None
    """Time that a request of priority 0 which came now would wait for the engine; None: not
    known."""


@dataclass(frozen=True, slots=True)
class Held:
    """What is held for callers; all of it is 0 once nobody is served."""

    flights: int
    """Generations of which the engine or the caller has not heard the end."""
    live: int
    """Those of which the caller has not."""
    timers: int
    """Time budgets that run."""
    running_sequences: int
    waiting_requests: int
    watchers: int
    """Streams that watch the load."""


class Dispatcher:
    """Runs generations on one engine and routes what comes of them to their sinks."""

    def __init__(
        self,
        engine: Engine,
        recorder: Recorder,
        waiting_limit: int,
        stall_s: float | None = None,
        kv_log: KvEventLog | None = None,
    ) -> None:
        """Binds to the running event loop; `start` starts the engine.

        Args:
            engine: the engine, not started.
            recorder: where generations are written down.
            waiting_limit: requests that may wait for the engine.
            stall_s: time without progress after which the engine is given up; 0: never; None: as
                the engine says.
            kv_log: where the KV cache's events are kept, empty; None: in one of the usual size.
        """
        self.info: EngineInfo = engine.info
        """What the engine serves, with the LoRA adapters that requests may name now."""
        self.description_number = 1
        """Raised with each change of `info`."""
        self.waiting_limit = waiting_limit
        """Requests that may wait for the engine."""
        self.draining = False
        """Whether new work is refused because the worker is being stopped."""
        self.over = asyncio.Event()
        """Set when nothing is live any more and nothing will be: streams end."""
        self.kv_events = KvEventFeed(kv_log)
        """What happens to the engine's KV cache; it ends with `over`."""
        self._loop = asyncio.get_running_loop()
        self.died: asyncio.Future[str] = self._loop.create_future()
        """Done, with the reason, when the engine is gone for good."""
        self._engine = engine
        self._recorder = recorder
        self._worker = recorder.worker
        self._admission = Admission(self.info.running_sequences, waiting_limit)
        self._flights = Flights(engine, self._admission, recorder.metrics, self._load_changed)
        self._last_key = 0
        self._watchers: set[asyncio.Event] = set()
        self._stall_s = self.info.stall_s if stall_s is None else stall_s
        self._gone: ServiceError | None = None
        """What everything fails with once the engine is gone."""

    def start(self, supervisor: Supervisor) -> None:
        """Starts the engine, and with the supervisor the watch over its progress."""
        self._engine.start(
            LoopListener(self._loop, self._flights.take, self._on_death, self.kv_events.publish)
        )
        if self._stall_s:
            supervisor.keep("stall_watch", self._watch_for_stall)

    # --- what callers do -------------------------------------------------------------------------

    async def checked(self, request: GenerationRequest, received_s: float) -> Generation:
        """Returns the generation that a request asks for, once it is known that it can run.

        Awaits only where the request is guided: its form is tried by the engine.

        Raises:
            ServiceError: fields are at fault, or the worker does not accept new requests.
        """
        generation = self.validated(request)
        if generation.guide is not None:
            await self.try_guide(request, generation, received_s)
        return generation

    def validated(self, request: GenerationRequest) -> Generation:
        """Returns the generation that a request asks for; a guide is still to be tried.

        Raises:
            ServiceError: fields are at fault, or the worker does not accept new requests.
        """
        self.refuse_if_closing()
        found = validation.violations(request, self.info)
        if found:
            raise errors.invalid_fields(found)
        generation = validation.complete(request, self.info)
        if generation.carried_tokens and ending_of_carried(generation) is None:
            self._refuse_unless_carried(generation)
        if generation.prefill_only:
            kept = validation.not_handed_over(generation, self.info)
            if kept:
                raise errors.prompt_not_handed_over(self.info.engine, kept)
        return generation

    def _refuse_unless_carried(self, generation: Generation) -> None:
        """Refuses output so far after which the engine would go on otherwise than without it."""
        found = validation.not_carried(generation, self.info)
        found += [(field, _NOT_CARRIED) for field in self._engine.not_carried(generation)]
        if found:
            raise errors.output_not_carried(self.info.engine, found)

    async def try_guide(
        self, request: GenerationRequest, generation: Generation, received_s: float
    ) -> None:
        """Has the engine try the guide of a generation, within its time budget.

        Once that is spent it returns, since `submit` then ends the generation by itself.

        Raises:
            ServiceError: the engine cannot hold an output to it, or can't tell now.
        """
        time_left = asyncio.timeout(_left(request.time_budget_s, received_s))
        try:
            async with time_left:
                await self._engine.check(generation)
        except TimeoutError:
            if not time_left.expired():
                raise
            # `submit` has to find the budget spent, as the guide was not tried to its end.
            await deadlines.reached(received_s + (request.time_budget_s or 0.0))
        except Refused as refusal:
            raise errors.refused_by_engine(refusal) from refusal
        except Busy as busy:
            raise errors.engine_busy(self._worker, busy) from busy
        except Untried as untried:
            raise errors.guide_untried(self._worker, untried) from untried

    def submit(
        self,
        request: GenerationRequest,
        generation: Generation,
        sink: Sink,
        *,
        handle: int,
        received_s: float,
        parent: Context | None,
        cancelled: bool = False,
    ) -> int:
        """Takes a generation; its events go to the sink, acceptance first.

        Args:
            request: what the caller asked for.
            generation: what `validated` or `checked` made of it.
            sink: where its events go.
            handle: the caller's number for it, which each event carries.
            received_s: time.monotonic of its receipt, from which the time budget runs.
            parent: trace context of the caller; None: it starts a trace.
            cancelled: the caller has cancelled it already: it ends at once.

        Returns:
            The number by which it may be cancelled.

        Raises:
            ServiceError: the queue is full, the worker does not accept new requests, or the LoRA
                adapter has been unloaded since it was checked.
        """
        self.refuse_if_closing()
        if fault := validation.adapter_fault(generation.lora_adapter, self.info):
            raise errors.refused_by_engine(Refused("lora_adapter", fault))
        self._last_key = key = self._last_key + 1
        left_s = _left(request.time_budget_s, received_s)
        ended = ending_of_carried(generation)
        place = None
        if not cancelled and ended is None and (left_s is None or left_s > 0):
            place = self._admission.offer(key, generation.sequence_count, generation.priority)
            if place is None:
                raise errors.queue_full(self._worker, self.waiting_limit)
        try:
            record = self._recorder.begin(request, received_s, parent)
        except BaseException:
            if place is not None:
                place.close()
            raise
        live = Live(key, handle, record.request_id, generation, sink, received_s)
        flight = Flight(key, live, record, place, generation.lora_adapter)
        self._flights.add(flight)
        sink.accepted(handle, live.request_id)
        if cancelled:
            self._flights.stop(flight, Ending(Reason.CANCELLED), CancelCause.CALLER)
        elif ended is not None:
            self._flights.stop(flight, ended)
        elif place is None:
            self._on_budget_spent(key)
        elif request.time_budget_s is not None:
            self._await_budget(flight, received_s + request.time_budget_s)
        self._flights.feed()
        return key

    def cancel(self, key: int, sequences: Collection[int] = ()) -> None:
        """Cancels a generation, or some of its sequences; the sink is told the end of each.

        What is not live, or is no sequence of it, is passed over.
        """
        flight = self._flights.get(key)
        if flight is None or flight.live is None:
            return
        open_ones = flight.live.open
        some = open_ones.intersection(sequences) if sequences else open_ones
        if some == open_ones:
            self._flights.stop(flight, Ending(Reason.CANCELLED), CancelCause.CALLER)
        else:
            self._flights.stop_sequences(flight, some)

    def abandon(self, key: int) -> None:
        """Cancels a generation whose caller is gone; the sink is told nothing."""
        flight = self._flights.get(key)
        if flight is not None and flight.live is not None:
            flight.live.sink = NOWHERE
            self._flights.stop(flight, Ending(Reason.CANCELLED), CancelCause.CALLER_GONE)

    def fault(self, key: int, error: Exception) -> None:
        """Fails a generation that met a fault of this worker, which is logged; nobody else's."""
        flight = self._flights.get(key)
        if flight is not None:
            self._flights.fault(flight, error)
            self._flights.feed()

    def _await_budget(self, flight: Flight, ends_s: float) -> None:
        """Ends a generation at this time.monotonic(), and not before, as a timer may fire."""
        left_s = ends_s - time.monotonic()
        if left_s > 0:
            flight.budget = self._loop.call_later(left_s, self._await_budget, flight, ends_s)
        else:
            self._on_budget_spent(flight.key)

    def _on_budget_spent(self, key: int) -> None:
        flight = self._flights.get(key)
        if flight is not None:
            self._flights.stop(flight, Ending(Reason.TIME_BUDGET), CancelCause.TIME_BUDGET)

    def load(self) -> Load:
        """Tells how busy the worker is."""
        return Load(
            running_sequences=self._admission.running,
            waiting_requests=self._admission.waiting,
            kv_cache_usage=self._engine.load().kv_cache_usage,
            steps=self._flights.steps,
            generated_tokens=self._flights.generated_tokens,
            draining=self.draining,
        )

    def pace(self) -> Pace:
        """Tells how fast the worker is."""
        return Pace(self._flights.step_s.value, self._admission.wait_s())

    def held(self) -> Held:
        """Tells what is held for callers."""
        return Held(
            flights=len(self._flights),
            live=self._flights.live,
            timers=sum(flight.budget is not None for flight in self._flights),
            running_sequences=self._admission.running,
            waiting_requests=self._admission.waiting,
            watchers=len(self._watchers),
        )

    def watch_load(self) -> asyncio.Event:
        """Returns an event that is set whenever the load changes; `unwatch_load` ends it."""
        event = asyncio.Event()
        self._watchers.add(event)
        return event

    def unwatch_load(self, event: asyncio.Event) -> None:
        """Ends what `watch_load` began."""
        self._watchers.discard(event)

    # --- LoRA adapters ---------------------------------------------------------------------------

    def offer_adapters(self, names: Iterable[str]) -> None:
        """Has requests name these LoRA adapters from now on, and tells who watches the load."""
        self.info = replace(self.info, lora_adapters=tuple(names))
        self.description_number += 1
        self._load_changed()

    def using(self, lora_adapter: str) -> int:
        """Returns how many generations have a LoRA adapter, waiting or in the engine."""
        return sum(flight.lora_adapter == lora_adapter for flight in self._flights)

    async def unused(self, lora_adapter: str) -> None:
        """Waits until no generation has a LoRA adapter."""
        changed = self.watch_load()
        try:
            while self.using(lora_adapter):
                changed.clear()
                await changed.wait()
        finally:
            self.unwatch_load(changed)

    # --- the end ---------------------------------------------------------------------------------

    async def drain(self, grace_s: float) -> None:
        """Accepts nothing new, lets what is live finish within the grace, and fails the rest."""
        self.draining = True
        self._load_changed()
        try:
            async with asyncio.timeout(grace_s):
                await self._flights.idle.wait()
                # Other workers are about to fetch the last prompts.
                await asyncio.sleep(self._flights.handed_over_s + FETCH_S - time.monotonic())
        except TimeoutError:
            self._flights.fail_all(lambda: errors.grace_over(self._worker))
        self._end_streams()

    async def close(self) -> None:
        """Ends the engine and waits until its thread has ended; a dead one's only for a while."""
        closed: asyncio.Future[None] = self._loop.create_future()

        def close() -> None:
            try:
                self._engine.close()
            except Exception:
                log.exception("engine_close_fault")
            with suppress(RuntimeError):  # the loop may be closed by now
                self._loop.call_soon_threadsafe(_resolve, closed)

        # A daemon thread, since what a dead engine holds up must not hold up the process.
        threading.Thread(target=close, name="engine-close", daemon=True).start()
        await asyncio.wait([closed], timeout=DEAD_CLOSE_S if self.died.done() else None)

    def _on_death(self, reason: str) -> None:
        self._give_up(reason, errors.engine_died(self._worker, reason))

    def _give_up(self, reason: str, error: ServiceError) -> None:
        """Fails everything, for good."""
        if self.died.done():
            return
        self._gone = error
        self.died.set_result(reason)
        self._flights.fail_all(lambda: error)
        self._flights.clear()
        self._end_streams()

    async def _watch_for_stall(self) -> None:
        await watch_for_stall(
            self._engine, self._stall_s, lambda: self._admission.running > 0, self._on_stall
        )

    def _on_stall(self) -> None:
        held = [flight for flight in self._flights if flight.runs]
        now_s = time.monotonic()
        oldest_s = min((flight.live.received_s for flight in held if flight.live), default=now_s)
        log.critical(
            "engine_stalled",
            worker=self._worker,
            stall_s=self._stall_s,
            sequences=self._admission.running,
            generations=len(held),
            waiting_requests=self._admission.waiting,
            oldest_s=round(now_s - oldest_s, 3),
            request_ids=[flight.record.request_id for flight in held[:SHOWN_REQUESTS]],
        )
        reason = f"it made no progress for {self._stall_s:g} s, with work in flight"
        self._give_up(reason, errors.engine_stalled(self._worker, self._stall_s))
        self._engine.kill()

    def _end_streams(self) -> None:
        self.over.set()
        self.kv_events.end()
        self._load_changed()

    def closing_error(self) -> ServiceError:
        """Returns what requests are refused with once none is accepted any more."""
        return self._gone or errors.draining(self._worker)

    def refuse_if_closing(self) -> None:
        """Raises the ServiceError that new work is refused with, where none is accepted."""
        if self._gone is not None or self.draining:
            raise self.closing_error()

    def _load_changed(self) -> None:
        for event in self._watchers:
            event.set()


def _resolve(closed: asyncio.Future[None]) -> None:
    if not closed.done():
        closed.set_result(None)


def _left(budget_s: float | None, received_s: float) -> float | None:
    return None if budget_s is None else budget_s - (time.monotonic() - received_s)
