"""OpenTelemetry set-up, and W3C trace context in and out of the two hops.

Spans go to an OTLP endpoint where OTEL_EXPORTER_OTLP_ENDPOINT names one; without it no span is
recorded, but every request still has a trace id, its caller's or a new one, in replies and log
lines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_PROPAGATOR = TraceContextTextMapPropagator()


def configure(service: str, instance: str, version: str) -> TracerProvider:
    """Installs the process's tracer provider; its `shutdown` sends what is left."""
    resource = Resource.create(
        {SERVICE_NAME: service, SERVICE_INSTANCE_ID: instance, SERVICE_VERSION: version}
    )
    exports = any(
        os.environ.get(name)
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )
    if exports:
        # Imported only where it is used: it brings an HTTP client.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )

        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        provider = TracerProvider(resource=resource, sampler=ALWAYS_OFF)
    trace.set_tracer_provider(provider)
    return provider


@cache
def tracer() -> trace.Tracer:
    """Returns the tracer of all of Tokenwire's spans."""
    return trace.get_tracer("tokenwire")


def extract(carrier: Mapping[str, str]) -> Context:
    """Returns the context that `traceparent` and `tracestate` of the carrier name."""
    return _PROPAGATOR.extract(carrier)


def inject(span: Span) -> dict[str, str]:
    """Returns the trace context headers that make a peer's spans children of this one."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context=trace.set_span_in_context(span))
    return carrier


def trace_id(span: Span) -> str:
    """Returns the span's trace id, 32 lower-case hex digits."""
    return trace.format_trace_id(span.get_span_context().trace_id)
