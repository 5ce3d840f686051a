"""Spans of calls: how one starts, what of it travels to the server, and that it ends once.

Imported only by who wants tracing, since OpenTelemetry is no dependency of the client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version

import grpc
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tokenwire import _semconv
from tokenwire._trace import TRACEPARENT, TRACESTATE, Trace

_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of all calls to one target."""

    def __init__(self, target: str, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("tokenwire.client", version("tokenwire"), provider)
        self._attributes = {_semconv.RPC_SYSTEM_NAME: _semconv.GRPC, **server_of(target)}

    def parent_in(self, surroundings: Iterable[tuple[str, str]]) -> Context:
        """Returns the current context where it has a span, else with that of the surroundings."""
        current = otel_context.get_current()
        if _has_span(current):
            return current
        return _PROPAGATOR.extract(dict(surroundings), current)

    def start(self, method: str, parent: Context | None) -> RpcSpan:
        """Starts the span of a call; the method's name is without its leading slash."""
        span = self._tracer.start_span(
            method,
            context=parent,
            kind=SpanKind.CLIENT,
            attributes={**self._attributes, _semconv.RPC_METHOD: method},
        )
        return RpcSpan(span, parent)


class RpcSpan:
    """The span of one call. Whoever first learns how the call ended ends it, on any thread."""

    __slots__ = ("_open", "headers", "siblings")

    def __init__(self, span: Span, parent: Context | None) -> None:
        # One pop succeeds. A lock could be met again by the thread that holds it: the garbage
        # collector ends calls too.
        self._open = [span]
        self.headers: dict[str, str] = {}
        """Its trace context for the server; empty where no OpenTelemetry SDK is set up."""
        own = trace.set_span_in_context(span, parent)
        _PROPAGATOR.inject(self.headers, context=own)
        self.siblings = parent if _has_span(parent) else own
        """What further attempts belong to: its parent, or itself where it began the trace."""

    def end(self, code: grpc.StatusCode) -> None:
        """Ends the span with the call's status; nothing happens where it has ended."""
        failed = code not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED)
        self._end({_semconv.RPC_STATUS_CODE: code.name}, code.name if failed else None)

    def fail(self, error: BaseException) -> None:
        """Ends the span of a call that an exception kept from being made."""
        if isinstance(error, grpc.RpcError):
            self.end(error.code())
        elif isinstance(error, Exception):
            self._end({}, type(error).__name__)
        else:  # KeyboardInterrupt and its like: somebody wants no answer any more
            self.end(grpc.StatusCode.CANCELLED)

    def _end(self, attributes: Mapping[str, str], error: str | None) -> None:
        try:
            span = self._open.pop()
        except IndexError:
            return
        span.set_attributes(attributes)
        if error is not None:
            span.set_attribute(_semconv.ERROR_TYPE, error)
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def _has_span(context: Context | None) -> bool:
    return trace.get_current_span(context).get_span_context().is_valid


def parent_of(metadata: Iterable[tuple[str, str | bytes]], starting: Trace | None) -> Context:
    """Returns the context that a call belongs to: what its metadata names, else the current one.

    A client's new trace is no parent: nobody has a span of it.
    """
    if starting is not None and starting.is_new:
        return otel_context.get_current()
    carrier = {key: value for key, value in metadata if isinstance(value, str)}
    return _PROPAGATOR.extract(carrier, otel_context.get_current())


def carrying(
    metadata: Iterable[tuple[str, str | bytes]], headers: Mapping[str, str]
) -> list[tuple[str, str | bytes]]:
    """Returns a call's metadata with the span's trace context in the place of any other."""
    if not headers:
        return list(metadata)
    kept = [(key, value) for key, value in metadata if key not in (TRACEPARENT, TRACESTATE)]
    return [*kept, *headers.items()]


def server_of(target: str) -> dict[str, str | int]:
    """Returns the attributes that name the server of a gRPC target."""
    scheme, _, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return {_semconv.SERVER_ADDRESS: rest.removeprefix("//")}
    if "://" in target:  # scheme://authority/endpoint
        endpoint = target.partition("://")[2].partition("/")[2]
    else:
        endpoint = rest if scheme in ("dns", "ipv4", "ipv6") else target
    host, _, port = endpoint.rpartition(":")
    bare = ":" in host and not host.endswith("]")  # an IPv6 address without a port
    if not port.isdecimal() or not host or bare:
        return {_semconv.SERVER_ADDRESS: endpoint.strip("[]")}
    return {_semconv.SERVER_ADDRESS: host.strip("[]"), _semconv.SERVER_PORT: int(port)}
