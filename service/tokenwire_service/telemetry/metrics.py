"""Counters and gauges, made from the registry's declarations.

A counter is a plain integer that is read when metrics are collected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from tokenwire_service.telemetry import semconv
from tokenwire_service.telemetry.attributes import bounded
from tokenwire_service.telemetry.registry import Metric

Attributes = Mapping[str, str]


@cache
def _meter() -> Meter:
    return metrics.get_meter("tokenwire", schema_url=semconv.SCHEMA_URL)


def gauge(metric: Metric, read: Callable[[], Iterable[tuple[float, Attributes]]]) -> None:
    """Offers a gauge whose values `read` returns, on the collecting thread."""
    _meter().create_observable_gauge(
        metric.name, [_observing(read)], metric.unit, metric.description
    )


def counter(metric: Metric, read: Callable[[], Iterable[tuple[float, Attributes]]]) -> None:
    """Offers a counter whose values `read` returns, on the collecting thread."""
    _meter().create_observable_counter(
        metric.name, [_observing(read)], metric.unit, metric.description
    )


def _observing(
    read: Callable[[], Iterable[tuple[float, Attributes]]],
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _options: [Observation(value, attributes) for value, attributes in read()]


class Count:
    """A number that only grows. Adding to `value` is all it costs."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Tally:
    """A counter, with a Count for each combination of its attributes."""

    def __init__(self, metric: Metric) -> None:
        self._names = metric.attributes
        self._counts: dict[tuple[str, ...], Count] = {}
        _meter().create_observable_counter(
            metric.name, [self._observe], metric.unit, metric.description
        )

    def count(self, *values: str) -> Count:
        """Returns the Count of these values of the metric's attributes, in order."""
        found = self._counts.get(values)
        if found is None:
            found = self._counts[values] = Count()
        return found

    def total(self, name: str, value: str) -> int:
        """Returns the sum of all Counts whose attribute `name` has the value."""
        place = self._names.index(name)
        return sum(count.value for values, count in self._counts.items() if values[place] == value)

    def _observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count.value, bounded(dict(zip(self._names, values, strict=True))))
            # A copy in one step: the event loop's thread goes on counting.
            for values, count in list(self._counts.items())
        ]
