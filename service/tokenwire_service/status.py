"""The one place where a ServiceError becomes a google.rpc.Status, and a Status a ServiceError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from tokenwire_service.errors import Code, FieldViolation, Quota, ServiceError

DOMAIN = "tokenwire"
"""ErrorInfo.domain of every error that Tokenwire makes."""

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata key under which gRPC carries a google.rpc.Status."""

MESSAGE_BYTES_LIMIT = 1024
VIOLATIONS_BYTES_LIMIT = 2048
DESCRIPTION_BYTES_LIMIT = 256
NAME_BYTES_LIMIT = 128
"""A status travels in trailing metadata, of which peers take 8 KiB; larger ones they replace by
RESOURCE_EXHAUSTED. The message counts up to fivefold: percent-encoded, and again in base64."""

_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


def to_status(error: ServiceError) -> status_pb2.Status:
    """Returns the error as a Status with ErrorInfo and whatever details apply."""
    message = _cut(error.message, MESSAGE_BYTES_LIMIT)
    status = status_pb2.Status(code=int(error.code), message=message)
    metadata = {key: _cut(value, NAME_BYTES_LIMIT) for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    status.details.add().Pack(info)
    if error.violations:
        status.details.add().Pack(_bad_request(error.violations))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.quota is not None:
        failure = error_details_pb2.QuotaFailure()
        failure.violations.add(subject=error.quota.subject, description=error.quota.description)
        status.details.add().Pack(failure)
    return status


def _bad_request(violations: Sequence[FieldViolation]) -> error_details_pb2.BadRequest:
    """Returns as many of the violations as there is room for, at least one."""
    detail = error_details_pb2.BadRequest()
    for violation in violations:
        detail.field_violations.add(
            field=_cut(violation.field, NAME_BYTES_LIMIT),
            description=_cut(violation.description, DESCRIPTION_BYTES_LIMIT),
        )
        if detail.ByteSize() > VIOLATIONS_BYTES_LIMIT:
            del detail.field_violations[-1]
            break
    return detail


def _cut(text: str, limit: int) -> str:
    """Returns the text, or so much of it that it has at most so many bytes."""
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - 3].decode(errors="ignore") + "\u2026"


def from_status(status: status_pb2.Status) -> ServiceError:
    """Returns the ServiceError that `to_status` turned into this Status, as far as it tells."""
    known = status.code in Code.__members__.values()
    error = ServiceError(Code(status.code) if known else Code.UNKNOWN, "UNKNOWN", status.message)
    for detail in status.details:
        _read_detail(error, detail)
    return error


def _read_detail(error: ServiceError, detail: object) -> None:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    quota = error_details_pb2.QuotaFailure()
    if detail.Unpack(info):  # type: ignore[attr-defined]
        error.reason = info.reason
        error.metadata = dict(info.metadata)
    elif detail.Unpack(bad_request):  # type: ignore[attr-defined]
        error.violations = [
            FieldViolation(violation.field, violation.description)
            for violation in bad_request.field_violations
        ]
    elif detail.Unpack(retry):  # type: ignore[attr-defined]
        error.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    elif detail.Unpack(quota) and quota.violations:  # type: ignore[attr-defined]
        error.quota = Quota(quota.violations[0].subject, quota.violations[0].description)


async def abort(context: grpc.aio.ServicerContext, error: ServiceError) -> NoReturn:  # type: ignore[type-arg]
    """Ends the RPC with the error's status and details."""
    status = to_status(error)
    await context.abort(
        _GRPC_CODES[status.code],
        status.message,
        trailing_metadata=((DETAILS_KEY, status.SerializeToString()),),
    )
    raise AssertionError("context.abort always raises. This is a bug.")


def from_rpc_error(error: grpc.aio.AioRpcError) -> ServiceError:
    """Returns what a failed call says, with its details where the peer sent any."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    code, message = error.code().value[0], error.details() or ""
    return from_status(status_pb2.Status(code=code, message=message))
