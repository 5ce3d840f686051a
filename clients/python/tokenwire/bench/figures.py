"""From measures to figures: rates, percentiles, goodput, and how sure each of them is.

The noise of a figure is two standard errors, from its values in ten equal parts of the measured
time: a difference between two runs that is below both noises together says nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenwire.bench.measures import AT_LIMIT, METRICS, SLICES, Histogram, Merged, Slice
from tokenwire.bench.plan import Objective

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}

PARTS = 10
LEAST_PARTS = 4
"""From fewer parts no spread can be told."""

LEAST_POINT_S = 0.5
"""Of a plot over time: shorter ones show single steps of the engine and of the scheduler."""

_CURVE_POINTS = 200

Figure = dict[str, float | None]
"""`value`, and its `noise`; None where it is not known."""


def figures(
    merged: Merged, window_s: float, duration_s: float, objective: Objective
) -> dict[str, Figure]:
    """Returns a flow's figures by name; the name ends with the unit.

    `window_s` is the time that was measured, of `duration_s` that were planned.
    """
    width_s = duration_s / SLICES
    whole = merged.slices[: max(1, min(SLICES, int(window_s / width_s + 1e-9)))]
    parts = _parts(whole)
    found: dict[str, Figure] = {}

    def add(name: str, value: float, of_part: Callable[[list[Slice]], float] | None) -> None:
        found[name] = {
            "value": None if math.isnan(value) else value,
            "noise": _noise(parts, of_part) if of_part is not None else None,
        }

    def add_rate(name: str, count: Callable[[Slice], int]) -> None:
        add(
            name,
            sum(map(count, merged.slices)) / window_s if window_s else math.nan,
            lambda part: sum(map(count, part)) / (len(part) * width_s),
        )

    add_rate("requests_per_s", lambda each: each.finished)
    add_rate("output_tokens_per_s", lambda each: each.tokens)
    prompt = merged.totals["prompt_tokens"] / window_s if window_s else math.nan
    output = found["output_tokens_per_s"]["value"]
    add("total_tokens_per_s", prompt + (output or 0.0), None)
    if objective:
        add_rate("goodput_per_s", lambda each: each.good)
        started = merged.totals["started"] + merged.errors[AT_LIMIT]
        add("good_share", merged.totals["good"] / started if started else math.nan, None)
    for name in METRICS:
        _add_times(add, name, merged.slices)
    known = merged.totals["cached_known"]
    add("cached_share", merged.totals["cached_tokens"] / known if known else math.nan, None)
    return found


def _add_times(add: Callable[..., None], name: str, slices: Sequence[Slice]) -> None:
    everything = _together(slices, name)
    add(f"{name}_mean_s", everything.mean_s, lambda part: _together(part, name).mean_s)
    for quantile, share in QUANTILES.items():
        add(
            f"{name}_{quantile}_s",
            everything.quantile_s(share),
            lambda part, share=share: _together(part, name).quantile_s(share),
        )
    largest_s = everything.largest_s if everything.count else math.nan
    add(f"{name}_max_s", largest_s, None)


def _together(slices: Sequence[Slice], name: str) -> Histogram:
    made = Histogram()
    for each in slices:
        made.merge(each.times[name])
    return made


def _parts(slices: list[Slice]) -> list[list[Slice]]:
    size = max(1, len(slices) // PARTS)
    return [slices[at : at + size] for at in range(0, len(slices) - size + 1, size)]


def _noise(parts: Sequence[list[Slice]], of_part: Callable[[list[Slice]], float]) -> float | None:
    return _spread([value for value in map(of_part, parts) if not math.isnan(value)])


def _spread(values: Sequence[float]) -> float | None:
    """Returns two standard errors of the mean of several parts' values."""
    if len(values) < LEAST_PARTS:
        return None
    return 2 * statistics.stdev(values) / math.sqrt(len(values))


def cost_us(points: Sequence[tuple[float, float]], tokens: Sequence[int], width_s: float) -> Figure:
    """Returns a process's CPU time in microseconds for each token.

    `points` are times of the measured time, and the CPU seconds used until then; `tokens` are those
    that came in each slice of it, `width_s` long.
    """
    step = max(1, (len(points) - 1) // PARTS)
    some = [
        _cost_us(points[at], points[at + step], tokens, width_s)
        for at in range(0, len(points) - step, step)
    ]
    whole = _cost_us(points[0], points[-1], tokens, width_s)
    values = [each for each in some if each is not None]
    return {"value": whole and round(whole, 2), "noise": _spread(values)}


def _cost_us(
    begin: tuple[float, float], end: tuple[float, float], tokens: Sequence[int], width_s: float
) -> float | None:
    came = sum(
        count * max(0.0, min(end[0], (place + 1) * width_s) - max(begin[0], place * width_s))
        for place, count in enumerate(tokens)
    )
    return (end[1] - begin[1]) * width_s / came * 1e6 if came else None


def curve(merged: Merged, name: str) -> list[list[float]]:
    """Returns a distribution as points: a time in seconds, and the share that is at most it."""
    histogram = _together(merged.slices, name)
    if not histogram.count:
        return []
    step = histogram.count / _CURVE_POINTS
    points: list[list[float]] = []
    seen, told = 0, 0.0
    for bucket in sorted(histogram.buckets):
        seen += histogram.buckets[bucket]
        # The tail is drawn in full: it is where the stalls are.
        if seen >= told + step or seen > 0.99 * histogram.count:
            points.append([_round(Histogram.time_s(bucket)), seen / histogram.count])
            told = seen
    return points


def timeline(merged: Merged, window_s: float, duration_s: float) -> list[dict[str, float | None]]:
    """Returns what was measured over time, as far as the measured time went."""
    size = max(1, math.ceil(LEAST_POINT_S / (duration_s / SLICES)))
    width_s = duration_s / SLICES * size
    count = max(1, int(window_s / width_s + 1e-9))
    rows = []
    for number in range(count):
        part = merged.slices[number * size : (number + 1) * size]
        row: dict[str, float | None] = {"at_s": round((number + 0.5) * width_s, 3)}
        for name in ("tokens", "started", "finished", "failed"):
            row[f"{name}_per_s"] = _round(sum(getattr(each, name) for each in part) / width_s)
        for name in ("ttft", "itl"):
            times = _together(part, name)
            for quantile in ("p50", "p99"):
                value = times.quantile_s(QUANTILES[quantile])
                row[f"{name}_{quantile}_s"] = None if math.isnan(value) else _round(value)
        rows.append(row)
    return rows


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def shown(name: str, value: float | None) -> str:
    """Returns a figure's value for people, with its unit."""
    if value is None:
        return "-"
    if name.endswith("_per_s"):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    if name.endswith("_share"):
        return f"{value:.1%}"
    if name.endswith("_s"):
        return duration(value)
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def duration(value_s: float) -> str:
    """Returns a time for people: three digits at most, and its unit."""
    if value_s >= 100:
        return f"{value_s:,.0f} s"
    if value_s >= 1:
        return f"{value_s:.3g} s"
    if value_s >= 0.0995:
        return f"{value_s * 1e3:.0f} ms"
    return f"{value_s * 1e3:.2f} ms" if value_s < 0.00995 else f"{value_s * 1e3:.1f} ms"


def value(found: Mapping[str, Any], name: str) -> float | None:
    """Returns a figure's value; None where it was not measured."""
    figure = found.get(name)
    return figure["value"] if figure else None
