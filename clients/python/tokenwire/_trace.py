"""W3C trace context of calls: every request has a trace id that the caller can name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TypeVar

try:
    from opentelemetry import trace as _otel
except ImportError:  # it is no dependency of the client
    _otel = None  # type: ignore[assignment]

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_FORM = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_Call = TypeVar("_Call")


class Trace:
    """The trace of one call: the caller's, the current OpenTelemetry span's, or a new one."""

    __slots__ = ("is_new", "metadata", "trace_id")

    def __init__(self, traceparent: str | None) -> None:
        known = traceparent or _current()
        self.is_new = known is None
        """Whether nothing is known of the trace yet but its id."""
        self._go_on({TRACEPARENT: known or _fresh()})

    def _go_on(self, headers: Mapping[str, str]) -> None:
        traceparent = headers[TRACEPARENT]
        match = _FORM.fullmatch(traceparent)
        if match is None:
            form = "00-<32 hex digits>-<16 hex digits>-<2 hex digits>"
            raise ValueError(f"traceparent: {traceparent!r} is not of the form {form}")
        self.trace_id = match[1]
        self.metadata = tuple(headers.items())

    def start(
        self, method: Callable[..., _Call], request: object, timeout_s: float | None = None
    ) -> _Call:
        """Starts a call of the trace, and returns what gRPC does."""
        token = _STARTING.set(self)
        try:
            return method(request, timeout=timeout_s, metadata=self.metadata)
        finally:
            _STARTING.reset(token)

    def join(self, headers: Mapping[str, str]) -> None:
        """Makes a new trace that of a call's span, in which further attempts go on."""
        if self.is_new:
            self._go_on(headers)
            self.is_new = False


_STARTING: ContextVar[Trace | None] = ContextVar("tokenwire_starting", default=None)


def starting() -> Trace | None:
    """Returns the trace of the call that one of our clients is starting; None with raw stubs."""
    return _STARTING.get()


def _fresh() -> str:
    # Sampled (01), because nobody upstream has decided otherwise: the services' own settings do.
    digits = os.urandom(24).hex()
    return f"00-{digits[:32]}-{digits[32:]}-01"


def _current() -> str | None:
    if _otel is None:
        return None
    span = _otel.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}"
