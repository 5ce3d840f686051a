"""Spans, and W3C trace context in and out of the two hops."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    TraceFlags,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from tokenwire_service.telemetry import semconv
from tokenwire_service.telemetry.attributes import bounded

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
HEADERS = frozenset({TRACEPARENT, TRACESTATE})

_PROPAGATOR = TraceContextTextMapPropagator()

_WALL_AHEAD_NS = max(time.time_ns() - time.monotonic_ns() for _ in range(8))
"""Spans are dated by the wall clock, and taken on the monotonic one. Read once, and used for every
span and event, so that they stay in order and inside each other when the wall clock is set; and the
largest of several, since a process that is held up between the two readings finds too little."""


def extract(carrier: Mapping[str, str]) -> Context:
    """Returns the context that `traceparent` and `tracestate` of the carrier name."""
    return _PROPAGATOR.extract(carrier) if TRACEPARENT in carrier else Context()


def inject(span: SpanContext) -> dict[str, str]:
    """Returns the trace context headers that make a peer's spans children of this span.

    As https://www.w3.org/TR/trace-context/ has them.
    """
    flags = int(span.trace_flags)
    headers = {TRACEPARENT: f"00-{span.trace_id:032x}-{span.span_id:016x}-{flags:02x}"}
    if span.trace_state:
        headers[TRACESTATE] = span.trace_state.to_header()
    return headers


def current_trace_id() -> str:
    """Returns the trace id of the span that is current, 32 lower-case hex digits; zeros of none."""
    return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)


def wall_ns(monotonic_s: float) -> int:
    """Returns the wall clock's time, in nanoseconds since 1970, of a time.monotonic()."""
    return round(monotonic_s * 1e9) + _WALL_AHEAD_NS


class OwnSpan:
    """A span of this process, written when it ends, if it is sampled.

    It costs a fifth of a span of the SDK's tracer, which locks, and checks and copies each
    attribute. `begin` makes it; everything public but `context` may be set until its end.
    """

    __slots__ = (
        "_began_s", "_kind", "_links", "_parent", "attributes", "context", "events", "name",
        "sampled", "status",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        began_s: float,
        links: Sequence[SpanContext] = (),
    ) -> None:
        self.name = name
        self.context = context
        self.sampled = _written is not None and context.trace_flags.sampled
        self.attributes: dict[str, AttributeValue] = {}
        self.events: list[Event] = []
        self.status = _UNSET
        self._parent = parent
        self._kind = kind
        self._began_s = began_s
        self._links = links

    @property
    def trace_id(self) -> str:
        """Its trace id, 32 lower-case hex digits."""
        return trace.format_trace_id(self.context.trace_id)

    def as_parent(self) -> Context:
        """Returns the context whose span it is."""
        return trace.set_span_in_context(NonRecordingSpan(self.context), Context())

    def child(self, name: str, kind: SpanKind, began_s: float) -> OwnSpan:
        """Begins a span that is a part of it; where it is not sampled, nobody asks for an id."""
        context = _descended(self.context) if self.sampled else self.context
        return OwnSpan(name, context, self.context, kind, began_s)

    def add_event(self, name: str, attributes: Mapping[str, str] | None, at_s: float) -> None:
        """Notes something that happened, if it is sampled."""
        if self.sampled:
            self.events.append(Event(name, bounded(attributes or {}), wall_ns(at_s)))

    def end(self, ended_s: float) -> None:
        """Writes it, if it is sampled."""
        if not self.sampled or _written is None:
            return
        span = ReadableSpan(
            self.name,
            context=self.context,
            parent=self._parent,
            resource=_written.resource,
            attributes=bounded(self.attributes),
            events=self.events,
            links=[Link(context) for context in self._links],
            kind=self._kind,
            status=self.status,
            start_time=wall_ns(self._began_s),
            end_time=wall_ns(ended_s),
            instrumentation_scope=_SCOPE,
        )
        _written.processor.on_end(span)


def begin(
    name: str,
    parent: Context | None,
    kind: SpanKind,
    began_s: float,
    links: Sequence[SpanContext] = (),
) -> OwnSpan:
    """Begins a span.

    Args:
        name: the span's name.
        parent: context of the span that it is a part of; None: the current one.
        kind: the span's kind.
        began_s: time.monotonic() of its beginning.
        links: spans that it belongs with, without being a part of them.
    """
    caller = trace.get_current_span(parent).get_span_context()
    if caller.is_valid and not caller.is_remote:
        # The sampler was asked for the span above it.
        context = _descended(caller) if caller.trace_flags.sampled else caller  # see OwnSpan.child
        return OwnSpan(name, context, caller, kind, began_s, links)
    trace_id = caller.trace_id if caller.is_valid else _IDS.generate_trace_id()
    flags, state = TraceFlags(), caller.trace_state
    if _written is not None:
        result = _written.sampler.should_sample(parent, trace_id, name, kind)
        flags = TraceFlags(
            TraceFlags.SAMPLED if result.decision is Decision.RECORD_AND_SAMPLE else 0
        )
        state = result.trace_state or state
    context = SpanContext(
        trace_id, _IDS.generate_span_id(), is_remote=False, trace_flags=flags, trace_state=state
    )
    return OwnSpan(name, context, caller if caller.is_valid else None, kind, began_s, links)


def _descended(parent: SpanContext) -> SpanContext:
    return SpanContext(
        parent.trace_id,
        _IDS.generate_span_id(),
        is_remote=False,
        trace_flags=parent.trace_flags,
        trace_state=parent.trace_state,
    )


@dataclass(frozen=True)
class _Written:
    """Where spans go, and which."""

    processor: SpanProcessor
    resource: Resource
    sampler: Sampler


_IDS = RandomIdGenerator()
_SCOPE = InstrumentationScope("tokenwire", schema_url=semconv.SCHEMA_URL)
_UNSET = Status()
_written: _Written | None = None


def write_to(processor: SpanProcessor, resource: Resource, sampler: Sampler) -> None:
    """Has spans go where the SDK's tracer's go."""
    global _written  # noqa: PLW0603 - one for the process, as OpenTelemetry's providers are
    _written = _Written(processor, resource, sampler)
