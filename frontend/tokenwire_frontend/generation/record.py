"""What is written down of each generation: spans, metrics, one log line, and a record to look up.

Nothing is recorded for a token: what tokens add up to is recorded once, at the end.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import structlog
from opentelemetry.trace import SpanKind, Status, StatusCode
from tokenwire_service import deadlines
from tokenwire_service.errors import ServiceError
from tokenwire_service.telemetry import semconv, tracing
from tokenwire_service.telemetry.metrics import Attributes
from tokenwire_service.telemetry.tracing import OwnSpan

from tokenwire_frontend.core.activity import Activity, Outcome, Record
from tokenwire_frontend.core.events import Completion, Stage
from tokenwire_frontend.core.log import Delta, Finish
from tokenwire_frontend.core.request import GenerationRequest
from tokenwire_frontend.core.routing.router import Choice
from tokenwire_frontend.generation import span_content
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.metrics import FrontendMetrics, peer

log = structlog.get_logger()

EXCHANGE_METHOD = "tokenwire.worker.v1.ExecutionService/Exchange"

TEXT_STAGES = (semconv.SPAN_RENDER, semconv.SPAN_TOKENIZE)

NAME_CHARACTERS_LIMIT = 128
"""Of a caller's own names, which are written down before they are checked: as many as a good
request id has at most."""

MESSAGE_CHARACTERS_LIMIT = 1024
"""Of an error's message, which may quote what the caller sent."""


class Recorder:
    """Writes down all generations of this frontend.

    Args:
        metrics: the instruments.
        activity: where records are kept.
        content: whether prompts and outputs go into spans.
    """

    def __init__(self, metrics: FrontendMetrics, activity: Activity, *, content: bool) -> None:
        self.metrics = metrics
        self.activity = activity
        self.content = content

    def begin(self, incoming: Incoming, model: str) -> GenerationRecord:
        """Starts a generation's record.

        Args:
            incoming: the generation.
            model: name of its model as this frontend knows it; empty if it knows none such, since a
                caller's invention must not become a metric's attribute.
        """
        return GenerationRecord(self, incoming, model)


