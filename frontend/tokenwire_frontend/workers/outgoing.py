"""The commands of one Exchange stream, from the moment they are given until gRPC takes them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from tokenwire.worker.v1 import execution_pb2
from tokenwire_service.limits import MESSAGE_COMMANDS
from tokenwire_service.wire import bytes_tag, number_tag, varint

from tokenwire_frontend import errors

_SUBMIT = bytes_tag(execution_pb2.ExchangeRequest.SUBMIT_FIELD_NUMBER)
_SUBMITS = bytes_tag(execution_pb2.ExchangeRequest.SUBMITS_FIELD_NUMBER)
_HANDLE = number_tag(execution_pb2.Submit.HANDLE_FIELD_NUMBER)
_REQUEST = bytes_tag(execution_pb2.Submit.REQUEST_FIELD_NUMBER)

WAITING_BYTES = 64 * 2**20
"""Most bytes that wait for a worker that does not read: the largest prompts of 16 requests."""

SEVERAL_REVISION = 2
"""Contract revision from which on one message may carry several commands."""


class Outgoing:
    """Commands that wait to be sent, serialised.

    Args:
        worker: its address, for errors.
        contract_revision: what the worker speaks.
        message_bytes: most bytes of one message.
    """

    def __init__(self, worker: str, contract_revision: int, message_bytes: int) -> None:
        self._worker = worker
        self._message_bytes = message_bytes
        self._several = contract_revision >= SEVERAL_REVISION
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._ready = asyncio.Event()

    def submit(self, handle: int, request: execution_pb2.Request) -> None:
        """Sends a generation after the commands before it.

        Raises:
            ServiceError: it is too large, or the worker does not read.
        """
        # As bytes, since each message that is put into another is copied, prompt and all.
        body = request.SerializeToString()
        submit = _HANDLE + varint(handle) + _REQUEST + varint(len(body)) + body
        data = (_SUBMITS if self._several else _SUBMIT) + varint(len(submit)) + submit
        if len(data) > self._message_bytes:
            raise errors.request_too_large(len(data), self._message_bytes)
        if self._waiting_bytes + len(data) > WAITING_BYTES:
            raise errors.worker_behind(self._worker, WAITING_BYTES)
        self._put(data)

    def cancel(self, handle: int, sequence: int | None) -> None:
        """Sends a cancel after the commands before it."""
        sequences = () if sequence is None else (sequence,)
        cancel = execution_pb2.Cancel(handle=handle, sequences=sequences)
        self._put(
            (
                execution_pb2.ExchangeRequest(cancels=[cancel])
                if self._several
                else execution_pb2.ExchangeRequest(cancel=cancel)
            ).SerializeToString()
        )

    async def messages(self) -> AsyncIterator[bytes]:
        """Yields what waits, as few messages as the worker's contract allows; never ends."""
        while True:
            while self._waiting:
                yield self._next()
            self._ready.clear()
            await self._ready.wait()

    def _put(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._ready.set()

    def _next(self) -> bytes:
        """Returns one message; serialised messages one after the other are one that merges them."""
        size = 0
        parts: list[bytes] = []
        most = MESSAGE_COMMANDS if self._several else 1
        while self._waiting and len(parts) < most:
            size += len(self._waiting[0])
            if size > self._message_bytes and parts:
                break
            parts.append(self._waiting.popleft())
        data = b"".join(parts)
        self._waiting_bytes -= len(data)
        return data
