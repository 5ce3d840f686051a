"""The OpenTelemetry variables that the services obey, made fit for use before the SDK reads them.

A fleet sets them for all of its services at once, so one that asks for something that these can't
do stops nobody: it is told in the log and left out. The SDK by itself ends the process for some of
them, as it is imported, and passes over others in silence: an address without its scheme is told at
the first export, a misspelt sampler records everything. So this imports the standard library alone.
Names and values: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

SIGNALS = ("TRACES", "METRICS")
"""What the services export."""

GRPC, HTTP = "grpc", "http/protobuf"
Protocol = Literal["grpc", "http/protobuf"]

COMPRESSIONS = ("gzip", "deflate", "none")

_SAMPLERS = (
    *("always_on", "always_off", "traceidratio"),
    *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
)
_POSITIVE = (
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
)
_LIMITS = tuple(
    f"OTEL_{what}_LIMIT"
    for what in (
        *("ATTRIBUTE_COUNT", "ATTRIBUTE_VALUE_LENGTH", "SPAN_ATTRIBUTE_COUNT"),
        *("SPAN_ATTRIBUTE_VALUE_LENGTH", "SPAN_EVENT_COUNT", "SPAN_LINK_COUNT"),
        *("EVENT_ATTRIBUTE_COUNT", "LINK_ATTRIBUTE_COUNT"),
    )
)
_PROPAGATED = ("tracecontext", "baggage")
"""The specification's default. The services pass on the trace context; baggage is the caller's."""

_QUEUE_SPANS, _BATCH_SPANS = 2048, 512
"""The specification's defaults."""

_ADDRESS = re.compile(r"[^/:\s]+:[0-9]{1,5}")

_untold: list[dict[str, str]] = []
"""What `settle` has taken out and `tell` has yet to tell."""


def settle() -> None:
    """Takes out of the environment what can't be used, before OpenTelemetry's SDK is imported.

    Processes that are started from now on have the environment without it.
    """
    for name, reason, kept in list(_faults()):
        _untold.append({"variable": name, "reason": reason, "used": kept or "default"})
        if kept:
            os.environ[name] = kept
        else:
            del os.environ[name]


def tell() -> None:
    """Writes a line of the log for each variable that is not used."""
    import structlog  # noqa: PLC0415 - as above

    log = structlog.get_logger()
    while _untold:
        log.warning("otel_variable_not_used", **_untold.pop(0))


def exports(signal: str) -> bool:
    """Tells whether a signal, TRACES or METRICS, is to be sent to an endpoint."""
    if _value("OTEL_SDK_DISABLED").lower() == "true":
        return False
    if _value(f"OTEL_{signal}_EXPORTER").lower() == "none":
        return False
    return bool(_endpoint(signal)[1])


