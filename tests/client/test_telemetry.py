"""One span for each call of any gRPC channel, however the call ends."""

import asyncio
import gc
from contextlib import suppress

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode
from tokenwire import _semconv as semconv
from tokenwire import telemetry
from tokenwire._spans import server_of

from tests.client.scripted_server import WAIT_S
from tests.client.tracing import KINDS, EveryKind, Spans, callable_of

STREAMS = ("UnaryStream", "StreamStream")
FAILED = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def spans():
    return Spans()


@pytest.fixture
def server():
    running = EveryKind()
    yield running
    running.stop()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=STREAMS)
def stream_kind(request):
    return request.param


class Blocking:
    """A blocking channel behind grpc.aio's interface, so that one test serves both."""

    def __init__(self, server, provider):
        found = telemetry.interceptors(server.address, tracer_provider=provider)
        self.channel = grpc.intercept_channel(grpc.insecure_channel(server.address), *found)

    def start(self, kind, request, **options):
        method = callable_of(self.channel, kind)
        if kind.endswith("Unary"):
            method = method.future
        return method(request if kind.startswith("Unary") else iter([request]), **options)

    async def read(self, call):
        if isinstance(call, grpc.Future) and not hasattr(call, "__next__"):
            return await asyncio.to_thread(call.result)
        return await asyncio.to_thread(list, call)

    async def answer(self, kind, request, **options):
        call = self.start(kind, request, **options)
        return await asyncio.to_thread(
            call.result if kind.endswith("Unary") else lambda: list(call)
        )

    async def read_one(self, call):
        return await asyncio.to_thread(next, call)

    async def close(self):
        self.channel.close()


class Asynchronous:
    def __init__(self, server, provider):
        found = telemetry.aio_interceptors(server.address, tracer_provider=provider)
        self.channel = grpc.aio.insecure_channel(server.address, interceptors=found)

    def start(self, kind, request, **options):
        method = callable_of(self.channel, kind)
        return method(request if kind.startswith("Unary") else iter([request]), **options)

    async def answer(self, kind, request, **options):
        call = self.start(kind, request, **options)
        return await call if kind.endswith("Unary") else [each async for each in call]

    async def read_one(self, call):
        return await anext(aiter(call))

    async def close(self):
        await self.channel.close()


@pytest.fixture(params=[Blocking, Asynchronous], ids=["blocking", "asynchronous"])
async def twin(request, server, spans):
    made = request.param(server, spans.provider)
    yield made
    await made.close()


async def reached(event):
    assert await asyncio.to_thread(event.wait, WAIT_S)


async def ended(spans, count=1):
    return await asyncio.to_thread(spans.ended, count)


def traceparent(span):
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