class GenerationRecord:
    """One generation, from its receipt to its end; see `Recorder.begin`."""

    def __init__(self, recorder: Recorder, incoming: Incoming, model: str) -> None:
        self.request_id = incoming.request_id[:NAME_CHARACTERS_LIMIT] or _made_up()
        self.tenant = incoming.caller.tenant
        self.received_s = incoming.received_s
        self.stages: list[Stage] = []
        """What was done before submission, in order."""
        self._recorder = recorder
        self._metrics = recorder.metrics
        self._deadline_s = incoming.deadline_s
        self._model = model
        self._model_named = model or incoming.model[:NAME_CHARACTERS_LIMIT]
        self.output_tokens = self._metrics.tokens.count(model, semconv.OUTPUT)
        """To which new tokens are added."""
        self.deltas = self._metrics.deltas.count(model)
        """To which deltas are added that the client took."""
        self._worker = self._cancel_cause = ""
        self._choice: Choice | None = None
        """The last one: a worker that was lost or refused it tells nothing of its cache."""
        self._prefill_choice: Choice | None = None
        """The one whose worker has computed the prompt for another."""
        self._hops: list[Hop] = []
        """At workers now."""
        self._outputs: dict[int, Delta] = {}
        operation = semconv.CHAT if incoming.is_chat else semconv.TEXT_COMPLETION
        self._attributes: Attributes = {
            semconv.GEN_AI_OPERATION_NAME: operation,
            semconv.GEN_AI_PROVIDER_NAME: semconv.PROVIDER,
            semconv.GEN_AI_REQUEST_MODEL: model,
        }
        self._span = tracing.begin(
            f"{operation} {model}".strip(),
            incoming.context,
            SpanKind.INTERNAL,
            incoming.received_s,
            incoming.links,
        )
        self._exemplar = self._span.as_parent() if self._span.sampled else None
        """Context of the values that it measures."""
        self.captures = self._span.sampled and recorder.content
        """Whether `note_output` is wanted."""
        if self._span.sampled:
            self._span.attributes = {**self._attributes, semconv.REQUEST_ID: self.request_id}
        if incoming.lag_s:
            self.stage(semconv.SPAN_LOOP, self.received_s, self.received_s + incoming.lag_s)

    @property
    def trace_id(self) -> str:
        """Trace id of the request, 32 lower-case hex digits."""
        return self._span.trace_id

    @property
    def model(self) -> str:
        """Name of its model; empty where this frontend knows none such."""
        return self._model

    @property
    def absence(self) -> str:
        """Why the caller is gone, if it is gone now."""
        if self._deadline_s is None:
            return "client_gone"
        left_s = self._deadline_s - (time.monotonic() - self.received_s)
        return "deadline" if deadlines.has_passed(left_s, self._deadline_s) else "client_gone"

    # --- what happens to it ----------------------------------------------------------------------

    def asked(self, request: GenerationRequest) -> None:
        """Notes what the caller asked for, once it is read."""
        if self._span.sampled:
            self._span.attributes.update(span_content.asked(request))
        if self.captures and request.prompt is not None:
            prompt = span_content.input_messages(request)
            self._span.attributes[semconv.GEN_AI_INPUT_MESSAGES] = prompt

    def stage(self, name: str, from_s: float, to_s: float) -> None:
        """Notes something that this frontend did; times are time.monotonic()'s."""
        self.stages.append(Stage("frontend", name, from_s - self.received_s, to_s - from_s))
        if name in TEXT_STAGES:
            self._metrics.text.record(to_s - from_s, {semconv.TEXT_STAGE: name}, self._exemplar)
        if self._span.sampled:
            span = self._span.child(name, SpanKind.INTERNAL, from_s)
            if name == semconv.SPAN_ROUTE:
                span.attributes = {semconv.WORKER: self._worker, **self._routing()}
            span.end(to_s)

    def waited(self, from_s: float, tenant: str) -> None:
        """Notes that it has waited until now for a worker with room.

        Args:
            from_s: since when, of time.monotonic().
            tenant: what its tenant is called in metrics.
        """
        now_s = time.monotonic()
        self.stage(semconv.SPAN_QUEUE, from_s, now_s)
        self._metrics.queue.record(now_s - from_s, {semconv.TENANT: tenant}, self._exemplar)

    def routed(self, worker: str, address: str, choice: Choice) -> Hop:
        """Notes which worker it goes to; returns the call there."""
        self._worker, self._choice = worker, choice
        self._metrics.routed.count(self._model, choice.policy.value, choice.cause.value).value += 1
        hop = Hop(address, self._span)
        self._hops.append(hop)
        return hop

    def left_worker(self, hop: Hop, error: ServiceError | None) -> None:
        """Notes that the worker has ended it, or refused it, or is gone."""
        self._hops.remove(hop)
        took_s, attributes = hop.end(error)
        self._metrics.worker_call.record(took_s, attributes, self._exemplar)

    def prefilled(self, reason: str) -> None:
        """Notes what came of a prompt that another worker was to go on with.

        Args:
            reason: of the error with which it was lost; `semconv.HANDED_OVER` where it was not.
        """
        self._metrics.prefills.count(self._model, reason).value += 1
        if reason == semconv.HANDED_OVER:
            self._prefill_choice = self._choice

    def moved(self, error: ServiceError, token_offset: int) -> None:
        """Notes that another worker is to go on with it, or with one of its sequences.

        Args:
            error: with which the worker was lost.
            token_offset: ids that the sequence has.
        """
        self._metrics.moves.count(self._model, error.reason).value += 1
        told = {semconv.ERROR_TYPE: error.reason, semconv.TOKEN_OFFSET: str(token_offset)}
        self._span.add_event(semconv.EVENT_MOVED, told, time.monotonic())
        log.warning(
            "generation_moved",
            request_id=self.request_id,
            trace_id=self.trace_id,
            reason=error.reason,
            message=error.message[:MESSAGE_CHARACTERS_LIMIT],
            token_offset=token_offset,
        )

    def accepted(self, prompt_tokens: int) -> None:
        """Notes that a worker took it."""
        self._metrics.tokens.count(self._model, semconv.INPUT).value += prompt_tokens

    def first_token(self, came_s: float) -> None:
        """Notes the first token."""
        self._span.add_event(semconv.EVENT_FIRST_TOKEN, None, came_s)

    def note_output(self, output: Delta) -> None:
        """Notes a sequence's whole output; see `captures`."""
        self._outputs[output.sequence] = output

    def cancelled(self, cause: str) -> None:
        """Notes why it is stopped early; the first cause is the one that counts."""
        if self._cancel_cause:
            return
        self._cancel_cause = cause
        told = {semconv.CANCEL_CAUSE: cause}
        self._span.add_event(semconv.EVENT_CANCELLED, told, time.monotonic())

    # --- how it ends: one of these, once ---------------------------------------------------------

    def complete(self, completion: Completion, finishes: Sequence[Finish]) -> None:
        """Writes down that every sequence has ended."""
        cancelled = Finish.CANCELLED in finishes
        outcome = Outcome.CANCELLED if cancelled else Outcome.COMPLETED
        reasons = sorted({finish.value for finish in finishes})
        reason = (self._cancel_cause or "client_cancel") if cancelled else ",".join(reasons)
        if completion.time_to_first_token_s is not None:
            self._metrics.time_to_first_token.record(
                completion.time_to_first_token_s, self._attributes, self._exemplar
            )
        if completion.time_per_output_token_s is not None:
            self._metrics.time_per_output_token.record(
                completion.time_per_output_token_s, self._attributes, self._exemplar
            )
        self._metrics.request_duration.record(completion.total_s, self._attributes, self._exemplar)
        if self._span.sampled:
            names = [finish.value for finish in finishes]
            self._span.attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS] = names
            if self.captures:
                self._span.attributes[semconv.GEN_AI_OUTPUT_MESSAGES] = self._output(names)
        self._end(outcome, reason, completion, log.info)

    def refuse(self, error: ServiceError) -> None:
        """Writes down that it was refused before a worker took it."""
        self._fault(error)
        internal = error.code.name in ("INTERNAL", "UNKNOWN")
        level = log.error if internal else log.info
        self._end(Outcome.REFUSED, error.reason, self._nothing(), level, error)

    def fail(self, error: ServiceError, completion: Completion) -> None:
        """Writes down that it failed after a worker had taken it."""
        self._fault(error)
        self._metrics.request_duration.record(
            completion.total_s,
            {**self._attributes, semconv.ERROR_TYPE: error.reason},
            self._exemplar,
        )
        self._end(Outcome.FAILED, error.reason, completion, log.warning, error)

    def vanish(self) -> None:
        """Writes down that its caller went away before a worker took it."""
        self.cancelled(self.absence)
        self._end(Outcome.CANCELLED, self._cancel_cause, self._nothing(), log.info)

    def _fault(self, error: ServiceError) -> None:
        error.logged = True
        self._span.attributes[semconv.ERROR_TYPE] = error.reason
        self._span.status = Status(StatusCode.ERROR, error.reason)

    def _nothing(self) -> Completion:
        total_s = time.monotonic() - self.received_s
        return Completion(0, 0, None, None, None, total_s, self.stages, "")

    def _end(
        self,
        outcome: Outcome,
        reason: str,
        completion: Completion,
        level: structlog.typing.WrappedLogger,
        error: ServiceError | None = None,
    ) -> None:
        for hop in list(self._hops):
            self.left_worker(hop, error)
        self._metrics.generations.count(self._model, outcome.value, reason).value += 1
        self._count_cached(completion)
        if self._span.sampled:
            self._span.attributes.update(self._counted(completion))
        self._span.end(time.monotonic())
        trace_id = self.trace_id
        self._recorder.activity.add(
            Record(
                self.request_id,
                self.tenant,
                trace_id,
                tracing.wall_ns(self.received_s) / 1e9,
                time.monotonic(),
                self._model_named,
                outcome,
                reason,
                self._choice.reason if self._choice else "",
                completion,
            )
        )
        level(
            "generation",
            request_id=self.request_id,
            trace_id=trace_id,
            outcome=outcome.value,
            reason=reason,
            model=self._model,
            worker=completion.worker,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            first_token_ms=_ms(completion.time_to_first_token_s),
            per_token_ms=_ms(completion.time_per_output_token_s),
            total_ms=_ms(completion.total_s),
            **({"tenant": self.tenant} if self.tenant else {}),
            **({"message": error.message[:MESSAGE_CHARACTERS_LIMIT]} if error else {}),
        )

    def _count_cached(self, completion: Completion) -> None:
        cached = completion.cached_prompt_tokens
        if cached is not None:
            count = self._metrics.prefix_cache_tokens.count
            count(self._model, semconv.HIT).value += cached
            count(self._model, semconv.MISS).value += completion.prompt_tokens - cached
            choice = self._prefill_choice or self._choice
            if choice is not None and choice.reused_tokens is not None:
                expected = self._metrics.expected_cache_tokens.count(self._model)
                expected.value += choice.reused_tokens

    def _counted(self, completion: Completion) -> dict[str, str | int]:
        told: dict[str, str | int] = {
            semconv.GEN_AI_USAGE_INPUT_TOKENS: completion.prompt_tokens,
            semconv.GEN_AI_USAGE_OUTPUT_TOKENS: completion.completion_tokens,
        }
        if completion.cached_prompt_tokens is not None:
            told[semconv.GEN_AI_USAGE_CACHED_TOKENS] = completion.cached_prompt_tokens
        if completion.worker:
            told[semconv.WORKER] = completion.worker
        told |= self._routing()
        if self._cancel_cause:
            told[semconv.CANCEL_CAUSE] = self._cancel_cause
        return told

    def _routing(self) -> dict[str, str | int]:
        """Returns why the last worker was chosen, and what it was expected to have cached."""
        if self._choice is None:
            return {}
        told: dict[str, str | int] = {semconv.ROUTE_REASON: self._choice.reason}
        if self._choice.reused_tokens is not None:
            told[semconv.ROUTE_EXPECTED_TOKENS] = self._choice.reused_tokens
        return told

    def _output(self, finishes: Sequence[str]) -> str:
        return span_content.output_messages(self._outputs, finishes)


