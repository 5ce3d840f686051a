"""W3C trace context of calls: every request has a trace id that the caller can name."""

from __future__ import annotations

import os
import re

try:
    from opentelemetry import trace as _otel
except ImportError:  # it is no dependency of the client
    _otel = None  # type: ignore[assignment]

_FORM = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Trace:
    """The trace of one call: the caller's, the current OpenTelemetry span's, or a new one."""

    __slots__ = ("metadata", "trace_id")

    def __init__(self, traceparent: str | None) -> None:
        traceparent = traceparent or _current() or _fresh()
        match = _FORM.fullmatch(traceparent)
        if match is None:
            form = "00-<32 hex digits>-<16 hex digits>-<2 hex digits>"
            raise ValueError(f"traceparent: {traceparent!r} is not of the form {form}")
        self.trace_id = match[1]
        self.metadata = (("traceparent", traceparent),)


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
