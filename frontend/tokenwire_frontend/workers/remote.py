"""One connection to a worker: a channel of its own, and the calls that a link makes on it.

An answer that can't be parsed, or is too large for its call, is returned as a DecodeError that
tells so. gRPC by itself would hand out None and a traceback.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from tokenwire.channel_arguments import (
    HOP_FRAME_BYTES,
    RESPONSE_BYTES,
    TLS_NAME,
    USE_LOCAL_SUBCHANNEL_POOL,
    WORKER_HOP,
    merged,
)
from tokenwire.worker.v1 import execution_pb2, worker_pb2
from tokenwire_service.tls import Credentials

from tokenwire_frontend.models.files import FILES_BYTES_LIMIT

ARGUMENTS = (
    *WORKER_HOP,
    # A connection that was lost is never taken up again: its peer may be frozen behind it.
    (USE_LOCAL_SUBCHANNEL_POOL, 1),
)

MEETING_TIMEOUT_S = 10.0
"""Time that a worker has to describe itself, and to send its text files."""

WORKER_SERVICE = "/tokenwire.worker.v1.WorkerService/"
EXECUTION_SERVICE = "/tokenwire.worker.v1.ExecutionService/"

MessageT = TypeVar("MessageT")


class WorkerRefusedError(Exception):
    """The worker was reached but can't serve here."""


class Remote:
    """The calls of one connection.

    Args:
        address: HOST:PORT.
        credentials: of the connection.
        tls_name: name that the worker's certificate has; empty: the address's host.
    """

    def __init__(self, address: str, credentials: Credentials, tls_name: str = "") -> None:
        own = credentials()
        if own is None:
            self._channel = grpc.aio.insecure_channel(address, options=ARGUMENTS)
        else:
            named = merged(ARGUMENTS, (TLS_NAME, tls_name)) if tls_name else ARGUMENTS
            self._channel = grpc.aio.secure_channel(address, own, options=named)
        self._calls: dict[str, grpc.aio.Call] = {}
        """Streams by method."""
        self._describe = self._channel.unary_unary(
            f"{WORKER_SERVICE}GetWorkerInfo",
            worker_pb2.GetWorkerInfoRequest.SerializeToString,
            _lenient(worker_pb2.GetWorkerInfoResponse.FromString),
        )
        self._text_files = self._channel.unary_stream(
            f"{WORKER_SERVICE}GetTokenizer",
            worker_pb2.GetTokenizerRequest.SerializeToString,
            _lenient(worker_pb2.GetTokenizerResponse.FromString),
        )
        self._watch_load = self._channel.unary_stream(
            f"{WORKER_SERVICE}WatchLoad",
            worker_pb2.WatchLoadRequest.SerializeToString,
            _lenient(worker_pb2.WatchLoadResponse.FromString),
        )
        self._watch_kv_events = self._channel.unary_stream(
            f"{WORKER_SERVICE}WatchKvEvents",
            worker_pb2.WatchKvEventsRequest.SerializeToString,
            _lenient(worker_pb2.WatchKvEventsResponse.FromString),
        )
        self._exchange: grpc.aio.StreamStreamMultiCallable[bytes, Any] = (
            self._channel.stream_stream(
                f"{EXECUTION_SERVICE}Exchange",
                None,  # commands are serialised when they are given
                _lenient(execution_pb2.ExchangeResponse.FromString, HOP_FRAME_BYTES),
            )
        )

    async def describe(self) -> worker_pb2.GetWorkerInfoResponse:
        """Asks the worker what it is.

        Raises:
            WorkerRefusedError: it is not a worker, or its answer can't be read.
        """
        try:
            described = await self._describe(
                worker_pb2.GetWorkerInfoRequest(), timeout=MEETING_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            raise WorkerRefusedError(
                "it is a gRPC service but no worker, such as another frontend; "
                "--worker is the address that a tokenwire-worker listens on"
            ) from error
        return _readable(described, "GetWorkerInfo")

    async def text_files(self) -> dict[str, bytes]:
        """Returns the worker's text-side files by name.

        Raises:
            WorkerRefusedError: they are too large, or can't be read.
        """
        parts: dict[str, bytearray] = {}
        total = 0
        async for message in self._text_files(
            worker_pb2.GetTokenizerRequest(), timeout=MEETING_TIMEOUT_S
        ):
            part = _readable(message, "GetTokenizer")
            total += len(part.data) + len(part.file_name)
            if total > FILES_BYTES_LIMIT:
                raise WorkerRefusedError(
                    f"its text files have more than {FILES_BYTES_LIMIT // 2**20} MiB"
                )
            parts.setdefault(part.file_name, bytearray()).extend(part.data)
        return {name: bytes(data) for name, data in parts.items()}

    def watch_load(
        self, longest_s: float
    ) -> AsyncIterable[worker_pb2.WatchLoadResponse | DecodeError]:
        """Opens a stream of load reports, in the place of the one before.

        Args:
            longest_s: time between two reports, at most; a worker may send more.
        """
        longest = duration_pb2.Duration()
        longest.FromNanoseconds(round(longest_s * 1e9))
        request = worker_pb2.WatchLoadRequest(max_interval=longest)
        call = self._calls["WatchLoad"] = self._watch_load(request)
        return call

    def watch_kv_events(
        self, interval_s: float
    ) -> AsyncIterable[worker_pb2.WatchKvEventsResponse | DecodeError]:
        """Opens a stream of what happens to the KV cache from now on, gathered for so long."""
        interval = duration_pb2.Duration()
        interval.FromNanoseconds(round(interval_s * 1e9))
        return self._watch_kv_events(worker_pb2.WatchKvEventsRequest(interval=interval))

    def exchange(self) -> grpc.aio.StreamStreamCall[bytes, Any]:
        """Opens an Exchange stream: takes serialised requests, yields frames or DecodeErrors."""
        call = self._calls["Exchange"] = self._exchange()
        return call

    def close(self) -> None:
        """Ends every call, and closes the connection."""
        for call in self._calls.values():
            call.cancel()
        # What Channel.close does in the end. First it looks for its calls among all tasks of the
        # event loop: with 256 links to close that takes seconds, and holds up every stream.
        self._channel._channel.close()  # type: ignore[attr-defined]  # noqa: SLF001


def _lenient(
    parse: Callable[[bytes], MessageT], limit_bytes: int = RESPONSE_BYTES
) -> Callable[[bytes], MessageT | DecodeError]:
    def read(data: bytes) -> MessageT | DecodeError:
        if len(data) > limit_bytes:
            return DecodeError(f"has {len(data)} bytes; at most {limit_bytes}")
        try:
            return parse(data)
        except DecodeError as error:
            return DecodeError(f"can't be parsed: {error}")

    return read


def _readable(message: MessageT | DecodeError, method: str) -> MessageT:
    if isinstance(message, DecodeError):
        raise WorkerRefusedError(f"its answer to {method} {message}")
    return message
