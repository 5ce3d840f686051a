"""OpenTelemetry spans of calls, for the client and for any gRPC channel.

    pip install opentelemetry-api

    Client(target, tracing=True)

    channel = grpc.intercept_channel(grpc.insecure_channel(target), *interceptors(target))
    channel = grpc.aio.insecure_channel(target, interceptors=aio_interceptors(target))

Each RPC is one CLIENT span, named by its method, from the call's start to its end: the last message
of a stream, a cancel, a failure. Its parent is what the call's `traceparent` metadata names, else
the current span; its own context goes to the server as `traceparent` and `tracestate`. Spans go
where the application has set up the OpenTelemetry SDK to send them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import grpc

from tokenwire._spans import RpcSpan, Tracing, carrying, parent_of
from tokenwire._trace import starting

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["aio_interceptors", "interceptors"]


def interceptors(
    target: str, *, tracer_provider: TracerProvider | None = None
) -> list[grpc.UnaryUnaryClientInterceptor]:
    """Returns the interceptors for `grpc.intercept_channel`.

    The spans name the server by `target`. Without a provider they come from the global one.
    """
    return [ClientInterceptor(Tracing(target, tracer_provider))]


def aio_interceptors(
    target: str, *, tracer_provider: TracerProvider | None = None
) -> list[grpc.aio.ClientInterceptor]:
    """Returns the interceptors for a grpc.aio channel; otherwise as `interceptors`."""
    return async_interceptors(Tracing(target, tracer_provider))


def _begin(tracing: Tracing, details: Any) -> tuple[RpcSpan, list[tuple[str, str | bytes]]]:
    """Starts a call's span, and returns it and the call's metadata."""
    method = details.method
    # grpc.aio has it as bytes, whatever its types say.
    name = (method.decode() if isinstance(method, bytes) else method).lstrip("/")
    metadata = list(details.metadata or ())
    trace = starting()
    span = tracing.start(name, parent_of(metadata, trace))
    if trace is not None and span.headers:
        trace.join(span.headers)
    return span, carrying(metadata, span.headers)


@dataclass(frozen=True)
class _Details(grpc.ClientCallDetails):
    """A call's details with other metadata; gRPC's own class has no public name."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class ClientInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Makes the spans of a blocking channel's calls."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def _intercept(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        span, metadata = _begin(self._tracing, details)
        optional = ("timeout", "credentials", "wait_for_ready", "compression")
        given = {name: getattr(details, name, None) for name in optional}
        try:
            call = continuation(
                _Details(details.method, metadata=tuple(metadata), **given), request
            )
        except BaseException as error:
            span.fail(error)
            raise
        # A blocking call has ended by now; `done` tells it from a future.
        if call.done():
            span.end(call.code())
            return call
        return _HeldCall(call, span)

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Makes the span of a call."""
        return self._intercept(continuation, client_call_details, request)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Makes the span of a call."""
        return self._intercept(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Makes the span of a call."""
        return self._intercept(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Makes the span of a call."""
        return self._intercept(continuation, client_call_details, request_iterator)


class _HeldCall:
    """A running call, as its caller holds it.

    gRPC keeps a running call's done callbacks, and they keep the call: it would not notice any more
    that nobody reads it. This object is what the caller lets go of; the call is then cancelled, as
    gRPC itself cancels one that is let go of.
    """

    def __init__(self, call: Any, span: RpcSpan) -> None:
        self._call = call
        self._span = span
        call.add_done_callback(partial(_end, span))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except (StopIteration, grpc.RpcError):
            # Here too, so that who has seen the end finds the span ended.
            self._span.end(self._call.code())
            raise

    def __del__(self) -> None:
        self._call.cancel()


# The calls of other libraries' interceptors and wrappers are told by these.
grpc.Call.register(_HeldCall)
grpc.Future.register(_HeldCall)


def _end(span: RpcSpan, call: Any) -> None:
    span.end(call.code())


def async_interceptors(tracing: Tracing) -> list[grpc.aio.ClientInterceptor]:
    """Returns the interceptors of a grpc.aio channel, which wants one for each kind of call."""
    return [
        _AsyncUnaryUnary(tracing),
        _AsyncUnaryStream(tracing),
        _AsyncStreamUnary(tracing),
        _AsyncStreamStream(tracing),
    ]


class _AsyncInterceptor:
    """Makes the spans of a grpc.aio channel's calls of one kind.

    The call is handed on as it is, at once and in the state it is in. To await its status first
    would hide a cancel from it; to hand on an iterator would leave open the span of a stream that
    nobody reads.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    async def _intercept(
        self, continuation: Callable[..., Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        span, metadata = _begin(self._tracing, details)
        given = grpc.aio.ClientCallDetails(
            method=details.method,
            timeout=details.timeout,
            metadata=grpc.aio.Metadata(*metadata),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )
        try:
            call = await continuation(given, request)
        except BaseException as error:  # such as where another interceptor awaits the answer
            span.fail(error)
            raise
        # What another interceptor made of an answer is done, and takes no callbacks.
        if call.done():
            _end_async(span, call)
        else:
            call.add_done_callback(partial(_end_async, span))
        return call


def _end_async(span: RpcSpan, call: Any) -> None:
    # A call that is done has its status, so this coroutine never waits. A task for it would need an
    # event loop that is still running, which the end of a program does not have.
    status: Iterator[Any] = call.code().__await__()
    try:
        next(status)
    except StopIteration as ended:
        span.end(ended.value)
    else:
        span.end(grpc.StatusCode.UNKNOWN)


class _AsyncUnaryUnary(_AsyncInterceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._intercept(continuation, client_call_details, request)


class _AsyncUnaryStream(_AsyncInterceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._intercept(continuation, client_call_details, request)


class _AsyncStreamUnary(_AsyncInterceptor, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._intercept(continuation, client_call_details, request_iterator)


class _AsyncStreamStream(_AsyncInterceptor, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._intercept(continuation, client_call_details, request_iterator)
