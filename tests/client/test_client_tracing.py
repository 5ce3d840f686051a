"""`tracing=` of both clients, and the spans of a session's generations."""

import asyncio
import sys

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracerProvider, StatusCode, format_trace_id
from tokenwire import (
    AsyncClient,
    Client,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RetryPolicy,
    UnavailableError,
)
from tokenwire import _semconv as semconv

from tests.client.scripted_server import (
    COMPLETED,
    HELLO,
    OVERLOADED,
    TRACE_ID,
    WAIT_S,
    Disconnect,
    Hold,
    accepted,
    delta,
    reason,
    status,
)
from tests.client.tracing import Spans

GENERATION = "tokenwire.frontend.v1.GenerationService"
SESSION = f"{GENERATION}/Session"


@pytest.fixture
def spans():
    return Spans()


@pytest.fixture
async def traced(kind, server, spans):
    made = kind(server.address, tracing=spans.provider)
    yield made
    await made.close()


@pytest.fixture
async def client(server, spans):
    async with AsyncClient(server.address, tracing=spans.provider) as made:
        yield made


async def ended(spans, count=1):
    return await asyncio.to_thread(spans.ended, count)


async def reached(event):
    assert await asyncio.to_thread(event.wait, WAIT_S)


def span_id(traceparent):
    return int(traceparent.split("-")[2], 16)


async def test_every_call_is_a_span_that_the_server_goes_on_in(traced, server, spans):
    await traced.call("generate", "hi")
    await traced.call("models")
    await traced.read(traced.stream("hi"))
    found = await ended(spans, 3)
    assert [span.name for span in found] == [
        f"{GENERATION}/StreamGenerate",
        "tokenwire.frontend.v1.ModelService/ListModels",
        f"{GENERATION}/StreamGenerate",
    ]
    assert all(span.parent is None for span in found)
    sent = [span_id(call.metadata["traceparent"]) for call in server.calls]
    assert sent == [span.context.span_id for span in found]


async def test_the_caller_s_trace_is_the_parent(traced, spans):
    await traced.call("models", traceparent=f"00-{'12' * 16}-{'34' * 8}-01")
    with TracerProvider().get_tracer("test").start_as_current_span("work") as work:
        await traced.read(traced.stream("hi"))
    first, second = await ended(spans, 2)
    assert first.parent.span_id == int("34" * 8, 16)
    assert second.parent.span_id == work.get_span_context().span_id


async def test_an_error_names_the_trace_of_its_span(traced, spans):
    with pytest.raises(NotFoundError) as caught:
        await traced.call("record", "old")
    (span,) = await ended(spans)
    assert caught.value.trace_id == format_trace_id(span.context.trace_id)
    assert span.attributes[semconv.ERROR_TYPE] == "NOT_FOUND"


async def test_attempts_are_spans_of_one_trace(traced, server, spans, naps):
    server.fail_next(OVERLOADED)
    await traced.call("generate", "hi")
    server.play("hi", OVERLOADED)
    server.play("hi", *HELLO)
    await traced.read(traced.stream("hi"))
    for refused, answered in zip((await ended(spans, 4))[::2], spans.ended(4)[1::2], strict=True):
        assert refused.attributes[semconv.ERROR_TYPE] == "RESOURCE_EXHAUSTED"
        assert answered.attributes[semconv.RPC_STATUS_CODE] == "OK"
        assert answered.context.trace_id == refused.context.trace_id
        assert answered.context.span_id != refused.context.span_id


async def test_a_stream_that_is_cancelled_is_no_error(traced, server, spans):
    hold = Hold()
    server.play("long", accepted(), delta("On", [1]), hold)
    stream = traced.stream("long")
    await traced.read_one(stream)
    await traced.cancel(stream)
    (span,) = await ended(spans)
    assert span.attributes[semconv.RPC_STATUS_CODE] == "CANCELLED"
    assert span.status.status_code is StatusCode.UNSET


async def test_a_stream_s_trace_is_known_before_anything_comes(traced, server, spans):
    hold = Hold()
    server.play("long", hold)
    stream = traced.stream("long")
    await reached(hold.reached)
    sent = server.calls[0].metadata["traceparent"]
    assert stream.trace_id == sent.split("-")[1] != TRACE_ID
    await traced.cancel(stream)


async def test_without_an_sdk_a_request_still_has_a_trace_id(kind, server):
    twin = kind(server.address, tracing=NoOpTracerProvider())
    with pytest.raises(NotFoundError) as caught:
        await twin.call("model", "nope")
    assert server.calls[0].metadata["traceparent"].split("-")[1] == caught.value.trace_id
    await twin.close()


async def test_true_means_the_global_provider(kind, server, spans, monkeypatch):
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
    twin = kind(server.address, tracing=True)
    await twin.call("models")
    await ended(spans)
    await twin.close()


