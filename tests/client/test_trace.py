"""Every request belongs to a trace that the caller can name."""

import re

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tokenwire import _trace
from tokenwire._trace import Trace

MINE = f"00-{'12' * 16}-{'34' * 8}-01"


def test_the_caller_s_trace_is_taken():
    assert Trace(MINE).trace_id == "12" * 16
    assert Trace(MINE).metadata == (("traceparent", MINE),)


def test_without_one_there_is_a_new_one_each_time():
    traces = {Trace(None).metadata[0][1] for _ in range(10)}
    assert len(traces) == 10
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", each) for each in traces)


@pytest.mark.parametrize(
    "wrong",
    ["nonsense", MINE.upper().replace("12", "AB"), f"00-{'0' * 32}-{'34' * 8}-01", MINE + "-"],
)
def test_what_is_no_trace_context_is_refused(wrong):
    with pytest.raises(ValueError, match="traceparent"):
        Trace(wrong)


def test_a_current_span_is_the_parent():
    with TracerProvider().get_tracer("test").start_as_current_span("work") as span:
        made = Trace(None)
    context = span.get_span_context()
    assert made.trace_id == trace.format_trace_id(context.trace_id)
    assert trace.format_span_id(context.span_id) in made.metadata[0][1]


def test_opentelemetry_is_no_dependency(monkeypatch):
    monkeypatch.setattr(_trace, "_otel", None)
    assert len(Trace(None).trace_id) == 32


async def test_the_trace_reaches_the_server(twin, server):
    await twin.call("models", traceparent=MINE)
    await twin.call("generate", "hi", traceparent=MINE)
    await twin.read(twin.stream("hi", traceparent=MINE))
    assert {call.metadata["traceparent"] for call in server.calls} == {MINE}