async def test_a_call_is_one_span_whose_context_the_server_gets(twin, server, spans, kind):
    answer = await twin.answer(kind, b"go")
    assert answer == (b"one" if kind.endswith("Unary") else [b"one", b"two"])
    (span,) = await ended(spans)
    assert (span.name, span.kind) == (f"test.Kinds/{kind}", SpanKind.CLIENT)
    assert dict(span.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": f"test.Kinds/{kind}",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "rpc.response.status_code": "OK",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert span.parent is None
    assert server.metadata[0]["traceparent"] == traceparent(span)


async def test_a_failure_is_the_span_s_error(twin, spans, kind):
    with pytest.raises(grpc.RpcError) as caught:
        await twin.answer(kind, b"fail")
    assert caught.value.code() is FAILED
    (span,) = await ended(spans)
    assert span.attributes[semconv.RPC_STATUS_CODE] == "FAILED_PRECONDITION"
    assert span.attributes[semconv.ERROR_TYPE] == "FAILED_PRECONDITION"
    assert span.status.status_code is StatusCode.ERROR


def was_cancelled(span):
    return (
        span.attributes[semconv.RPC_STATUS_CODE] == "CANCELLED"
        and semconv.ERROR_TYPE not in span.attributes
        and span.status.status_code is StatusCode.UNSET
    )


async def test_a_cancelled_call_s_span_ends_without_an_error(twin, server, spans, kind):
    call = twin.start(kind, b"hold")
    await reached(server.held)
    assert spans.get_finished_spans() == ()
    assert call.cancel()
    (span,) = await ended(spans)
    assert was_cancelled(span)
    await reached(server.cancelled)
    call.cancel()
    del call
    gc.collect()
    await ended(spans)


async def test_a_deadline_is_an_error(twin, spans, kind):
    with pytest.raises(grpc.RpcError) as caught:
        await twin.answer(kind, b"hold", timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (span,) = await ended(spans)
    assert span.attributes[semconv.ERROR_TYPE] == "DEADLINE_EXCEEDED"


async def test_a_deadline_ends_the_span_of_a_stream_that_nobody_reads(twin, spans, stream_kind):
    call = twin.start(stream_kind, b"hold", timeout=0.2)
    (span,) = await ended(spans)
    assert span.attributes[semconv.RPC_STATUS_CODE] == "DEADLINE_EXCEEDED"
    del call


async def test_a_failure_ends_the_span_of_a_stream_that_nobody_reads(twin, spans, stream_kind):
    call = twin.start(stream_kind, b"fail")
    (span,) = await ended(spans)
    assert span.attributes[semconv.RPC_STATUS_CODE] == "FAILED_PRECONDITION"
    del call


@pytest.mark.parametrize("request_", [b"hold", b"hold after one"])
async def test_a_stream_that_is_let_go_of_is_cancelled(twin, server, spans, stream_kind, request_):
    call = twin.start(stream_kind, request_)
    await reached(server.held)
    if request_ != b"hold":
        assert await twin.read_one(call) == b"one"
    del call
    gc.collect()
    await reached(server.cancelled)
    (span,) = await ended(spans)
    assert was_cancelled(span)


async def test_a_closed_channel_ends_the_spans_of_its_calls(twin, server, spans, kind):
    call = twin.start(kind, b"hold")
    await reached(server.held)
    await twin.close()
    (span,) = await ended(spans)
    assert was_cancelled(span)
    del call


def test_a_call_that_a_closed_channel_refuses_is_an_error(server, spans, kind):
    blocking = Blocking(server, spans.provider)
    blocking.channel.close()
    with pytest.raises(ValueError, match="Channel closed"):
        next(blocking.start(kind, b"go"))
    (span,) = spans.ended()
    assert span.status.status_code is StatusCode.ERROR


async def test_nobody_there_is_an_error(spans, kind):
    for twin_of in (Blocking, Asynchronous):
        nobody = type("Nobody", (), {"address": "127.0.0.1:1"})
        twin = twin_of(nobody, spans.provider)
        with pytest.raises(grpc.RpcError):
            await twin.answer(kind, b"go")
        await twin.close()
    for span in await ended(spans, 2):
        assert span.attributes[semconv.ERROR_TYPE] == "UNAVAILABLE"


async def test_the_current_span_is_the_parent(twin, server, spans, kind):
    with spans.provider.get_tracer("test").start_as_current_span("work") as work:
        await twin.answer(kind, b"go")
        (span,) = await ended(spans)
    assert span.parent.span_id == work.get_span_context().span_id
    assert span.context.trace_id == work.get_span_context().trace_id
    assert server.metadata[0]["traceparent"] == traceparent(span)


async def test_trace_context_in_the_metadata_is_the_parent_and_is_replaced(
    twin, server, spans, kind
):
    metadata = (
        ("traceparent", f"00-{'12' * 16}-{'34' * 8}-01"),
        ("tracestate", "vendor=1"),
        ("other", "kept"),
    )
    with spans.provider.get_tracer("test").start_as_current_span("work"):
        await twin.answer(kind, b"go", metadata=metadata)
        (span,) = await ended(spans)
    assert span.parent.span_id == int("34" * 8, 16)
    sent = server.metadata[0]
    assert sent["traceparent"] == traceparent(span)
    assert (sent["tracestate"], sent["other"]) == ("vendor=1", "kept")
    assert server.repeated == []


async def test_without_an_sdk_the_metadata_stays_as_it_was(server, kind):
    mine = f"00-{'12' * 16}-{'34' * 8}-01"
    for twin_of in (Blocking, Asynchronous):
        twin = twin_of(server, NoOpTracerProvider())
        await twin.answer(kind, b"go", metadata=(("other", "kept"),))
        await twin.answer(kind, b"go", metadata=(("traceparent", mine),))
        await twin.close()
    for without, given in (server.metadata[:2], server.metadata[2:]):
        assert ("traceparent" not in without, without["other"]) == (True, "kept")
        assert given["traceparent"] == mine


def test_a_blocking_answer_is_what_grpc_gives(server, spans):
    blocking = Blocking(server, spans.provider)
    call = callable_of(blocking.channel, "UnaryUnary")
    assert call(b"go") == b"one"
    assert len(spans.get_finished_spans()) == 1  # no thread of gRPC's has to come round to it
    answer, done = call.with_call(b"go")
    assert (answer, done.code()) == (b"one", grpc.StatusCode.OK)
    stream = callable_of(blocking.channel, "UnaryStream")(b"go")
    assert isinstance(stream, grpc.Call)
    assert isinstance(stream, grpc.Future)
    assert [*stream] == [b"one", b"two"]
    assert len(spans.get_finished_spans()) == 3
    assert (stream.code(), dict(stream.trailing_metadata())) == (grpc.StatusCode.OK, {})
    blocking.channel.close()


async def test_an_asynchronous_call_s_other_interface_works(server, spans):
    asynchronous = Asynchronous(server, spans.provider)
    call = callable_of(asynchronous.channel, "StreamStream")()
    await call.write(b"go")
    await call.done_writing()
    assert [await call.read(), await call.read()] == [b"one", b"two"]
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    await ended(spans)
    await asynchronous.close()


async def test_cancelling_the_task_that_waits_cancels_the_call(server, spans, kind):
    asynchronous = Asynchronous(server, spans.provider)
    task = asyncio.create_task(asynchronous.answer(kind, b"hold"))
    await reached(server.held)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await reached(server.cancelled)
    (span,) = await ended(spans)
    assert was_cancelled(span)
    await asynchronous.close()


async def test_a_call_that_is_cancelled_before_it_was_made_has_no_span(server, spans, kind):
    asynchronous = Asynchronous(server, spans.provider)
    call = asynchronous.start(kind, b"go")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call if kind.endswith("Unary") else await anext(aiter(call))
    await asynchronous.close()
    assert (spans.get_finished_spans(), server.metadata) == ((), [])


class Answering(grpc.aio.UnaryUnaryClientInterceptor):
    """An interceptor that awaits the answer, as many do."""

    async def intercept_unary_unary(self, continuation, client_call_details, request):
        call = await continuation(client_call_details, request)
        return await call


@pytest.mark.parametrize(("request_", "code"), [(b"go", "OK"), (b"fail", "FAILED_PRECONDITION")])
async def test_another_interceptor_may_await_the_answer(server, spans, request_, code):
    found = telemetry.aio_interceptors(server.address, tracer_provider=spans.provider)
    async with grpc.aio.insecure_channel(
        server.address, interceptors=[*found, Answering()]
    ) as channel:
        with suppress(grpc.RpcError):
            await callable_of(channel, "UnaryUnary")(request_)
    (span,) = await ended(spans)
    assert span.attributes[semconv.RPC_STATUS_CODE] == code


def test_a_request_that_cannot_be_sent_ends_its_span(server, spans):
    def refuse(_):
        raise ValueError("no such request")

    found = telemetry.interceptors(server.address, tracer_provider=spans.provider)
    with grpc.intercept_channel(grpc.insecure_channel(server.address), *found) as channel:
        for made in (channel.unary_unary, channel.unary_stream):
            with pytest.raises(grpc.RpcError):
                list(made("/test.Kinds/UnaryUnary", request_serializer=refuse)(b""))
    ended = spans.ended(2)
    assert [span.attributes[semconv.ERROR_TYPE] for span in ended] == ["INTERNAL"] * 2


@pytest.mark.parametrize(
    ("target", "address", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051),
        ("frontend", "frontend", None),
        ("localhost:50051", "localhost", 50051),
        ("dns:///frontend:50051", "frontend", 50051),
        ("dns://8.8.8.8/frontend:50051", "frontend", 50051),
        ("dns:frontend:50051", "frontend", 50051),
        ("[::1]:50051", "::1", 50051),
        ("ipv6:[::1]:50051", "::1", 50051),
        ("::1", "::1", None),
        ("[::1]", "::1", None),
        ("unix:/run/tokenwire.sock", "/run/tokenwire.sock", None),
        ("unix:///run/tokenwire.sock", "/run/tokenwire.sock", None),
    ],
)
def test_the_server_is_named_by_the_target(target, address, port):
    expected = {"server.address": address}
    if port is not None:
        expected["server.port"] = port
    assert server_of(target) == expected


def test_the_global_provider_serves_where_none_is_given(server, spans, monkeypatch):
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
    found = telemetry.interceptors(server.address)
    with grpc.intercept_channel(grpc.insecure_channel(server.address), *found) as channel:
        callable_of(channel, "UnaryUnary")(b"go")
    assert len(spans.get_finished_spans()) == 1
