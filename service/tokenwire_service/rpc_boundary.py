"""The edge of every RPC: its span and duration, its errors' statuses, a log line for what failed.

It also turns calls away when the server stops, with details: what gRPC itself ends then is a bare
CANCELLED to its caller.

Handlers are plain coroutines (streams write through the context), so a cancelled call raises
CancelledError inside the handler and its `finally` blocks run at once. Generator handlers would be
closed later, by the garbage collector.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf.message import DecodeError
from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, Status, StatusCode

from tokenwire_service import deadlines
from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.status import abort
from tokenwire_service.stream import Stream
from tokenwire_service.tasks import Scope, StrayCancellationError
from tokenwire_service.telemetry import loop_lag, registry, semconv, tracing
from tokenwire_service.telemetry.histogram import Histogram

log = structlog.get_logger()

Behavior = Callable[[Any, Any], Awaitable[Any]]

Admit = Callable[[str, grpc.aio.ServicerContext[Any, Any]], None]

RETRY_S = 1.0
"""Suggested to callers of a server that stops: another replica has room, or this one is back."""

HEALTH = "grpc.health."
"""Methods that anybody may call, such as a load balancer, and that are not measured."""

CUT_S = 0.5
"""Time that a call which is cut off has to write its status."""


class RpcBoundary(grpc.aio.ServerInterceptor):
    """Wraps every RPC; health passes untouched.

    Args:
        admit: called with the method's name and gRPC's context before a call is served; raises
            ServiceError where it is not to be. None: every call is served.
    """

    def __init__(self, admit: Admit | None = None) -> None:
        self._admit = admit
        self._duration = Histogram(registry.RPC_SERVER_DURATION)
        self._handlers: dict[str, Any] = {}
        """The wrapped handler of each method that was called."""
        self._open: set[_Call] = set()
        self._closed = False

    async def close(self, grace_s: float) -> None:
        """Refuses new calls; gives those that run the grace, then ends them with that refusal."""
        self._closed = True
        await self._ended(grace_s)
        for call in self._open:
            call.cut(_stopping())
        await self._ended(CUT_S)

    def peers(self) -> set[str]:
        """Returns the callers of the calls that run, by the names that `connections` gives them."""
        return {unquote(call.peer()) for call in self._open}

    async def _ended(self, timeout_s: float) -> None:
        """Waits until every call has ended, its status sent; or for so long."""
        if self._open:
            await asyncio.wait([call.task for call in self._open], timeout=timeout_s)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Returns the method's handler with its behaviour wrapped."""
        path = handler_call_details.method
        wrapped = self._handlers.get(path)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        method = path.lstrip("/")
        if handler is None or method.startswith(HEALTH):
            return handler
        make, behavior = _parts(handler)
        wrapped = self._handlers[path] = make(
            self._bounded(_Method(method, behavior, handler)),
            request_deserializer=self._reader(handler),
            response_serializer=_passing(handler.response_serializer),
        )
        return wrapped

    @staticmethod
    def _reader(handler: Any) -> Callable[[bytes], Any] | None:
        """Returns what reads a stream's messages; a single request is read once it is admitted."""
        return _lenient(handler.request_deserializer) if handler.request_streaming else None

    def _bounded(self, method: _Method) -> Behavior:
        async def bounded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            call = _Call(method.name, context)
            token = otel_context.attach(call.context)
            try:
                with self._running(call):
                    if self._admit is not None:
                        self._admit(method.name, context)
                    return await method.run(request, context, call)
            except asyncio.CancelledError:
                late = deadlines.has_passed(context.time_remaining(), call.deadline_s)
                call.code = Code.DEADLINE_EXCEEDED.name if late else Code.CANCELLED.name
                raise
            except grpc.aio.AbortError:
                call.code = Code.UNKNOWN.name
                raise
            except Exception as error:  # noqa: BLE001 - the last net: the caller gets a status
                refusal = _refusal(error, method.name, call)
                call.code = refusal.code.name
                await abort(context, refusal)
            finally:
                call.end(self._duration)
                otel_context.detach(token)

        return bounded

    @contextmanager
    def _running(self, call: _Call) -> Iterator[None]:
        """Counts the call as running; raises the refusal where the server stops."""
        if self._closed:
            raise _stopping()
        self._open.add(call)
        try:
            yield
        except asyncio.CancelledError as error:
            if call.ending is not None:
                call.task.uncancel()
                raise call.ending from None
            if not call.task.cancelling():
                # gRPC would take it for the caller's, and say nothing but CANCELLED.
                raise StrayCancellationError from error
            raise
        finally:
            self._open.discard(call)
        if call.ending is not None:
            raise call.ending