def protocol(signal: str) -> Protocol:
    """Returns how a signal is sent."""
    name = _first(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    return "grpc" if _value(name).lower() == GRPC else "http/protobuf"


def compression(signal: str) -> str:
    """Returns how a signal is compressed: gzip, deflate, or none."""
    name = _first(f"OTEL_EXPORTER_OTLP_{signal}_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")
    return _value(name).lower() or "none"


def batch_spans() -> int:
    """Spans sent at once: no more than the queue holds, which may have been made smaller."""
    return int(_value("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") or min(_BATCH_SPANS, _queue_spans()))


def _faults() -> Iterator[tuple[str, str, str]]:
    """Yields name, reason and what is used instead, empty for the default, of each at fault."""
    for signal in SIGNALS:
        yield from _exporter(f"OTEL_{signal}_EXPORTER")
    yield from _not_among("OTEL_LOGS_EXPORTER", ("none", "console"))
    for part in ("", *(f"{signal}_" for signal in SIGNALS)):
        name = f"OTEL_EXPORTER_OTLP_{part}"
        yield from _not_among(f"{name}PROTOCOL", (GRPC, HTTP))
        yield from _not_among(f"{name}COMPRESSION", COMPRESSIONS)
        if _value(f"{name}TIMEOUT") and not 0 < _number(f"{name}TIMEOUT") < math.inf:
            yield f"{name}TIMEOUT", _is_no(f"{name}TIMEOUT", "a number above 0"), ""
    for name, reason in dict(_unusable_endpoints()).items():
        yield name, reason, ""
    yield from _propagators("OTEL_PROPAGATORS")
    yield from _sampling()
    filters = ("trace_based", "always_on", "always_off")
    yield from _not_among("OTEL_METRICS_EXEMPLAR_FILTER", filters)
    yield from _numbers()


def _exporter(name: str) -> Iterator[tuple[str, str, str]]:
    """Checks the list of a signal's exporters: without OTLP the signal is not sent."""
    wanted = [each.strip().lower() for each in _value(name).split(",") if each.strip()]
    others = [each for each in wanted if each not in ("otlp", "none")]
    if others:
        hint = "; --admin-listen has /metrics" if "prometheus" in others else ""
        kept = "otlp" if "otlp" in wanted else "none"
        yield name, f"{', '.join(others)}: not supported, otlp is{hint}", kept


def _unusable_endpoints() -> Iterator[tuple[str, str]]:
    for signal in SIGNALS:
        name, value = _endpoint(signal)
        if not value or _is_url(value):
            continue
        if protocol(signal) == GRPC and _ADDRESS.fullmatch(value):
            continue
        yield name, _is_no(name, "http://HOST:PORT or https://HOST:PORT")


def _propagators(name: str) -> Iterator[tuple[str, str, str]]:
    wanted = [each.strip().lower() for each in _value(name).split(",") if each.strip()]
    others = [each for each in wanted if each not in _PROPAGATED]
    if others:
        yield name, f"{', '.join(others)}: not supported, tracecontext is", ""


def _sampling() -> Iterator[tuple[str, str, str]]:
    yield from _not_among("OTEL_TRACES_SAMPLER", _SAMPLERS)
    name = "OTEL_TRACES_SAMPLER_ARG"
    if _value(name) and not 0 <= _number(name) <= 1:
        yield name, _is_no(name, "a number from 0 to 1"), ""


def _numbers() -> Iterator[tuple[str, str, str]]:
    wrong = [name for name in _POSITIVE if _value(name) and not _whole(name) > 0]
    for name in wrong:
        yield name, _is_no(name, "a whole number above 0"), ""
    for name in _LIMITS:
        if _value(name) and not _whole(name) >= 0:
            yield name, _is_no(name, "a whole number, 0 or more"), ""
    batch = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
    if not {batch, "OTEL_BSP_MAX_QUEUE_SIZE"} & set(wrong) and batch_spans() > _queue_spans():
        reason = f"{batch_spans()} is more than the queue holds, {_queue_spans()}"
        yield batch, reason, str(_queue_spans())


def _queue_spans() -> int:
    return int(_value("OTEL_BSP_MAX_QUEUE_SIZE") or _QUEUE_SPANS)


def _value(name: str) -> str:
    return os.environ.get(name, "").strip()


def _first(*names: str) -> str:
    """Returns the first of these variables that is set, or the last."""
    return next((name for name in names if _value(name)), names[-1])


def _endpoint(signal: str) -> tuple[str, str]:
    """Returns the variable with the endpoint of a signal, and its value."""
    name = _first(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return name, _value(name)


def _not_among(name: str, allowed: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    if _value(name) and _value(name).lower() not in allowed:
        yield name, f"{_value(name)!r}: not supported; these are: {', '.join(allowed)}", ""


def _is_no(name: str, what: str) -> str:
    return f"{_value(name)!r} is not {what}"


def _is_url(value: str) -> bool:
    with suppress(ValueError):  # of a port that is no number
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    return False


def _number(name: str) -> float:
    with suppress(ValueError):
        return float(_value(name))
    return math.nan


def _whole(name: str) -> float:
    with suppress(ValueError):
        return int(_value(name))
    return math.nan
