"""Errors in OpenAI's form: an HTTP status, and message, type, param and code as JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from aiohttp import web
from tokenwire_service.errors import Code, FieldViolation, InvalidRequestError, ServiceError

from tokenwire_frontend.core.validation import PROMPT_TOO_LONG

REQUEST_ID = "x-request-id"

TRACE_ID = "x-trace-id"

SERVER = {"Server": "tokenwire"}
"""Header of every answer; aiohttp's own would name its version and Python's."""

ALLOWED = "allow"
"""Of an error's metadata: the methods that a path is served for."""

CLIENT_GONE = 499
"""Status of a request whose client has gone, in spans and metrics alone, as nginx has it."""

ROOT = "generation"
"""Where `generation/` has its fields; what begins otherwise has OpenAI's names already."""

_STATUS = {
    Code.CANCELLED: CLIENT_GONE,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.FAILED_PRECONDITION: 400,
    # Clients send a request again that was answered 409, and this one must not be.
    Code.ABORTED: 500,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_CODES = {
    "UNKNOWN_MODEL": "model_not_found",
    PROMPT_TOO_LONG: "context_length_exceeded",
    "CREDENTIAL_INVALID": "invalid_api_key",
}
"""Codes that clients of OpenAI look for; others are the reason in lower case."""

_STATUS_OF_REASON = {"BODY_TOO_LARGE": 413, "METHOD_NOT_ALLOWED": 405, "BODY_TIMEOUT": 408,
                     "UNSUPPORTED_MEDIA_TYPE": 415, "HEADERS_TOO_LARGE": 431}  # fmt: skip
"""Where HTTP has a status of its own for what gRPC has none for."""


class Paths:
    """OpenAI's names of a generation's fields, in one kind of request.

    Args:
        renamed: what a path begins with here, and what it begins with there; the first that fits
            counts.
        flat: a function's members stand beside its type, and not within `function`.
    """

    def __init__(self, *renamed: Mapping[str, str], flat: bool = False) -> None:
        self._renamed = renamed
        self._flat = flat

    def told(self, error: InvalidRequestError) -> InvalidRequestError:
        """Returns the error with the names that the caller knows."""
        told = [
            (self._name(each.field), _QUOTED.sub(self._quoted, each.description))
            for each in error.violations
        ]
        named = InvalidRequestError(
            # Two fields of ours may be one of the caller's.
            [FieldViolation(*each) for each in dict.fromkeys(told)],
            reason=error.reason,
            metadata=error.metadata,
        )
        named.logged, named.quota = error.logged, error.quota
        return named

    def _quoted(self, field: re.Match[str]) -> str:
        return f"`{self._name(f'{ROOT}.{field[1]}')}`"

    def _name(self, field: str) -> str:
        inner = field.removeprefix(f"{ROOT}.")
        if inner == field:
            return field
        for ours, theirs in chain.from_iterable(each.items() for each in self._renamed):
            rest = inner.removeprefix(ours)
            if len(rest) < len(inner) or not ours:
                told = (theirs + rest).removeprefix(".")
                return told if self._flat else _FUNCTION.sub(r"\1.function.\2", told)
        return inner


_QUOTED = re.compile(r"`(\w+(?:\.\w+)+)`")
"""A path in what an error says."""

_FUNCTION = re.compile(
    r"(\b(?:tools\[\d+\]|tool_calls\[\d+\]|tool_choice))\.(name|arguments|parameters)\b"
)


def method_not_allowed(path: str, methods: Sequence[str]) -> ServiceError:
    """A path that is served for other methods."""
    allowed = ", ".join(methods)
    return ServiceError(
        Code.UNIMPLEMENTED,
        "METHOD_NOT_ALLOWED",
        f"{path[:256]!r} is served for {allowed} alone",
        metadata={ALLOWED: allowed},
    )


def status_of(error: ServiceError) -> int:
    """Returns the HTTP status of an error."""
    special = _STATUS_OF_REASON.get(error.reason)
    if special is not None:
        return special
    if error.code is Code.RESOURCE_EXHAUSTED:
        # What comes no better with time is the request's own fault.
        return 400 if error.retry_after_s is None else 429
    return _STATUS[error.code]


def body(error: ServiceError) -> dict[str, Any]:
    """Returns the error as JSON has it."""
    status = status_of(error)
    fields: Sequence[FieldViolation] = error.violations
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(status)
            or ("server_error" if status >= 500 else "invalid_request_error"),
            "param": fields[0].field if fields else None,
            "code": _CODES.get(error.reason, error.reason.lower()),
        }
    }


def response(error: ServiceError, headers: Mapping[str, str]) -> web.Response:
    """Returns the answer that an error is.

    Args:
        error: the error.
        headers: of every answer.
    """
    told = dict(headers)
    if error.retry_after_s is not None:
        told["Retry-After"] = str(max(math.ceil(error.retry_after_s), 1))
        told["Retry-After-Ms"] = str(math.ceil(error.retry_after_s * 1e3))
    if ALLOWED in error.metadata:
        told["Allow"] = error.metadata[ALLOWED]
    if status_of(error) == 401:
        told["WWW-Authenticate"] = "Bearer"
    if error.code is Code.ABORTED:
        told["x-should-retry"] = "false"
    return web.Response(
        status=status_of(error),
        headers=told,
        body=json.dumps(body(error), ensure_ascii=False).encode(),
        content_type="application/json",
    )
