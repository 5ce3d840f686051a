"""OTLP over HTTP: the SDK's exporters, with their sending, retries and variables."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tokenwire_service.telemetry.span_encoding import encode


def span_exporter() -> SpanExporter:
    """Returns what sends spans."""
    return _Spans()


def metric_exporter() -> MetricExporter:
    """Returns what sends metrics."""
    return OTLPMetricExporter()


class _Spans(OTLPSpanExporter):
    """With our own encoding."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends the spans; what the endpoint does not take is dropped."""
        sent = self._client.export(encode(spans).SerializeToString())
        return SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE
