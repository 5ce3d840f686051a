"""Everything that a call can fail with.

    TokenwireError                   code, reason, metadata, retry_after_s, trace_id
    ├── InvalidRequestError          the request is at fault; violations names each field
    ├── NotFoundError                no such model
    ├── UnauthenticatedError         no credential, an unknown one, or one that has expired
    ├── PermissionDeniedError        the credential does not allow the call
    ├── OverloadedError              the deployment is at a bound; quotas names it
    ├── UnavailableError             the server takes no requests now, such as while it drains
    │   └── UnreachableError         no server answered, or the connection to it broke
    ├── DeadlineExceededError        `timeout` passed first
    ├── RequestCancelledError        the call was cancelled, but not through this client's `cancel`
    ├── UnsupportedError             this deployment can't do it, or has not what it builds on
    └── InternalError                a fault of the service; its log has it under trace_id

They are built from the google.rpc details that the services send in `grpc-status-details-bin`.
Arguments that no request could carry (such as an unknown option) raise TypeError or ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class FieldViolation:
    """One field at fault."""

    field: str
    """Path from the request's root, such as `generation.sampling.temperature`."""
    description: str
    """What is wrong with it."""


@dataclass(frozen=True)
class Quota:
    """A bound that was met."""

    subject: str
    """What is bounded."""
    description: str
    """The bound, with its number."""


class TokenwireError(Exception):
    """A call failed. The message reads well alone; the attributes are for programs."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        trace_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        """The gRPC status code."""
        self.reason = reason or code.name
        """Stable and in UPPER_SNAKE_CASE; the code's name where the server gave none."""
        self.trace_id = trace_id
        """By which the services' logs and traces name the request; 32 hex digits."""
        self.metadata: Mapping[str, str] = {}
        """What the server adds to the reason, such as the bounds that were passed."""
        self.retry_after_s: float | None = None
        """Seconds after which to try again, where the server says so."""
        self.violations: tuple[FieldViolation, ...] = ()
        """The fields at fault."""
        self.quotas: tuple[Quota, ...] = ()
        """The bounds that were met."""
        self.is_break = False
        """Whether the connection or stream broke: no service has said anything of the request."""


class InvalidRequestError(TokenwireError):
    """The request is at fault, and would be again; `violations` names each field."""


class NotFoundError(TokenwireError):
    """What the request names does not exist here, such as its model."""


class UnauthenticatedError(TokenwireError):
    """The call has no credential, an unknown one, or one that has expired; `reason` tells."""


class PermissionDeniedError(TokenwireError):
    """The credential does not allow the call; `reason` tells why."""


class OverloadedError(TokenwireError):
    """The deployment is at a bound; `quotas` names it, `retry_after_s` says when to try again."""


class UnavailableError(TokenwireError):
    """The server takes no requests now, such as while it drains or has no ready worker."""


class UnreachableError(UnavailableError):
    """No server answered at the target, or the connection to it broke."""


class DeadlineExceededError(TokenwireError):
    """`timeout` passed before the call ended."""


class RequestCancelledError(TokenwireError):
    """The call was cancelled by something other than this client's `cancel`."""


class UnsupportedError(TokenwireError):
    """This deployment can't do it, or has not what the request builds on.

    Such as a method, a chat template of the model, or a conversation; `reason` tells.
    """


class InternalError(TokenwireError):
    """A fault of the service, or an answer that breaks the contract."""


_KINDS: Mapping[grpc.StatusCode, type[TokenwireError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.ALREADY_EXISTS: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: RequestCancelledError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
    grpc.StatusCode.FAILED_PRECONDITION: UnsupportedError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}


_BREAKS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
}
"""What gRPC itself says of a connection or a stream that broke."""


def from_status(status: status_pb2.Status, trace_id: str) -> TokenwireError:
    """Returns the error that a service described."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    error = _KINDS.get(code, TokenwireError)(status.message, code=code, trace_id=trace_id)
    for detail in status.details:
        _read_detail(error, detail)
    return error


def from_rpc_error(failure: grpc.RpcError, trace_id: str) -> TokenwireError:
    """Returns what a failed call says: with the service's details, or with gRPC's own words."""
    call = cast("grpc.Call", failure)  # gRPC's two clients both raise errors with a call's methods
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value), trace_id)
    code, message = call.code(), call.details() or call.code().name
    # gRPC itself never sends details, so this one comes from the connection and not from a service.
    kind = (
        UnreachableError
        if code is grpc.StatusCode.UNAVAILABLE
        else _KINDS.get(code, TokenwireError)
    )
    error = kind(message, code=code, trace_id=trace_id)
    error.is_break = code in _BREAKS
    return error


def _read_detail(error: TokenwireError, detail: any_pb2.Any) -> None:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    bad_request, quota = error_details_pb2.BadRequest(), error_details_pb2.QuotaFailure()
    if detail.Unpack(info):
        error.reason = info.reason
        error.metadata = dict(info.metadata)
    elif detail.Unpack(retry):
        error.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    elif detail.Unpack(bad_request):
        error.violations = tuple(
            FieldViolation(each.field, each.description) for each in bad_request.field_violations
        )
    elif detail.Unpack(quota):
        error.quotas = tuple(Quota(each.subject, each.description) for each in quota.violations)
