"""The generations that the engine and their callers have not seen the end of.

What one of them meets, such as a cancel, a spent budget, an odd output of the engine or an
exception, ends that one. Each end takes the same way out (`_conclude`), in any order.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import structlog
from tokenwire_service.errors import ServiceError
from tokenwire_service.limits import TRANSFER_HANDLE_BYTES

from tokenwire_worker import errors
from tokenwire_worker.core.admission import Admission
from tokenwire_worker.core.generations import Ending, Live, Reason, Sink
from tokenwire_worker.core.recent_mean import RecentMean
from tokenwire_worker.engines.port import Columns, Engine, Output, Step
from tokenwire_worker.flight import Flight
from tokenwire_worker.generation_record import CancelCause
from tokenwire_worker.metrics import WorkerMetrics

_Routed: TypeAlias = tuple[list[int], list[int], list[int], list[int]]
"""What goes to one sink: handles, sequences, counts, token ids."""

log = structlog.get_logger()


class Flights:
    """Everything in flight, by key; on the event loop."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        metrics: WorkerMetrics,
        on_change: Callable[[], None],
    ) -> None:
        """Starts empty.

        Args:
            engine: where they run.
            admission: its places, and the queue before it.
            metrics: where steps are counted.
            on_change: told when the load has changed.
        """
        self.live = 0
        """Generations whose caller has not been told the end."""
        self.idle = asyncio.Event()
        """Set while there are none."""
        self.idle.set()
        self.steps = 0
        """Engine steps since the start."""
        self.step_s = RecentMean()
        """Time that they take of late."""
        self.handed_over_s = -math.inf
        """time.monotonic() when the last prompt was complete that another worker goes on with."""
        self.generated_tokens = 0
        """Tokens that callers were told of since the start."""
        self._engine = engine
        self._admission = admission
        self._metrics = metrics
        self._on_change = on_change
        self._flights: dict[int, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(list(self._flights.values()))

    def get(self, key: int) -> Flight | None:
        """Returns a generation whose caller has not been told the end."""
        flight = self._flights.get(key)
        return None if flight is None or flight.live is None else flight

    def add(self, flight: Flight) -> None:
        """Takes a generation, which is live."""
        self._flights[flight.key] = flight
        self.live += 1
        self.idle.clear()
        self._on_change()

    def feed(self) -> None:
        """Gives the engine what it has room for."""
        while taken := self._admission.take():
            for place in taken:
                flight = self._flights[place.key]
                if flight.live is None:
                    raise AssertionError("a generation that waits is live. This is a bug.")
                try:
                    self._engine.submit(place.key, flight.live.generation)
                except Exception as error:  # noqa: BLE001 - the engine may raise anything
                    place.close()
                    self.fault(flight, error)
                    continue
                # Sequences that were cancelled while the request waited.
                for sequence in place.in_engine - flight.live.open:
                    self._cancel_in_engine(place.key, sequence)

    # --- how they end ----------------------------------------------------------------------------

    def stop(self, flight: Flight, ending: Ending, cause: CancelCause | None = None) -> None:
        """Ends what is open of a generation now, and stops it in the engine.

        Args:
            flight: the generation.
            ending: what the caller is told of each sequence.
            cause: why it is stopped early; None: it has come to its end.
        """

        def tell(live: Live) -> None:
            flight.record.cancel_cause = cause
            for sequence in sorted(live.open):
                live.end(sequence, ending)
            self._complete(flight, live)

        self._conclude(flight, tell)
        self.feed()

    def stop_sequences(self, flight: Flight, sequences: set[int]) -> None:
        """Cancels some of a generation's open sequences, but not the last."""
        if flight.live is None:
            return
        for sequence in sorted(sequences):
            flight.live.end(sequence, Ending(Reason.CANCELLED))
            if flight.place is not None and sequence in flight.place.in_engine:
                self._cancel_in_engine(flight.key, sequence)

    def fail(self, flight: Flight, error: ServiceError) -> None:
        """Ends a generation with an error, and stops it in the engine."""

        def tell(live: Live) -> None:
            live.sink.failed(live.handle, error)
            flight.record.fail(live, error)

        self._conclude(flight, tell)

    def fault(self, flight: Flight, error: Exception) -> None:
        """Fails a generation that met an error, and logs it where it is not a known one."""
        self.fail(flight, error if isinstance(error, ServiceError) else flight.record.fault(error))

    def fail_all(self, error: Callable[[], ServiceError]) -> None:
        """Fails every generation that is live."""
        for flight in self:
            self.fail(flight, error())

    def clear(self) -> None:
        """Gives back every place, of an engine that is gone."""
        for flight in self:
            flight.leave_engine()
        self._flights.clear()

    def _complete(self, flight: Flight, live: Live) -> None:
        completion = live.completion(time.monotonic())
        live.sink.completed(live.handle, completion)
        flight.record.finish(live, completion)

    def _conclude(self, flight: Flight, tell: Callable[[Live], None]) -> None:
        """Ends a generation for its caller, whatever telling it raises, and in the engine.

        The one place where a generation's timer, its place in the queue and its count among the
        live are given up.
        """
        live = flight.leave_caller()
        if live is None:
            return
        self.live -= 1
        if not self.live:
            self.idle.set()
        if flight.runs:
            self._cancel_in_engine(flight.key)
        try:
            tell(live)
        except Exception as error:  # noqa: BLE001 - its caller is out of reach
            flight.record.fault(error)
        self._forget_if_over(flight)
        self._on_change()

    def _cancel_in_engine(self, key: int, sequence: int | None = None) -> None:
        try:
            self._engine.cancel(key, sequence)
        except Exception:
            # Its sequences then end by themselves, and so give back their places.
            log.exception("engine_cancel_fault", key=key, sequence=sequence)

    def _forget_if_over(self, flight: Flight) -> None:
        if flight.live is None and not flight.runs:
            flight.leave_engine()
            self._flights.pop(flight.key, None)

    # --- what the engine brings ------------------------------------------------------------------

    def take(self, step: Step, ended_s: float) -> None:
        """Routes one step."""
        took_s = ended_s - step.began_s
        self.step_s.add(took_s)
        self._metrics.step(took_s, len(step.columns.keys) + len(step.outputs))
        for key in step.started:
            flight = self.get(key)
            if flight is not None and flight.live is not None:
                flight.live.started_s = step.began_s
        if step.columns.keys:
            self._take_columns(step.columns, ended_s)
        lasts: list[Output] = []
        for output in step.outputs:
            if output.finish is not None or output.error is not None:
                lasts.append(output)
            self._take_output(output, ended_s)
        self.steps += 1
        for output in lasts:
            self._take_last(output)
        if lasts:
            self.feed()
        self._on_change()

    def _take_output(self, output: Output, ended_s: float) -> None:
        """Routes what one sequence got."""
        flight = self.get(output.key)
        if flight is None or flight.live is None:
            return
        try:
            live, ids = flight.live, output.token_ids
            if output.prompt_logprobs is not None:
                live.sink.prompt_logprobs(live.handle, output.prompt_logprobs)
            if output.transfer_handle:
                self._take_prefilled(live, output, ended_s)
            if ids and output.sequence in live.open:
                self._count(len(ids))
                live.completion_tokens += len(ids)
                live.last_token_s = ended_s
                if live.first_token_s is None:
                    live.note_first_output(ended_s, output)
                live.sink.tokens(live.handle, output.sequence, ids, output.logprobs)
        except Exception as error:  # noqa: BLE001 - one output's fault is not the others'
            self.fault(flight, error)

    def _take_prefilled(self, live: Live, output: Output, ended_s: float) -> None:
        """Takes the end of a prompt that was computed alone."""
        handle_bytes = len(output.transfer_handle)
        if handle_bytes > TRANSFER_HANDLE_BYTES:
            raise errors.engine_failed(
                f"its handle of the prompt has {handle_bytes} bytes; at most "
                f"{TRANSFER_HANDLE_BYTES}"
            )
        live.note_prefilled(ended_s, output)
        self.handed_over_s = ended_s

    def _take_columns(self, columns: Columns, ended_s: float) -> None:
        """Routes columns; what does not fit together fails the generations that they name."""
        try:
            for sink, routed in self._routes(columns, ended_s).items():
                self._count(len(routed[-1]))
                sink.columns(*routed)
        except Exception as error:  # noqa: BLE001 - the engine may bring anything
            for flight in filter(None, map(self.get, columns.keys)):
                self.fault(flight, error)

    def _routes(self, columns: Columns, ended_s: float) -> dict[Sink, _Routed]:
        """Returns what goes to each sink. The hot path: a turn for each sequence and step."""
        flights = self._flights
        routes: dict[Sink, _Routed] = {}
        sink: Sink | None = None
        upto = 0
        for key, sequence, count in zip(
            columns.keys, columns.sequences, columns.counts, strict=True
        ):
            start, upto = upto, upto + count
            flight = flights.get(key)
            if flight is None or (live := flight.live) is None or sequence not in live.open:
                continue
            live.completion_tokens += count
            live.last_token_s = ended_s
            if live.first_token_s is None:
                live.note_first_token(ended_s)
            if live.sink is not sink:
                sink = live.sink
                handles, sequences, counts, ids = routes.setdefault(sink, ([], [], [], []))
            handles.append(live.handle)
            sequences.append(sequence)
            counts.append(count)
            ids += columns.token_ids[start:upto]
        return routes

    def _count(self, tokens: int) -> None:
        self.generated_tokens += tokens
        self._metrics.generated_tokens.value += tokens

    def _take_last(self, output: Output) -> None:
        """Takes the last of a sequence, or of a generation that failed in the engine."""
        flight = self._flights.get(output.key)
        if flight is None or flight.place is None:
            return
        if output.error is not None:
            flight.place.close()
            self.fail(flight, errors.engine_failed(output.error))
        else:
            flight.place.give_back(output.sequence)
            try:
                self._end_sequence(flight, output)
            except Exception as error:  # noqa: BLE001 - one output's fault is not the others'
                self.fault(flight, error)
        self._forget_if_over(flight)

    def _end_sequence(self, flight: Flight, output: Output) -> None:
        live = flight.live
        if live is None or output.finish is None or output.sequence not in live.open:
            return
        if output.times is not None:
            live.note_times(output.times)
        last = output.token_ids[-1] if output.token_ids else None
        live.end(output.sequence, live.ending(output.finish, last))
        if not live.open:
            self._conclude(flight, lambda live: self._complete(flight, live))
