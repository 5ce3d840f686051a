"""The edge of every RPC: its span and duration, its errors' statuses, a log line for what failed.

Handlers are plain coroutines (streams write through the context), so a cancelled call raises
CancelledError inside the handler and its `finally` blocks run at once. Generator handlers would be
closed later, by the garbage collector.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from tokenwire_service import deadlines
from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.status import abort
from tokenwire_service.telemetry import metrics, registry, semconv, tracing
from tokenwire_service.telemetry.histogram import Histogram

log = structlog.get_logger()

Behavior = Callable[[Any, Any], Awaitable[Any]]


class RpcBoundary(grpc.aio.ServerInterceptor):
    """Wraps every RPC of Tokenwire's own services; health and reflection pass untouched."""

    def __init__(self) -> None:
        self._duration = metrics.histogram(registry.RPC_SERVER_DURATION)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Returns the method's handler with its behaviour wrapped."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method.lstrip("/")
        if handler is None or method.startswith("grpc."):
            return handler
        make, behavior = _parts(handler)
        return make(
            _bounded(behavior, method, self._duration),
            request_deserializer=(
                # What a stream's raises comes out of the handler's own read.
                handler.request_deserializer
                if handler.request_streaming
                else _lenient(handler.request_deserializer)
            ),
            response_serializer=handler.response_serializer,
        )


def _lenient(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Returns a deserializer that returns its failure; gRPC would end the call with UNKNOWN."""

    def deserialize(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError as error:
            return error

    return deserialize


def _parts(handler: Any) -> tuple[Callable[..., Any], Behavior]:
    if handler.request_streaming:
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler, handler.stream_stream
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary


def _bounded(behavior: Behavior, method: str, duration: Histogram) -> Behavior:
    async def bounded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        call = _Call(method, context)
        token = otel_context.attach(call.context)
        try:
            if isinstance(request, DecodeError):
                raise request
            return await behavior(request, context)
        except ServiceError as error:
            call.code = error.code.name
            _log_failure(method, error)
            await abort(context, error)
        except DecodeError as error:
            call.code = Code.INVALID_ARGUMENT.name
            refusal = ServiceError(Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE", str(error))
            _log_failure(method, refusal)
            await abort(context, refusal)
        except asyncio.CancelledError:
            late = deadlines.has_passed(context.time_remaining(), call.deadline_s)
            call.code = Code.DEADLINE_EXCEEDED.name if late else Code.CANCELLED.name
            raise
        except grpc.aio.AbortError:
            call.code = Code.UNKNOWN.name
            raise
        except Exception as error:  # the last net: whatever it is, the caller gets a status
            call.code = Code.INTERNAL.name
            log.exception("rpc_fault", method=method)
            fault = ServiceError(
                Code.INTERNAL,
                "INTERNAL_FAULT",
                f"internal fault ({type(error).__name__}); "
                f"the service's log has it under trace id {tracing.trace_id(call.span)}",
            )
            await abort(context, fault)
        finally:
            call.end(duration)
            otel_context.detach(token)

    return bounded


class _Call:
    """The span and the duration of one call."""

    def __init__(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._began_s = time.monotonic()
        self.deadline_s = context.time_remaining()
        self._attributes = {semconv.RPC_SYSTEM_NAME: semconv.GRPC, semconv.RPC_METHOD: method}
        carrier = {
            key: value
            for key, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        }
        self.span = tracing.tracer().start_span(
            method,
            context=tracing.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=self._attributes,
            start_time=tracing.wall_ns(self._began_s),
        )
        self.context = trace.set_span_in_context(self.span)
        self.code = "OK"

    def end(self, duration: Histogram) -> None:
        result = {semconv.RPC_STATUS_CODE: self.code}
        if self.code not in ("OK", Code.CANCELLED.name):
            result[semconv.ERROR_TYPE] = self.code
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.set_attributes(result)
        self.span.end(tracing.now_ns())
        took_s = time.monotonic() - self._began_s
        duration.record(took_s, {**self._attributes, **result}, self.context)


def _log_failure(method: str, error: ServiceError) -> None:
    if error.logged:
        return
    fields = {"method": method, "code": error.code.name, "reason": error.reason}
    if error.code in (Code.INTERNAL, Code.UNKNOWN):
        log.error("rpc_failed", **fields, message=error.message)
    else:
        log.info("rpc_refused", **fields, message=error.message)
