"""Metrics in the Prometheus text format, or in OpenMetrics with exemplars where the scraper asks.

The exposition formats themselves are prometheus_client's. OpenTelemetry's own exporter for
Prometheus leaves exemplars out, which link a histogram's bucket to a trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, TypeAlias

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

from tokenwire_service.telemetry import collected, registry
from tokenwire_service.telemetry.collected import DECLARED, Attributes, Collected
from tokenwire_service.telemetry.registry import Kind


def render(resource: Mapping[str, Any], data: Collected, accept: str) -> tuple[bytes, str]:
    """Returns metrics and their content type.

    Args:
        resource: attributes of the process that they are of.
        data: the metrics.
        accept: the Accept header, which says in which format.
    """
    collectors = CollectorRegistry()
    collectors.register(_Families(resource, data))
    encode, content_type = choose_encoder(accept)
    return encode(collectors), content_type


class _Families(Collector):
    """What was collected, as prometheus_client's families."""

    def __init__(self, resource: Mapping[str, Any], data: Collected) -> None:
        self._resource = resource
        self._data = data

    def collect(self) -> Iterator[Metric]:
        info = {_label(key): str(value) for key, value in self._resource.items()}
        yield InfoMetricFamily("target", "The process that these metrics are of.", info)
        for name, points in self._data.items():
            yield _family(DECLARED[name], points)


def _family(declared: registry.Metric, points: Mapping[Attributes, Any]) -> Metric:
    """Returns one metric's family; the values of an attribute that some lack are empty there."""
    name, text = declared.prometheus_name, declared.description
    keys = [*declared.attributes, *declared.optional]
    labels = [_label(key) for key in keys]
    values = [
        ([dict(attributes).get(key, "") for key in keys], value)
        for attributes, value in points.items()
    ]
    if declared.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for labelled, buckets in values:
            counted = list(_buckets(declared.bounds, buckets))
            histogram.add_metric(labelled, counted, sum_value=buckets[1])
        return histogram
    make = CounterMetricFamily if declared.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(name, text, labels=labels)
    for labelled, value in values:
        family.add_metric(labelled, value)
    return family


_Bucket: TypeAlias = "tuple[str, float] | tuple[str, float, Exemplar]"


def _buckets(bounds: Iterable[float], buckets: collected.Buckets) -> Iterable[_Bucket]:
    """Yields upper bound, cumulative count and the latest exemplar of each bucket."""
    counts, _, exemplars = buckets
    below = float("-inf")
    for bound, count in zip([*bounds, float("inf")], accumulate(counts), strict=True):
        inside = [each for each in exemplars if below < each[0] <= bound]
        latest = max(inside, key=lambda each: each[1], default=None)
        upper = floatToGoString(bound)  # type: ignore[no-untyped-call]
        yield (upper, count, _exemplar(latest)) if latest else (upper, count)
        below = bound


def _exemplar(exemplar: collected.Exemplar) -> Exemplar:
    value, at_ns, trace_id, span_id = exemplar
    labels = {"trace_id": format_trace_id(trace_id), "span_id": format_span_id(span_id)}
    return Exemplar(labels, value, at_ns / 1e9)


def _label(key: str) -> str:
    return key.replace(".", "_")
