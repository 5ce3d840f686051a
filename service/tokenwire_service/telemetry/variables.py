"""Checks the OpenTelemetry variables that the services obey, before anything is built on them.

The SDK passes over most of what it does not understand: an address without its scheme is told at
the first export, a misspelt sampler records everything. Here they are refused at the start.
Names and values: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

SIGNALS = ("TRACES", "METRICS")

_SAMPLERS = [
    *("always_on", "always_off", "traceidratio"),
    *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
]
_POSITIVE = (
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
)
_PROTOCOL = "http/protobuf"
_QUEUE_SPANS, _BATCH_SPANS = 2048, 512
"""The specification's defaults."""


def exports(signal: str) -> bool:
    """Tells whether a signal, TRACES or METRICS, is to be sent to an endpoint."""
    if _value("OTEL_SDK_DISABLED").lower() == "true":
        return False
    if _value(f"OTEL_{signal}_EXPORTER").lower() == "none":
        return False
    return any(_value(name) for name in _endpoints(signal))


def batch_spans() -> int:
    """Spans sent at once: no more than the queue holds, which may have been made smaller."""
    return int(_value("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") or min(_BATCH_SPANS, _queue_spans()))


def faults() -> Iterator[str]:
    """Yields a line for each variable whose value is at fault."""
    endpoints = dict.fromkeys(name for signal in SIGNALS for name in _endpoints(signal))
    for name in endpoints:
        if _value(name) and not _is_url(_value(name)):
            yield f"{name}: {_value(name)!r} is not http://HOST:PORT or https://HOST:PORT"
    for name in (f"OTEL_{signal}_EXPORTER" for signal in SIGNALS):
        yield from _not_among(name, ["otlp", "none"])
    for part in ("", *(f"{signal}_" for signal in SIGNALS)):
        yield from _not_among(f"OTEL_EXPORTER_OTLP_{part}PROTOCOL", [_PROTOCOL])
    yield from _not_among("OTEL_TRACES_SAMPLER", _SAMPLERS)
    name = "OTEL_TRACES_SAMPLER_ARG"
    if _value(name) and not 0 <= _number(name) <= 1:
        yield f"{name}: {_value(name)!r} is not a number from 0 to 1"
    positive = [name for name in _POSITIVE if _value(name) and not _is_positive(name)]
    for name in positive:
        yield f"{name}: {_value(name)!r} is not a whole number above 0"
    if not positive and batch_spans() > _queue_spans():
        batch, queue = batch_spans(), _queue_spans()
        yield f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE: {batch} is more than the queue holds, {queue}"


def _queue_spans() -> int:
    return int(_value("OTEL_BSP_MAX_QUEUE_SIZE") or _QUEUE_SPANS)


def _value(name: str) -> str:
    return os.environ.get(name, "").strip()


def _endpoints(signal: str) -> tuple[str, str]:
    return "OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"


def _not_among(name: str, allowed: list[str]) -> Iterator[str]:
    if _value(name) and _value(name).lower() not in allowed:
        yield f"{name}: {_value(name)!r} is none of {', '.join(allowed)}"


def _is_url(value: str) -> bool:
    with suppress(ValueError):  # of a port that is no number
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    return False


def _number(name: str) -> float:
    with suppress(ValueError):
        return float(_value(name))
    return float("nan")


def _is_positive(name: str) -> bool:
    with suppress(ValueError):
        return int(_value(name)) > 0
    return False
