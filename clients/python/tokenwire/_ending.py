"""How a stream really ended, where grpc.aio puts a status of its own in the server's place."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

_ValueT = TypeVar("_ValueT")


class Ending:
    """Keeps what a streaming call of grpc.aio ended with first.

    A write that was on its way when the server's status came fails a moment later, and grpc.aio
    then replaces that status by INTERNAL, "Internal error from Core".

    Args:
        call: the call, just started.
    """

    def __init__(self, call: Any) -> None:
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._note)

    def real(self, failure: grpc.RpcError) -> grpc.RpcError | None:
        """Returns what the call ended with first, where that is known, else what it has raised.

        None: it ended with OK.
        """
        if self._first is None:
            return failure
        return None if self._first.code() is grpc.StatusCode.OK else self._first

    def _note(self, call: Any) -> None:
        if self._first is None:
            code, details = _now(call.code()), _now(call.details())
            metadata = _now(call.initial_metadata()), _now(call.trailing_metadata())
            self._first = grpc.aio.AioRpcError(code, *metadata, details=details)


def _now(coroutine: Coroutine[Any, Any, _ValueT]) -> _ValueT:
    """Returns what a coroutine returns that waits for nothing: the call is done."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: _ValueT = end.value
        return value
    raise AssertionError("a call that is done has a status. This is a bug.")