class _Method:
    """One method's handler, given what a stream's needs.

    Args:
        name: full name of the method.
        behavior: what the servicer does.
        handler: gRPC's handler of it, for its kind.
    """

    def __init__(self, name: str, behavior: Behavior, handler: Any) -> None:
        self.name = name
        self._behavior = behavior
        self._reads_stream = bool(handler.request_streaming)
        self._streams = self._reads_stream or bool(handler.response_streaming)
        self._parse = _lenient(handler.request_deserializer)

    async def run(
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any], call: _Call
    ) -> Any:
        """Returns what the servicer does; a status can be sent once this has ended."""
        if not self._reads_stream:
            request = self._parse(request)
            if isinstance(request, DecodeError):
                raise _malformed(request)
        if not self._streams:
            return await self._behavior(request, context)
        async with Scope(self.name) as scope:
            stream = Stream(
                context, scope, lambda error: call.cut(_malformed(error)), call.task.cancel
            )
            try:
                return await self._behavior(stream if self._reads_stream else request, stream)
            finally:
                await stream.settled()


def _malformed(error: DecodeError) -> ServiceError:
    return ServiceError(Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE", str(error))


def _stopping() -> ServiceError:
    return ServiceError(
        Code.UNAVAILABLE,
        "DRAINING",
        "this service is stopping and accepts no new requests",
        retry_after_s=RETRY_S,
    )


def _refusal(error: Exception, method: str, call: _Call) -> ServiceError:
    """Returns what the caller is told of an error, once the log has it."""
    if isinstance(error, ServiceError):
        _log_failure(method, error)
        return error
    log.exception("rpc_fault", method=method)
    return ServiceError(
        Code.INTERNAL,
        "INTERNAL_FAULT",
        f"internal fault ({type(error).__name__}); "
        f"the service's log has it under trace id {call.span.trace_id}",
    )


def _lenient(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Returns a deserializer that returns its failure; gRPC would end the call with UNKNOWN."""

    def deserialize(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError as error:
            return error

    return deserialize


def _passing(serializer: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Returns a serializer that also takes what is serialised already."""

    def serialize(message: Any) -> bytes:
        return message if type(message) is bytes else serializer(message)

    return serialize


def _parts(handler: Any) -> tuple[Callable[..., Any], Behavior]:
    if handler.request_streaming:
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler, handler.stream_stream
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary


class _Call:
    """One call: its task, its span and its duration."""

    def __init__(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task; for the type checker
        self.task = task
        """gRPC's task, which ends once the status has been sent."""
        self.ending: ServiceError | None = None
        """What the call is cut off with."""
        self.peer = context.peer
        self._began_s = time.monotonic() - loop_lag.last_s()
        self.deadline_s = context.time_remaining()
        self._attributes = {semconv.RPC_SYSTEM_NAME: semconv.GRPC, semconv.RPC_METHOD: method}
        carrier = {
            key: value
            for key, value in context.invocation_metadata() or ()
            if key in tracing.HEADERS and isinstance(value, str)
        }
        parent = tracing.extract(carrier)
        self.span = tracing.begin(method, parent, SpanKind.SERVER, self._began_s)
        self.context = self.span.as_parent()
        self.code = "OK"

    def cut(self, error: ServiceError) -> None:
        """Ends the call with this error, whatever its handler does."""
        self.ending = error
        self.task.cancel()

    def end(self, duration: Histogram) -> None:
        result = {semconv.RPC_STATUS_CODE: self.code}
        if self.code not in ("OK", Code.CANCELLED.name):
            result[semconv.ERROR_TYPE] = self.code
            self.span.status = Status(StatusCode.ERROR)
        ended_s = time.monotonic()
        told = {**self._attributes, **result}
        self.span.attributes.update(told)
        self.span.end(ended_s)
        duration.record(ended_s - self._began_s, told, self.context if self.span.sampled else None)


def _log_failure(method: str, error: ServiceError) -> None:
    if error.logged:
        return
    fields = {"method": method, "code": error.code.name, "reason": error.reason}
    if error.code in (Code.INTERNAL, Code.UNKNOWN):
        log.error("rpc_failed", **fields, message=error.message)
    else:
        log.info("rpc_refused", **fields, message=error.message)
