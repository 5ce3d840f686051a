"""How a stream really ended, where grpc.aio puts a status of its own in the server's place."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

_ValueT = TypeVar("_ValueT")


_NO_STATUS = (grpc.StatusCode.INTERNAL, "Internal error from Core")
"""What grpc.aio makes of a write that has failed."""


class Ending:
    """Keeps the status that the server ended a streaming call of grpc.aio with.

    A write that is on its way when the server ends the call fails, and grpc.aio makes INTERNAL,
    "Internal error from Core", of it. That replaces the server's status, or stands in its place for
    a moment until that has come.

    Args:
        call: the call, just started.
    """

    def __init__(self, call: Any) -> None:
        self._status: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._note)

    def real(self, failure: grpc.RpcError) -> grpc.RpcError | None:
        """Returns what the server ended the call with, where that is known, else the failure.

        None: it ended with OK.
        """
        if self._status is None:
            return failure
        return None if self._status.code() is grpc.StatusCode.OK else self._status

    def _note(self, call: Any) -> None:
        code, details = _now(call.code()), _now(call.details())
        if self._status is None and (code, details) != _NO_STATUS:
            metadata = _now(call.initial_metadata()), _now(call.trailing_metadata())
            self._status = grpc.aio.AioRpcError(code, *metadata, details=details)


def _now(coroutine: Coroutine[Any, Any, _ValueT]) -> _ValueT:
    """Returns what a coroutine returns that waits for nothing: the call is done."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: _ValueT = end.value
        return value
    raise AssertionError("a call that is done has a status. This is a bug.")
