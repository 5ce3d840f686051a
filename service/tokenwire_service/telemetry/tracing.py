"""Spans, and W3C trace context in and out of the two hops."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tokenwire_service.telemetry import semconv

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_PROPAGATOR = TraceContextTextMapPropagator()

_WALL_AHEAD_NS = max(time.time_ns() - time.monotonic_ns() for _ in range(8))
"""Spans are dated by the wall clock, and taken on the monotonic one. Read once, and used for every
span and event, so that they stay in order and inside each other when the wall clock is set; and the
largest of several, since a process that is held up between the two readings finds too little."""


@cache
def tracer() -> trace.Tracer:
    """Returns the tracer of all of Tokenwire's spans."""
    return trace.get_tracer("tokenwire", schema_url=semconv.SCHEMA_URL)


def extract(carrier: Mapping[str, str]) -> Context:
    """Returns the context that `traceparent` and `tracestate` of the carrier name."""
    return _PROPAGATOR.extract(carrier)


def inject(context: Context) -> dict[str, str]:
    """Returns the trace context headers that make a peer's spans children of the context's span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context=context)
    return carrier


def trace_id(span: Span) -> str:
    """Returns the span's trace id, 32 lower-case hex digits."""
    return trace.format_trace_id(span.get_span_context().trace_id)


def wall_ns(monotonic_s: float) -> int:
    """Returns the wall clock's time, in nanoseconds since 1970, of a time.monotonic()."""
    return round(monotonic_s * 1e9) + _WALL_AHEAD_NS


def now_ns() -> int:
    """Returns what every span's end and event is dated by: `wall_ns` of now."""
    return wall_ns(time.monotonic())


def write_span(
    name: str,
    parent: Context,
    from_s: float,
    to_s: float,
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Writes a span of something that is over.

    Args:
        name: the span's name.
        parent: context of the span that it is a part of.
        from_s: time.monotonic() of its beginning.
        to_s: time.monotonic() of its end.
        attributes: the span's.
    """
    start_ns = wall_ns(from_s)
    span = tracer().start_span(name, parent, attributes=attributes, start_time=start_ns)
    span.end(wall_ns(to_s))
