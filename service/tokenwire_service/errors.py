"""The one error type of Tokenwire's services, free of any transport.

    ServiceError            code, reason, message, and what a caller needs to act on it
    └── InvalidRequestError      INVALID_ARGUMENT, naming every field at fault

Each service's own `errors.py` holds its vocabulary: functions that make these. `status.py` turns
them into a google.rpc.Status, in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum


class Code(IntEnum):
    """Status codes, numbered as google.rpc.Code and gRPC number them."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


@dataclass(frozen=True)
class FieldViolation:
    """One field at fault."""

    field: str
    """Path from the request's root, such as `generation.sampling.temperature`."""
    description: str
    """What is wrong with it, with the value and the bound."""


@dataclass(frozen=True)
class Quota:
    """A bound that was met."""

    subject: str
    """What is bounded, such as `worker:gpu-0/waiting_requests`."""
    description: str
    """The bound, with its number."""


class ServiceError(Exception):
    """A request cannot be served; the reason is in UPPER_SNAKE_CASE and stable."""

    def __init__(
        self,
        code: Code,
        reason: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        quota: Quota | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.quota = quota
        self.metadata = dict(metadata or {})
        self.violations: Sequence[FieldViolation] = ()
        self.logged = False
        """A log line tells of it already: there is one for a request."""


class InvalidRequestError(ServiceError):
    """Fields of the request are at fault."""

    def __init__(
        self,
        violations: Sequence[FieldViolation],
        *,
        reason: str = "INVALID_FIELD",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        message = "; ".join(
            f"{violation.field}: {violation.description}" for violation in violations
        )
        super().__init__(Code.INVALID_ARGUMENT, reason, message, metadata=metadata)
        self.violations = tuple(violations)


def invalid(field: str, description: str, reason: str = "INVALID_FIELD") -> InvalidRequestError:
    """Returns the error for one field at fault."""
    return InvalidRequestError([FieldViolation(field, description)], reason=reason)
