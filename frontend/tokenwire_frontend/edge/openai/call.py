"""One request: its span, its duration, its names, and what is told of its failure."""

from __future__ import annotations

import random
import re
import time

import structlog
from aiohttp import web
from opentelemetry.trace import SpanKind, Status, StatusCode
from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.telemetry import loop_lag, semconv, tracing
from tokenwire_service.telemetry.histogram import Histogram

from tokenwire_frontend import errors as frontend_errors
from tokenwire_frontend.edge.openai import errors
from tokenwire_frontend.edge.openai.errors import CLIENT_GONE

log = structlog.get_logger()

OTHER = "other"
"""Route of what is not served, in spans and metrics: a caller's invention must not be one."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
"""Methods by their names there; others are `_OTHER`, as OpenTelemetry calls them."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Call:
    """One request: its span, its duration, its names.

    Args:
        request: the request.
        route: which of the routes it has.
        last: whether its connection takes no further ones.
    """

    def __init__(self, request: web.BaseRequest, route: str, *, last: bool) -> None:
        self.request = request
        self.route = route
        self.last = last
        self.request_id = request.headers.get(errors.REQUEST_ID) or f"{random.getrandbits(64):016x}"
        peer = request.transport.get_extra_info("peername") if request.transport else None
        self.lane = f"http:{peer[0]}:{peer[1]}" if peer else "http"
        self._began_s = time.monotonic() - loop_lag.last_s()
        carrier = {key: request.headers[key] for key in tracing.HEADERS if key in request.headers}
        self._method = request.method if request.method in METHODS else "_OTHER"
        name = f"{self._method} {route}"
        self.span = tracing.begin(name, tracing.extract(carrier), SpanKind.SERVER, self._began_s)
        self.context = self.span.as_parent()
        self._status = 0
        self._fault = ""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every answer."""
        told = {**errors.SERVER, errors.TRACE_ID: self.span.trace_id}
        if _REQUEST_ID.fullmatch(self.request_id):
            told[errors.REQUEST_ID] = self.request_id
        return told

    def refusal(self, error: Exception) -> ServiceError:
        """Returns what the caller is told of an error, once the log has it."""
        if not isinstance(error, ServiceError):
            log.error("http_fault", route=self.route, exc_info=error)
            error = frontend_errors.internal_fault(error, self.span.trace_id)
        elif not error.logged:
            fields = {"route": self.route, "code": error.code.name, "reason": error.reason}
            internal = error.code in (Code.INTERNAL, Code.UNKNOWN)
            level = log.error if internal else log.info
            level("rpc_refused", **fields, message=error.message)
        self._fault = error.reason
        return error

    def gone(self) -> None:
        """Notes that the client has gone."""
        self._status = CLIENT_GONE

    def end(self, response: web.StreamResponse | None, duration: Histogram) -> None:
        """Writes down how it has ended."""
        status = self._status or (500 if response is None else response.status)
        told: dict[str, str | int] = {
            semconv.HTTP_REQUEST_METHOD: self._method,
            semconv.HTTP_ROUTE: self.route,
            semconv.HTTP_RESPONSE_STATUS_CODE: status,
        }
        if self._fault:
            told[semconv.ERROR_TYPE] = self._fault
            if not 400 <= status < 500:  # a stream that fails has begun with 200
                self.span.status = Status(StatusCode.ERROR)
        ended_s = time.monotonic()
        self.span.attributes.update(told)
        self.span.end(ended_s)
        duration.record(ended_s - self._began_s, told, self.context if self.span.sampled else None)
