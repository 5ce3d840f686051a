"""What is written down of each generation: a span with its stages, metrics, and one log line.

All are written once, at the end; nothing is recorded for a token.
"""

from __future__ import annotations

import time
import uuid
from enum import Enum

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from tokenwire_service.errors import ServiceError
from tokenwire_service.telemetry import semconv, tracing
from tokenwire_service.telemetry.tracing import OwnSpan

from tokenwire_worker import errors
from tokenwire_worker.core.generations import Completion, Live
from tokenwire_worker.core.request import GenerationRequest
from tokenwire_worker.engines.port import EngineInfo
from tokenwire_worker.metrics import WorkerMetrics

log = structlog.get_logger()

NAME_CHARACTERS_LIMIT = 128
"""Of a request id, which is written down even where it is refused: as many as a good one has."""


class CancelCause(Enum):
    """Why a generation was stopped early."""

    CALLER = "caller"
    CALLER_GONE = "caller_gone"
    TIME_BUDGET = "time_budget"


class Recorder:
    """Writes down all generations of this worker.

    Args:
        worker: name of the worker.
        model: name of the model.
        engine: what the engine says of itself.
        metrics: the instruments.
    """

    def __init__(self, worker: str, model: str, engine: EngineInfo, metrics: WorkerMetrics) -> None:
        self.worker = worker
        self.model = model
        self.metrics = metrics
        self.gen_ai = {
            semconv.GEN_AI_OPERATION_NAME: semconv.TEXT_COMPLETION,
            semconv.GEN_AI_PROVIDER_NAME: semconv.PROVIDER,
            semconv.GEN_AI_REQUEST_MODEL: model,
        }
        """Attributes of every generation's metrics and span."""
        self.span_attributes: dict[str, str | bool] = {
            **self.gen_ai,
            semconv.WORKER: worker,
            semconv.ENGINE: engine.engine,
        }
        if engine.simulated:
            self.span_attributes[semconv.SIMULATED] = True

    def begin(
        self, request: GenerationRequest, received_s: float, parent: Context | None
    ) -> GenerationRecord:
        """Starts the record of a generation that was accepted.

        Args:
            request: what the caller asked for.
            received_s: time.monotonic of its receipt.
            parent: trace context of the caller; None: it starts a trace.
        """
        return GenerationRecord(self, request, received_s, parent)

    def refuse(
        self,
        request_id: str,
        error: Exception,
        received_s: float,
        parent: Context | None,
    ) -> ServiceError:
        """Writes down a generation that was refused, or met a fault before it was accepted.

        Returns:
            What its caller is told: the refusal, or that there was a fault.
        """
        request_id = request_id[:NAME_CHARACTERS_LIMIT] or uuid.uuid4().hex
        span = _begin_span(self, request_id, received_s, parent)
        if not isinstance(error, ServiceError):
            error = _fault(error, request_id, span.trace_id)
        error.logged = True
        span.attributes[semconv.ERROR_TYPE] = error.reason
        span.status = Status(StatusCode.ERROR, error.reason)
        span.end(time.monotonic())
        self.metrics.generations.count(self.model, "refused", error.reason).value += 1
        log.info(
            "generation",
            request_id=request_id,
            trace_id=span.trace_id,
            outcome="refused",
            reason=error.reason,
            message=error.message,
        )
        return error


def _fault(error: Exception, request_id: str, trace_id: str) -> ServiceError:
    """Logs an exception that nobody has foreseen; returns what the generation's caller is told."""
    log.error("generation_fault", request_id=request_id, trace_id=trace_id, exc_info=error)
    return errors.internal_fault(error, trace_id)


def _begin_span(
    recorder: Recorder, request_id: str, received_s: float, parent: Context | None
) -> OwnSpan:
    context = parent if parent is not None else Context()
    caller = trace.get_current_span(context).get_span_context()
    # Under a call of this process it is a part of it; else it is where the caller's call arrives.
    local = caller.is_valid and not caller.is_remote
    kind = SpanKind.INTERNAL if local else SpanKind.SERVER
    span = tracing.begin(f"{semconv.TEXT_COMPLETION} {recorder.model}", context, kind, received_s)
    span.attributes = {**recorder.span_attributes, semconv.REQUEST_ID: request_id}
    return span


