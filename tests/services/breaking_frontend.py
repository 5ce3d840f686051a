"""A frontend that breaks the contract in one way: it passes calls on to a real one, edited.

It speaks the wire format alone, on which every call is a stream each way, so that one handler does
for all methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message
from google.rpc import status_pb2
from tokenwire.frontend.v1 import (
    activity_pb2,
    generation_pb2,
    model_pb2,
    tokenization_pb2,
)

DETAILS_KEY = "grpc-status-details-bin"
_METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in (generation_pb2, tokenization_pb2, model_pb2, activity_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
_OWN_METADATA = ("user-agent", "grpc-", "te", "content-type")

Edit = Callable[[Any], Any]
"""Changes a message in place, or returns a list of messages that go in its place. Of a method that
is not Tokenwire's a message is its bytes, and the bytes that go in its place are returned."""


@dataclass
class Failure:
    """How a call fails."""

    code: grpc.StatusCode
    message: str
    status: status_pb2.Status | None
    """Its details; None: it has none."""
    more_trailers: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Breach:
    """What is changed, by the last part of a method's name."""

    requests: dict[str, Edit] = field(default_factory=dict)
    responses: dict[str, Edit] = field(default_factory=dict)
    failures: Callable[[Failure], None] | None = None
    metadata: Callable[[list[Any]], list[Any]] | None = None


class BreakingFrontend(grpc.GenericRpcHandler):
    """Listens on a port of its own; `breach` may be changed between calls."""

    def __init__(self, address: str) -> None:
        self.breach = Breach()
        self._upstream = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._threads = ThreadPoolExecutor(16)
        unbounded = [("grpc.max_receive_message_length", -1)]
        self._server = grpc.server(self._threads, [self], options=unbounded)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Ends it."""
        self._server.stop(None).wait()
        self._upstream.close()
        self._threads.shutdown()

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler:
        """Takes a call of any method."""
        method = handler_call_details.method
        return grpc.stream_stream_rpc_method_handler(
            lambda requests, context: self._pass_on(method, requests, context)
        )

    def _pass_on(self, name: str, requests: Any, context: Any) -> Iterator[bytes]:
        breach, short = self.breach, name.rpartition("/")[2]
        method = _METHODS.get(name)
        metadata = [
            (key, value)
            for key, value in context.invocation_metadata()
            if not key.startswith(_OWN_METADATA)
        ]
        call = self._upstream.stream_stream(name)(
            _edited(requests, breach.requests.get(short), method and method.input_type),
            timeout=context.time_remaining(),
            metadata=breach.metadata(metadata) if breach.metadata else metadata,
        )
        context.add_callback(call.cancel)
        try:
            yield from _edited(call, breach.responses.get(short), method and method.output_type)
        except grpc.RpcError as error:
            _fail(error, breach, context)


def _edited(messages: Any, edit: Edit | None, kind: Any) -> Iterator[bytes]:
    for data in messages:
        if edit is None:
            yield data
        elif kind is None:
            yield edit(data)
        else:
            message: Message = message_factory.GetMessageClass(kind).FromString(data)
            instead = edit(message)
            for each in instead if isinstance(instead, list) else [message]:
                yield each.SerializeToString()


def _fail(error: Any, breach: Breach, context: Any) -> None:
    """Ends the call as the real frontend did, edited."""
    details = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    status = status_pb2.Status.FromString(details) if details else None
    failure = Failure(error.code(), error.details(), status)
    if breach.failures is not None:
        breach.failures(failure)
    trailers: list[Any] = list(failure.more_trailers)
    if failure.status is not None:
        trailers.append((DETAILS_KEY, failure.status.SerializeToString()))
    context.set_trailing_metadata(trailers)
    context.abort(failure.code, failure.message)
