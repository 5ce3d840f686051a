"""What the metrics of a process have come to, in a form that can be sent and added up.

Processes that serve together are one service to whoever scrapes it: counters and histograms are
summed, and so are gauges. A metric that a sum would be wrong of bears `tokenwire.process`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from opentelemetry.sdk.metrics.export import MetricsData

from tokenwire_service.telemetry import registry
from tokenwire_service.telemetry.registry import Kind

DECLARED = {metric.name: metric for metric in registry.METRICS}

Attributes: TypeAlias = "tuple[tuple[str, str], ...]"
"""In the order of their names."""

Exemplar: TypeAlias = "tuple[float, int, int, int]"
"""Value, nanoseconds since 1970, trace id, span id."""

Buckets: TypeAlias = "tuple[list[int], float, list[Exemplar]]"
"""A histogram's counts, each bucket by itself; the sum of its values; exemplars."""

Collected: TypeAlias = "dict[str, dict[Attributes, Any]]"
"""For each metric its points: a number, or Buckets. It is made of plain types alone."""


def collected(data: MetricsData | None) -> Collected:
    """Returns what the SDK and our histograms have collected."""
    found: Collected = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                # OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED has the SDK measure itself as well.
                if metric.name in DECLARED:
                    points = found.setdefault(metric.name, {})
                    for point in metric.data.data_points:
                        told = {key: str(value) for key, value in (point.attributes or {}).items()}
                        points[tuple(sorted(told.items()))] = _value(point)
    return found


def _value(point: Any) -> Any:
    if not hasattr(point, "bucket_counts"):
        return point.value
    # OTEL_METRICS_EXEMPLAR_FILTER=always_on has some that belong to no trace.
    exemplars = [
        (each.value, each.time_unix_nano, each.trace_id, each.span_id)
        for each in point.exemplars
        if each.trace_id
    ]
    return list(point.bucket_counts), point.sum, exemplars


def added(parts: Iterable[Collected]) -> Collected:
    """Returns the sum of what processes have collected."""
    total: Collected = {}
    for part in parts:
        for name, points in part.items():
            into = total.setdefault(name, {})
            add = _add_buckets if DECLARED[name].kind is Kind.HISTOGRAM else _add_numbers
            for attributes, value in points.items():
                into[attributes] = add(into[attributes], value) if attributes in into else value
    return total


def _add_numbers(one: float, other: float) -> float:
    return one + other


def _add_buckets(one: Buckets, other: Buckets) -> Buckets:
    counts = [first + second for first, second in zip(one[0], other[0], strict=True)]
    return counts, one[1] + other[1], [*one[2], *other[2]]


class Totals:
    """The sum over processes that come and go: what one has counted stays when it has gone."""

    def __init__(self) -> None:
        self._latest: dict[str, Collected] = {}
        self._gone: Collected = {}

    def take(self, process: str, part: Collected) -> None:
        """Takes what a process has come to by now."""
        self._latest[process] = part

    def leave(self, process: str) -> None:
        """Keeps the counts of a process that has ended, without its gauges and exemplars."""
        counts: Collected = {}
        for name, points in self._latest.pop(process, {}).items():
            if DECLARED[name].kind is Kind.COUNTER:
                counts[name] = points
            elif DECLARED[name].kind is Kind.HISTOGRAM:
                counts[name] = {key: (value[0], value[1], []) for key, value in points.items()}
        self._gone = added([self._gone, counts])

    def total(self) -> Collected:
        """Returns the sum."""
        return added([self._gone, *self._latest.values()])