class GenerationRecord:
    """The span, metrics and log line of one generation; see `Recorder.begin`."""

    def __init__(
        self,
        recorder: Recorder,
        request: GenerationRequest,
        received_s: float,
        parent: Context | None,
    ) -> None:
        self.request_id = request.request_id or uuid.uuid4().hex
        """Name of the generation in logs and traces."""
        self.cancel_cause: CancelCause | None = None
        """Set where it was stopped early."""
        self._recorder = recorder
        self._span = _begin_span(recorder, self.request_id, received_s, parent)
        self._context = self._span.as_parent()

    def finish(self, live: Live, completion: Completion) -> None:
        """Writes down a generation that ended."""
        reasons = [reason.value for reason in live.reasons]
        self._measure(live, completion)
        cancelled = self.cancel_cause in (CancelCause.CALLER, CancelCause.CALLER_GONE)
        if cancelled and self.cancel_cause is not None:
            outcome, reason = "cancelled", self.cancel_cause.value
        else:
            outcome, reason = "completed", ",".join(sorted(set(reasons)))
        self._span.attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS] = reasons
        if self.cancel_cause is not None:
            told = {semconv.CANCEL_CAUSE: self.cancel_cause.value}
            self._span.attributes.update(told)
            self._span.add_event(semconv.EVENT_CANCELLED, told, time.monotonic())
        self._end(live, completion, outcome, reason)
        log.info("generation", **self._line(live, completion, outcome, reason))

    def fail(self, live: Live, error: ServiceError) -> None:
        """Writes down a generation that failed."""
        error.logged = True
        completion = live.completion(time.monotonic())
        self._span.attributes[semconv.ERROR_TYPE] = error.reason
        self._span.status = Status(StatusCode.ERROR, error.reason)
        self._recorder.metrics.request_duration.record(
            time.monotonic() - live.received_s,
            {**self._recorder.gen_ai, semconv.ERROR_TYPE: error.reason},
            self._context,
        )
        self._end(live, completion, "failed", error.reason)
        line = self._line(live, completion, "failed", error.reason)
        log.warning("generation", **line, message=error.message)

    def fault(self, error: Exception) -> ServiceError:
        """Logs an exception that the generation met; returns what its caller is told."""
        return _fault(error, self.request_id, self._span.trace_id)

    def _measure(self, live: Live, completion: Completion) -> None:
        """Records the durations of a generation that ended."""
        metrics, gen_ai, context = self._recorder.metrics, self._recorder.gen_ai, self._context
        model = {semconv.GEN_AI_REQUEST_MODEL: self._recorder.model}
        metrics.queue_duration.record(completion.queue_s, model, context)
        metrics.request_duration.record(time.monotonic() - live.received_s, gen_ai, context)
        if completion.prefill_s is not None and live.first_token_s is not None:
            first_s = completion.queue_s + completion.prefill_s
            metrics.time_to_first_token.record(first_s, gen_ai, context)
        each = completion.completion_tokens / live.generation.sequence_count
        if completion.decode_s is not None and each > 1:
            metrics.time_per_output_token.record(completion.decode_s / (each - 1), gen_ai, context)

    def _end(self, live: Live, completion: Completion, outcome: str, reason: str) -> None:
        """Counts it and ends the span."""
        metrics = self._recorder.metrics
        metrics.generations.count(self._recorder.model, outcome, reason).value += 1
        metrics.prompt_tokens.value += completion.prompt_tokens
        cached = completion.cached_prompt_tokens
        if cached is not None:
            count = metrics.prefix_cache_tokens.count
            count(self._recorder.model, semconv.HIT).value += cached
            missed = completion.prompt_tokens - cached - (completion.fetched_prompt_tokens or 0)
            count(self._recorder.model, semconv.MISS).value += missed
        self._span.attributes.update(
            {
                semconv.GEN_AI_REQUEST_MAX_TOKENS: (
                    live.generation.carried_tokens + live.generation.max_tokens
                ),
                # Not by the conventions' names: a backend that sums those would count a
                # generation twice, here and in the frontend.
                semconv.PROMPT_TOKENS: completion.prompt_tokens,
                semconv.COMPLETION_TOKENS: completion.completion_tokens,
            }
        )
        if cached is not None:
            self._span.attributes[semconv.CACHED_PROMPT_TOKENS] = cached
        if live.generation.prefill_only:
            self._span.attributes[semconv.PREFILL_ONLY] = True
        fetched = completion.fetched_prompt_tokens
        if fetched is not None:
            self._span.attributes[semconv.FETCHED_PROMPT_TOKENS] = fetched
            metrics.fetched_tokens.value += fetched
        if live.generation.carried_tokens:
            self._span.attributes[semconv.CARRIED_TOKENS] = live.generation.carried_tokens
        if self._span.sampled:
            self._write_stages(live)
        self._span.end(time.monotonic())

    def _write_stages(self, live: Live) -> None:
        now_s = time.monotonic()
        started, first, last = live.started_s, live.first_token_s, live.last_token_s
        queued_to_s = started if started is not None else now_s
        self._write_stage(semconv.SPAN_QUEUE, live.received_s, queued_to_s)
        if started is not None:
            filled_to_s = next(
                (each for each in (first, live.prefilled_s) if each is not None), now_s
            )
            fetches = bool(live.generation.transfer_handle)
            name = semconv.SPAN_FETCH if fetches else semconv.SPAN_PREFILL
            self._write_stage(name, started, filled_to_s)
        if first is not None and last is not None:
            self._span.add_event(semconv.EVENT_FIRST_TOKEN, None, first)
            self._write_stage(semconv.SPAN_DECODE, first, last)

    def _write_stage(self, name: str, from_s: float, to_s: float) -> None:
        self._span.child(name, SpanKind.INTERNAL, from_s).end(to_s)

    def _line(
        self, live: Live, completion: Completion, outcome: str, reason: str
    ) -> dict[str, str | int | float | None]:
        return {
            "request_id": self.request_id,
            "trace_id": self._span.trace_id,
            "outcome": outcome,
            "reason": reason,
            "prompt_tokens": completion.prompt_tokens,
            "cached_prompt_tokens": completion.cached_prompt_tokens,
            "fetched_prompt_tokens": completion.fetched_prompt_tokens,
            "carried_tokens": live.generation.carried_tokens,
            "completion_tokens": completion.completion_tokens,
            "sequences": live.generation.sequence_count,
            "queue_ms": _ms(completion.queue_s),
            "prefill_ms": _ms(completion.prefill_s),
            "decode_ms": _ms(completion.decode_s),
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
