"""Texts in what a collector gets are cut, whoever brought them."""

from __future__ import annotations

import time

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind
from tokenwire_service.telemetry import semconv, tracing
from tokenwire_service.telemetry.attributes import CONTENT_BYTES, TEXT_BYTES

HUGE = "\u65e5" * 1_000_000


@pytest.fixture
def written(monkeypatch):
    """Spans that were written."""
    monkeypatch.setattr(tracing, "_written", None)
    exporter = InMemorySpanExporter()
    tracing.write_to(SimpleSpanProcessor(exporter), Resource({}), ALWAYS_ON)
    return exporter


def test_a_spans_texts_are_cut(written):
    span = tracing.begin("span", None, SpanKind.INTERNAL, time.monotonic())
    span.attributes = {"text": HUGE, "short": "caf\u00e9", "number": 5, "list": ["a", "b"]}
    span.attributes[semconv.GEN_AI_INPUT_MESSAGES] = HUGE
    span.add_event("event", {"cause": HUGE}, time.monotonic())
    span.end(time.monotonic())
    (told,) = written.get_finished_spans()
    assert len(told.attributes["text"].encode()) <= TEXT_BYTES
    assert len(told.attributes[semconv.GEN_AI_INPUT_MESSAGES].encode()) <= CONTENT_BYTES
    assert told.attributes["short"] == "caf\u00e9"
    assert told.attributes["number"] == 5
    assert told.attributes["list"] == ["a", "b"]
    (event,) = told.events
    assert len(event.attributes["cause"].encode()) <= TEXT_BYTES
