"""OTLP over gRPC: the SDK's exporters, with their sending, retries and variables.

They send on the SDK's own threads, over a channel of gRPC's blocking kind. That shares nothing with
the event loop's calls but the library: no call of one waits for one of the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from tokenwire_service.telemetry import variables
from tokenwire_service.telemetry.span_encoding import encode


def span_exporter() -> SpanExporter:
    """Returns what sends spans."""
    return _Spans(compression=_compression("TRACES"))


def metric_exporter() -> MetricExporter:
    """Returns what sends metrics."""
    return OTLPMetricExporter(compression=_compression("METRICS"))


_COMPRESSIONS = {
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
    "none": grpc.Compression.NoCompression,
}
"""The exporters by themselves raise for all but the first."""


def _compression(signal: str) -> grpc.Compression:
    return _COMPRESSIONS[variables.compression(signal)]


class _Spans(OTLPSpanExporter):
    """With our own encoding."""

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        return encode(data)