def test_opentelemetry_must_be_there(monkeypatch):
    for name in ("tokenwire._spans", "tokenwire.telemetry"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    for kind in (Client, AsyncClient):
        with pytest.raises(ImportError, match="pip install opentelemetry-api"):
            kind("127.0.0.1:1", tracing=True)
        kind("127.0.0.1:1")


async def session_spans(client, spans, count, use):
    """Returns the spans of a session's generations, and that of its stream."""
    async with client.session() as session:
        await use(session)
        found = await ended(spans, count)
    *_, stream = await ended(spans, count + 1)
    assert stream.name == SESSION
    return *found, stream


async def test_a_session_s_generation_is_a_span_that_the_server_goes_on_in(client, server, spans):
    async def use(session):
        answer = await session.generate("hi")
        assert answer.text == "Hello world"

    generation, stream = await session_spans(client, spans, 1, use)
    assert generation.name == SESSION
    assert dict(generation.attributes) == dict(stream.attributes)
    assert generation.attributes[semconv.RPC_STATUS_CODE] == "OK"
    opened = next(call.request.open for call in server.calls if call.request)
    assert span_id(opened.trace_context.traceparent) == generation.context.span_id
    assert span_id(server.calls[0].metadata["traceparent"]) == stream.context.span_id
    assert generation.parent is None
    assert generation.context.trace_id != stream.context.trace_id


async def test_a_generation_s_span_has_ended_when_the_answer_is_there(client, spans):
    async with client.session() as session:
        await session.generate("hi")
        assert len(spans.get_finished_spans()) == 1


async def test_generations_belong_to_the_span_that_they_are_opened_in(client, server, spans):
    tracer = spans.provider.get_tracer("test")
    works = []

    async def work(session):
        with tracer.start_as_current_span("work") as span:
            works.append(span.get_span_context().span_id)
            await session.generate("hi")

    async with client.session() as session:
        await asyncio.gather(work(session), work(session))
    found = [span for span in await ended(spans, 5) if span.name == SESSION]
    assert sorted(span.parent.span_id for span in found if span.parent) == sorted(works)


async def test_elsewhere_they_belong_to_the_trace_that_the_session_was_given(client, spans):
    async with client.session(traceparent=f"00-{'12' * 16}-{'34' * 8}-01") as session:
        await session.generate("hi")
    generation, stream = await ended(spans, 2)
    assert generation.parent.span_id == stream.parent.span_id == int("34" * 8, 16)


async def test_what_a_generation_fails_with_is_its_span_s_error(client, server, spans):
    server.play("bad", status(grpc.StatusCode.INVALID_ARGUMENT, "no", reason("INVALID_FIELD")))

    async def use(session):
        with pytest.raises(InvalidRequestError) as caught:
            await session.generate("bad")
        sent = next(call.request.open for call in server.calls if call.request)
        assert caught.value.trace_id == sent.trace_context.traceparent.split("-")[1]

    generation, stream = await session_spans(client, spans, 1, use)
    assert generation.attributes[semconv.ERROR_TYPE] == "INVALID_ARGUMENT"
    assert generation.status.status_code is StatusCode.ERROR
    assert stream.status.status_code is StatusCode.UNSET


async def test_a_cancelled_generation_is_no_error(client, server, spans):
    server.play("long", accepted(), delta("On", [1]), Hold())

    async def use(session):
        generation = session.open("long")
        await anext(generation)
        await generation.cancel()

    generation, _ = await session_spans(client, spans, 1, use)
    assert generation.attributes[semconv.RPC_STATUS_CODE] == "CANCELLED"
    assert semconv.ERROR_TYPE not in generation.attributes


async def test_a_generation_that_nobody_reads_has_an_end(client, server, spans):
    server.play("idle", accepted(), delta("On", [1]), COMPLETED)

    async def use(session):
        session.open("idle")
        await ended(spans)

    generation, _ = await session_spans(client, spans, 1, use)
    assert generation.attributes[semconv.RPC_STATUS_CODE] == "OK"


async def test_the_session_s_end_ends_what_is_open(client, server, spans):
    hold = Hold()
    server.play("long", accepted(), hold)
    async with client.session() as session:
        session.open("long")
        await reached(hold.reached)
    # Of the generation and of its stream, which end together.
    codes = [span.attributes[semconv.RPC_STATUS_CODE] for span in await ended(spans, 2)]
    assert sorted(codes) == ["CANCELLED", "OK"]


async def test_a_broken_stream_is_everybody_s_error(server, spans):
    server.play("long", accepted(), Hold())
    server.play("die", Disconnect())
    once = RetryPolicy(attempts=1, continuations=0)
    async with (
        AsyncClient(server.address, tracing=spans.provider, retry=once) as client,
        client.session() as session,
    ):
        for each in (session.open("long"), session.open("die")):
            with pytest.raises(UnavailableError):
                await anext(each)
    for span in await ended(spans, 3):
        assert span.attributes[semconv.ERROR_TYPE] == "UNAVAILABLE"


async def test_a_gap_is_the_generation_s_error(client, server, spans):
    server.play("gap", accepted(), delta("c", [3], 2), Hold())

    async def use(session):
        with pytest.raises(InternalError):
            await session.generate("gap")

    generation, _ = await session_spans(client, spans, 1, use)
    assert generation.status.status_code is StatusCode.ERROR


async def test_a_generation_s_attempts_are_spans_of_one_trace(client, server, spans, naps):
    server.play("busy", OVERLOADED)
    server.play("busy", *HELLO)

    async def use(session):
        await session.generate("busy")

    refused, answered, _ = await session_spans(client, spans, 2, use)
    assert refused.attributes[semconv.ERROR_TYPE] == "RESOURCE_EXHAUSTED"
    assert answered.attributes[semconv.RPC_STATUS_CODE] == "OK"
    assert answered.context.trace_id == refused.context.trace_id
    first, second = (call.request.open for call in server.calls if call.request)
    assert first.trace_context.traceparent != second.trace_context.traceparent


async def test_without_tracing_a_generation_has_the_session_s_trace(server):
    async with AsyncClient(server.address) as client, client.session() as session:
        await session.generate("hi")
        server.play("busy", OVERLOADED)
        opened = next(call.request.open for call in server.calls if call.request)
        assert not opened.HasField("trace_context")


async def test_a_session_without_an_sdk_works(server, naps):
    server.play("busy", OVERLOADED)
    client = AsyncClient(server.address, tracing=NoOpTracerProvider())
    async with client, client.session() as session:
        await session.generate("hi")
        with pytest.raises(OverloadedError) as caught:
            await session.generate("busy")
    assert server.calls[0].metadata["traceparent"].split("-")[1] == caught.value.trace_id
