"""What an error of the contract says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from tokenwire.conformance.rule import Broken, expect

DETAILS_KEY = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Refusal:
    """An error with the google.rpc details that came with it."""

    code: grpc.StatusCode
    message: str
    domain: str
    """Of ErrorInfo, as `reason`; empty where the error has none."""
    reason: str
    fields: tuple[str, ...]
    trailer_bytes: int
    """Of the trailing metadata; 0 of an error in a session."""

    def expect(self, code: grpc.StatusCode, reason: str) -> None:
        """Raises Broken unless the error has this status and reason."""
        seen = f"{self.code.name} {self.reason or '(no reason)'}: {self.message}"
        expect((self.code, self.reason) == (code, reason), f"{seen}; not {code.name} {reason}")

    def expect_field(self, path: str) -> None:
        """Raises Broken unless the error says of this field that it is invalid."""
        self.expect(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        named = ", ".join(self.fields) or "no field"
        expect(path in self.fields, f"{named} was named; not {path}")


def of_status(status: status_pb2.Status, trailer_bytes: int = 0) -> Refusal:
    """Reads a google.rpc.Status."""
    info, fields = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        # The details of other kinds are no matter here.
        if not detail.Unpack(info):
            detail.Unpack(fields)
    return Refusal(
        code=_CODES.get(status.code, grpc.StatusCode.UNKNOWN),
        message=status.message,
        domain=info.domain,
        reason=info.reason,
        fields=tuple(each.field for each in fields.field_violations),
        trailer_bytes=trailer_bytes,
    )


def of_error(error: grpc.RpcError) -> Refusal:
    """Reads a failed call."""
    call = cast("grpc.Call", error)
    trailers = call.trailing_metadata() or ()
    size = sum(len(key) + len(value) for key, value in trailers)
    for key, value in trailers:
        if key == DETAILS_KEY and isinstance(value, bytes):
            return of_status(status_pb2.Status.FromString(value), size)
    return Refusal(call.code(), call.details() or "", "", "", (), size)


def refused(make: Callable[[], Any]) -> Refusal:
    """Returns how a call is refused, which is read to its end; raises Broken where it is not."""
    try:
        answer = make()
        if isinstance(answer, Iterator):
            for _ in answer:
                pass
    except grpc.RpcError as error:
        return of_error(error)
    raise Broken("the request was not refused")
