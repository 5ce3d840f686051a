"""The one place where a ServiceError becomes a google.rpc.Status, and a Status a ServiceError."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NoReturn
from urllib.parse import quote

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from tokenwire_service.errors import (
    VIOLATIONS,
    WORDS_BYTES,
    Code,
    FieldViolation,
    Quota,
    ServiceError,
)
from tokenwire_service.wording import cut

DOMAIN = "tokenwire"
"""ErrorInfo.domain of every error that Tokenwire makes."""

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata key under which gRPC carries a google.rpc.Status."""

TRAILER_BYTES = 4096
"""Many stacks refuse more than 8 KiB of metadata, of which proxies want their share: an error's
trailers stay below half of it."""

STATUS_BYTES = 2100
"""The whole Status, which base64 makes a third larger."""

MESSAGE_BYTES = 640
ENCODED_MESSAGE_BYTES = 1024
"""The message has a header of its own, where percent-encoding makes three bytes of most."""

METADATA_BYTES = 512
DESCRIPTION_BYTES = 256
NAME_BYTES = 128

DETAILS = 8
"""Details of a peer's Status that are read: `to_status` makes four at most."""

METADATA_ENTRIES = 32
"""Entries of a peer's ErrorInfo that are read: `to_status` has room for fewer."""

PACKING_BYTES = 64
"""What stands around a detail in a Status: its type's URL and the lengths."""

_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""What gRPC does not percent-encode."""

UNKNOWN = "UNKNOWN"
"""Reason of a Status that has none, or none that is a name."""

_REASON = re.compile("[A-Z][A-Z0-9_]{0,62}")

_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


def to_status(error: ServiceError) -> status_pb2.Status:
    """Returns the error as a Status of at most STATUS_BYTES.

    It has ErrorInfo, and of the other details as much as there is room for.
    """
    return _status(_told(error))


def _told(error: ServiceError) -> _Told:
    return _Told(
        error.code, error.reason, error.message, error.retry_after_s, error.quota,
        tuple(error.metadata.items()), tuple(error.violations),
    )  # fmt: skip


def _status(error: _Told) -> status_pb2.Status:
    status = status_pb2.Status(code=int(error.code), message=_message(error.message))
    status.details.add().Pack(_error_info(error))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.quota is not None:
        failure = error_details_pb2.QuotaFailure()
        failure.violations.add(
            subject=cut(error.quota.subject, NAME_BYTES),
            description=cut(error.quota.description, DESCRIPTION_BYTES),
        )
        status.details.add().Pack(failure)
    if error.violations:
        room = STATUS_BYTES - status.ByteSize() - PACKING_BYTES
        status.details.add().Pack(_bad_request(error.violations, room))
    return status


def _message(text: str) -> str:
    limit = MESSAGE_BYTES
    while len(quote(message := cut(text, limit), _PLAIN)) > ENCODED_MESSAGE_BYTES:
        limit = limit * 3 // 4
    return message


def _error_info(error: _Told) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    room = METADATA_BYTES
    for key, value in error.metadata:
        told = cut(value, NAME_BYTES)
        room -= len(key) + len(told.encode())
        if room >= 0:
            info.metadata[key] = told
    return info


def _bad_request(
    violations: Sequence[FieldViolation], room_bytes: int
) -> error_details_pb2.BadRequest:
    """Returns as many of the violations as there is room for."""
    detail = error_details_pb2.BadRequest()
    for violation in violations:
        detail.field_violations.add(
            field=cut(violation.field, NAME_BYTES),
            description=cut(violation.description, DESCRIPTION_BYTES),
        )
        if detail.ByteSize() > room_bytes:
            del detail.field_violations[-1]
            break
    return detail


def from_status(status: status_pb2.Status) -> ServiceError:
    """Returns the ServiceError that `to_status` turned into this Status, as far as it tells.

    Of what a peer sends beyond what `to_status` makes, only so much is read. The reason of a Status
    that has none is UNKNOWN.
    """
    known = status.code in Code.__members__.values()
    error = ServiceError(Code(status.code) if known else Code.UNKNOWN, UNKNOWN, status.message)
    for detail in status.details[:DETAILS]:
        _read_detail(error, detail)
    return error


def _read_detail(error: ServiceError, detail: object) -> None:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    quota = error_details_pb2.QuotaFailure()
    if detail.Unpack(info):  # type: ignore[attr-defined]
        # It becomes a metric's attribute, so a peer's invention must not.
        error.reason = info.reason if _REASON.fullmatch(info.reason) else UNKNOWN
        error.metadata = {
            cut(key, NAME_BYTES): cut(value, WORDS_BYTES)
            for key, value in islice(info.metadata.items(), METADATA_ENTRIES)
        }
    elif detail.Unpack(bad_request):  # type: ignore[attr-defined]
        error.violations = [
            FieldViolation(violation.field, violation.description)
            for violation in bad_request.field_violations[:VIOLATIONS]
        ]
    elif detail.Unpack(retry):  # type: ignore[attr-defined]
        error.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    elif detail.Unpack(quota) and quota.violations:  # type: ignore[attr-defined]
        first = quota.violations[0]
        error.quota = Quota(cut(first.subject, NAME_BYTES), cut(first.description, WORDS_BYTES))


@dataclass(frozen=True, slots=True)
class _Told:
    """All that an error tells."""

    code: Code
    reason: str
    message: str
    retry_after_s: float | None
    quota: Quota | None
    metadata: tuple[tuple[str, str], ...]
    violations: tuple[FieldViolation, ...]


@lru_cache(maxsize=128)  # an overload is one refusal, told ten thousand times
def _serialized(told: _Told) -> tuple[str, bytes]:
    """Returns the message and the Status of what an error tells."""
    status = _status(told)
    return status.message, status.SerializeToString()


async def abort(context: grpc.aio.ServicerContext, error: ServiceError) -> NoReturn:  # type: ignore[type-arg]
    """Ends the RPC with the error's status and details."""
    message, details = _serialized(_told(error))
    await context.abort(
        _GRPC_CODES[error.code], message, trailing_metadata=((DETAILS_KEY, details),)
    )
    raise AssertionError("context.abort always raises. This is a bug.")


def from_rpc_error(error: grpc.aio.AioRpcError) -> ServiceError:
    """Returns what a failed call says, with its details where the peer sent any."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    code, message = error.code().value[0], error.details() or ""
    return from_status(status_pb2.Status(code=code, message=message))
