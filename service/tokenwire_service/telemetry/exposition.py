"""Metrics in the Prometheus text format, or in OpenMetrics with exemplars where the scraper asks.

The exposition formats themselves are prometheus_client's. OpenTelemetry's own exporter for
Prometheus leaves exemplars out, which link a histogram's bucket to a trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, TypeAlias

from opentelemetry.sdk.metrics.export import HistogramDataPoint, MetricsData
from opentelemetry.trace import format_span_id, format_trace_id
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from tokenwire_service.telemetry import registry
from tokenwire_service.telemetry.registry import Kind

_DECLARED = {metric.name: metric for metric in registry.METRICS}


def render(data: MetricsData | None, accept: str) -> tuple[bytes, str]:
    """Returns the metrics and their content type, in the format that the Accept header asks for."""
    collectors = CollectorRegistry()
    collectors.register(_Collected(data))
    encode, content_type = choose_encoder(accept)
    return encode(collectors), content_type


class _Collected(Collector):
    """What was collected, as prometheus_client's families."""

    def __init__(self, data: MetricsData | None) -> None:
        self._data = data

    def collect(self) -> Iterator[Metric]:
        for resource in self._data.resource_metrics if self._data else ():
            info = {_label(key): str(value) for key, value in resource.resource.attributes.items()}
            yield InfoMetricFamily("target", "The process that these metrics are of.", info)
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    # OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED has the SDK measure itself as well.
                    if metric.name in _DECLARED:
                        yield _family(metric)


def _family(metric: Any) -> Metric:
    """Returns one metric's family; the values of an attribute that some lack are empty there."""
    declared = _DECLARED[metric.name]
    name, text = declared.prometheus_name, declared.description
    keys = [*declared.attributes, *declared.optional]
    labels = [_label(key) for key in keys]
    points = [
        ([str(point.attributes.get(key, "")) for key in keys], point)
        for point in metric.data.data_points
    ]
    if declared.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for values, point in points:
            histogram.add_metric(values, list(_buckets(point)), sum_value=point.sum)
        return histogram
    make = CounterMetricFamily if declared.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(name, text, labels=labels)
    for values, point in points:
        family.add_metric(values, point.value)
    return family


_Bucket: TypeAlias = "tuple[str, float] | tuple[str, float, Exemplar]"


def _buckets(point: HistogramDataPoint) -> Iterable[_Bucket]:
    """Yields upper bound, cumulative count and the latest exemplar of each bucket."""
    bounds = [*point.explicit_bounds, float("inf")]
    below = float("-inf")
    for bound, count in zip(bounds, accumulate(point.bucket_counts), strict=True):
        # OTEL_METRICS_EXEMPLAR_FILTER=always_on has some that belong to no trace.
        inside = [each for each in point.exemplars if each.trace_id and below < each.value <= bound]
        latest = max(inside, key=lambda each: each.time_unix_nano, default=None)
        upper = floatToGoString(bound)  # type: ignore[no-untyped-call]
        yield (upper, count, _exemplar(latest)) if latest else (upper, count)
        below = bound


def _exemplar(exemplar: Any) -> Exemplar:
    labels = {
        "trace_id": format_trace_id(exemplar.trace_id),
        "span_id": format_span_id(exemplar.span_id),
    }
    return Exemplar(labels, exemplar.value, exemplar.time_unix_nano / 1e9)


def _label(key: str) -> str:
    return key.replace(".", "_")
