"""What is written down of each generation: one span with its stages, and one log line.

Both are written once, at the end; nothing is recorded for a token.
"""

from __future__ import annotations

import time
import uuid
from enum import Enum

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from tokenwire_service import semconv, telemetry
from tokenwire_service.errors import ServiceError

from tokenwire_worker.core.generations import Completion, Live

log = structlog.get_logger()


class CancelCause(Enum):
    """Why a generation was stopped early."""

    CALLER = "caller"
    CALLER_GONE = "caller_gone"
    TIME_BUDGET = "time_budget"


class GenerationRecord:
    """The span and log line of one generation."""

    def __init__(
        self,
        request_id: str,
        worker: str,
        model: str,
        *,
        received_s: float,
        parent: Context | None,
    ) -> None:
        """Starts the span.

        Args:
            request_id: the caller's name for it; empty: one is made.
            worker: name of the worker.
            model: name of the model.
            received_s: time.monotonic of its receipt, with which the span begins.
            parent: trace context of the caller; None: it starts a trace.
        """
        self.request_id = request_id or uuid.uuid4().hex
        """Name of the generation in logs and traces."""
        self.cancel_cause: CancelCause | None = None
        """Set where it was stopped early."""
        self._span: Span = telemetry.tracer().start_span(
            f"{semconv.TEXT_COMPLETION} {model}",
            context=parent if parent is not None else Context(),
            kind=SpanKind.INTERNAL,
            start_time=_wall_ns(received_s),
            attributes={
                semconv.GEN_AI_OPERATION_NAME: semconv.TEXT_COMPLETION,
                semconv.GEN_AI_PROVIDER_NAME: semconv.PROVIDER,
                semconv.GEN_AI_REQUEST_MODEL: model,
                semconv.WORKER: worker,
                semconv.REQUEST_ID: self.request_id,
            },
        )

    def finish(self, live: Live, completion: Completion) -> None:
        """Writes down a generation that ended."""
        reasons = [reason.value for reason in live.reasons]
        if self._span.is_recording():
            self._span.set_attributes(
                {
                    semconv.GEN_AI_REQUEST_MAX_TOKENS: live.generation.max_tokens,
                    semconv.GEN_AI_RESPONSE_FINISH_REASONS: reasons,
                    semconv.GEN_AI_USAGE_INPUT_TOKENS: completion.prompt_tokens,
                    semconv.GEN_AI_USAGE_OUTPUT_TOKENS: completion.completion_tokens,
                }
            )
            if completion.cached_prompt_tokens is not None:
                self._span.set_attribute(
                    semconv.GEN_AI_USAGE_CACHED_TOKENS, completion.cached_prompt_tokens
                )
            if self.cancel_cause is not None:
                self._span.set_attribute(semconv.CANCEL_CAUSE, self.cancel_cause.value)
            self._write_stages(live)
        self._span.end(_wall_ns(time.monotonic()))
        log.info(
            "generation",
            request_id=self.request_id,
            trace_id=telemetry.trace_id(self._span),
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            sequences=live.generation.sequence_count,
            finish=sorted(set(reasons)),
            queue_ms=_ms(completion.queue_s),
            prefill_ms=_ms(completion.prefill_s),
            decode_ms=_ms(completion.decode_s),
            cancel_cause=self.cancel_cause.value if self.cancel_cause else None,
        )

    def fail(self, live: Live, error: ServiceError) -> None:
        """Writes down a generation that failed."""
        self._span.set_attribute(semconv.ERROR_TYPE, error.reason)
        self._span.set_status(Status(StatusCode.ERROR, error.message))
        if self._span.is_recording():
            self._write_stages(live)
        self._span.end(_wall_ns(time.monotonic()))
        log.warning(
            "generation_failed",
            request_id=self.request_id,
            trace_id=telemetry.trace_id(self._span),
            prompt_tokens=len(live.generation.prompt),
            completion_tokens=live.completion_tokens,
            code=error.code.name,
            reason=error.reason,
            message=error.message,
        )

    def _write_stages(self, live: Live) -> None:
        now_s = time.monotonic()
        started, first, last = live.started_s, live.first_token_s, live.last_token_s
        stages = [(semconv.SPAN_QUEUE, live.received_s, started if started is not None else now_s)]
        if started is not None:
            stages.append((semconv.SPAN_PREFILL, started, first if first is not None else now_s))
        if first is not None and last is not None:
            self._span.add_event(semconv.FIRST_TOKEN, timestamp=_wall_ns(first))
            stages.append((semconv.SPAN_DECODE, first, last))
        context = trace.set_span_in_context(self._span)
        for name, from_s, to_s in stages:
            stage = telemetry.tracer().start_span(
                name, context=context, start_time=_wall_ns(from_s)
            )
            stage.end(_wall_ns(to_s))


_WALL_AHEAD_NS = time.time_ns() - time.monotonic_ns()
"""Spans are dated by the wall clock, and stages taken on the monotonic one. Read once, so that the
stages of a generation stay in order when the wall clock is set."""


def _wall_ns(monotonic_s: float) -> int:
    return round(monotonic_s * 1e9) + _WALL_AHEAD_NS


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