class Hop:
    """The generation at one worker: a call inside a stream that all generations share."""

    def __init__(self, address: str, parent: OwnSpan) -> None:
        self._began_s = time.monotonic()
        self._attributes: dict[str, str | int] = {
            semconv.RPC_SYSTEM_NAME: semconv.GRPC,
            semconv.RPC_METHOD: EXCHANGE_METHOD,
            **peer(address),
        }
        self._span = parent.child(EXCHANGE_METHOD, SpanKind.CLIENT, self._began_s)
        self.trace_context = tracing.inject(self._span.context)
        """Headers that make the worker's span a part of this one's."""

    def end(self, error: ServiceError | None) -> tuple[float, dict[str, str | int]]:
        """Ends the span; returns how long the hop took, in seconds, and the metric's attributes."""
        ended_s = time.monotonic()
        attributes = {
            **self._attributes,
            semconv.RPC_STATUS_CODE: error.code.name if error else "OK",
        }
        if error is not None:
            attributes[semconv.ERROR_TYPE] = error.reason
            self._span.status = Status(StatusCode.ERROR)
        self._span.attributes.update(attributes)
        self._span.end(ended_s)
        return ended_s - self._began_s, attributes


def _made_up() -> str:
    """Returns a request id: a name, which need not be hard to guess."""
    return f"{random.getrandbits(64):016x}"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
