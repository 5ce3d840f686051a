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

from tokenwire_service.wording import cut

WORDS_BYTES = 1024
"""Most of any text in an error: whoever refuses a request of megabytes quotes it, and neither what
is kept of the error nor a log line may hold those."""

INVALID_FIELD = "INVALID_FIELD"
"""Reason of an error about fields where no other says more."""

VIOLATIONS = 32
"""Fields that an error names; what is refused field by field may have a million."""


class Code(IntEnum):
    """Status codes, numbered as google.rpc.Code and gRPC number them."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True)
class FieldViolation:
    """One field at fault."""

    field: str
    """Path from the request's root, such as `generation.sampling.temperature`."""
    description: str
    """What is wrong with it, with the value and the bound."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "field", cut(self.field, WORDS_BYTES))
        object.__setattr__(self, "description", cut(self.description, WORDS_BYTES))


@dataclass(frozen=True)
class Quota:
    """A bound that was met."""

    subject: str
    """What is bounded, such as `worker:gpu-0/waiting_requests`."""
    description: str
    """The bound, with its number."""


class ServiceError(Exception):
    """A request cannot be served; the reason is in UPPER_SNAKE_CASE and stable."""

    violations: Sequence[FieldViolation] = ()
    """Fields at fault."""

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
        self.message = cut(message, WORDS_BYTES)
        super().__init__(self.message)
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.quota = quota
        self.metadata = {key: cut(value, WORDS_BYTES) for key, value in (metadata or {}).items()}
        self.logged = False
        """A log line tells of it already: there is one for a request."""


class InvalidRequestError(ServiceError):
    """Fields of the request are at fault."""

    def __init__(
        self,
        violations: Sequence[FieldViolation],
        *,
        reason: str = INVALID_FIELD,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.violations = tuple(violations[:VIOLATIONS])
        message = "; ".join(
            f"{violation.field}: {violation.description}" for violation in self.violations
        )
        super().__init__(Code.INVALID_ARGUMENT, reason, message, metadata=metadata)


def invalid(field: str, description: str, reason: str = INVALID_FIELD) -> InvalidRequestError:
    """Returns the error for one field at fault."""
    return InvalidRequestError([FieldViolation(field, description)], reason=reason)
