"""Two results side by side: ratios, and what of them is more than noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenwire.bench.figures import shown
from tokenwire.cli.printing import print_table

MAIN = (
    "requests_per_s",
    "output_tokens_per_s",
    "goodput_per_s",
    "ttft_p50_s",
    "ttft_p99_s",
    "itl_p50_s",
    "itl_p99_s",
    "tpot_p50_s",
    "e2e_p50_s",
    "e2e_p99_s",
)
"""Of all figures, those that are shown and judged; CPU time per token besides."""

_HIGHER_IS_BETTER = ("_per_s", "_share")

CPU = "cpu_us_per_token"


@dataclass(frozen=True)
class Row:
    """One figure of one flow in two results."""

    phase: str
    flow: str
    name: str
    before: float
    after: float
    noise: float | None
    """Of the ratio: two standard errors, or half the range of the rounds where that is more; None
    where it is not known."""

    @property
    def title(self) -> str:
        """Where the figure is."""
        flow = "" if self.flow == "all" else f" {self.flow}:"
        return f"{self.phase}:{flow} {self.name}"

    @property
    def ratio(self) -> float:
        """The later result's value by the earlier one's."""
        return self.after / self.before

    @property
    def is_main(self) -> bool:
        """Whether it is shown and judged."""
        return self.name in MAIN or self.name.startswith(CPU)

    @property
    def worse(self) -> float:
        """By which share the later one is worse; below 0 where it is better."""
        if self.name.endswith(_HIGHER_IS_BETTER):
            return 1 - self.ratio
        return self.ratio - 1

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `same` where the noise may explain the difference."""
        if self.noise is None or abs(self.worse) <= self.noise:
            return "same" if self.noise is not None else "unknown"
        return "worse" if self.worse > 0 else "better"

    def is_worse_by(self, limit: float) -> bool:
        """Whether it is judged, and worse by more than a share and the noise together."""
        return self.is_main and self.noise is not None and self.worse > limit + self.noise


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Row]:
    """Returns the figures that both results have, by phase and flow.

    Raises:
        ValueError: they have no phase in common.
    """
    first, second = _values(before), _values(after)
    rows = []
    for key, mine in first.items():
        its = second.get(key)
        if its is None or not mine.value or its.value is None:
            continue
        noise = _of_ratio(mine, its)
        rows.append(Row(*key, mine.value, its.value, noise))
    if not rows:
        raise ValueError(
            f"the results have no phase in common: {_names(before)} against {_names(after)}"
        )
    return rows


def print_rows(rows: Sequence[Row], *, everything: bool) -> None:
    """Prints a table, of every figure or of the main ones."""
    cells = []
    for row in rows:
        if everything or row.is_main:
            noise = f"+-{row.noise:.1%}" if row.noise is not None else "-"
            values = (shown(row.name, row.before), shown(row.name, row.after))
            cells.append((row.title, *values, f"{row.ratio:.3f}", noise, row.verdict))
    print_table(("FIGURE", "A", "B", "B/A", "NOISE", "B IS"), cells)


@dataclass(frozen=True)
class _Value:
    value: float | None
    noise: float | None
    """As a share of the value."""


def _values(result: Mapping[str, Any]) -> dict[tuple[str, str, str], _Value]:
    rounds: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for phase in result["phases"]:
        for flow, name, figure in _figures(phase):
            rounds.setdefault((phase["name"], flow, name), []).append(figure)
    return {key: _merged(each) for key, each in rounds.items()}


def _figures(phase: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for flow, found in phase["flows"].items():
        for name, figure in found["figures"].items():
            yield flow, name, figure
    for process in phase["processes"]:
        if not process["name"].startswith("load"):
            yield "all", f"{CPU}.{process['name']}", process[CPU]


def _merged(figures: Sequence[Mapping[str, Any]]) -> _Value:
    values = [each["value"] for each in figures if each["value"] is not None]
    if not values:
        return _Value(None, None)
    middle = statistics.median(values)
    if not middle:
        return _Value(middle, None)
    noises = [each["noise"] for each in figures if each["noise"] is not None]
    noise = statistics.median(noises) / math.sqrt(len(noises)) / middle if noises else None
    if len(values) > 1:
        spread = (max(values) - min(values)) / 2 / middle
        noise = max(noise or 0.0, spread)
    return _Value(middle, noise)


def _of_ratio(before: _Value, after: _Value) -> float | None:
    if before.noise is None or after.noise is None:
        return None
    return math.hypot(before.noise, after.noise)


def _names(result: Mapping[str, Any]) -> str:
    return "; ".join(dict.fromkeys(each["name"] for each in result["phases"])) or "(none)"
