"""Two results side by side: ratios, and what of them is more than noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenwire.bench.figures import Figure, shown
from tokenwire.bench.summary import CPU, is_one_of_several, summaries
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

_LOAD = f"{CPU}load"
"""The load's own cost is not the deployment's."""


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
    others = {(each.phase, each.flow): each for each in summaries(after)}
    rows = []
    for mine in summaries(before):
        its = others.get((mine.phase, mine.flow))
        for name, figure in mine.figures.items():
            if name.startswith(_LOAD) or is_one_of_several(name, mine.figures):
                continue
            first, second = figure["value"], its.value(name) if its else None
            if its is not None and first and second is not None:
                noise = _of_ratio(figure, its.figures[name])
                rows.append(Row(mine.phase, mine.flow, name, first, second, noise))
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


def _of_ratio(before: Figure, after: Figure) -> float | None:
    shares = [
        each["noise"] / each["value"] if each["noise"] is not None and each["value"] else None
        for each in (before, after)
    ]
    known = [each for each in shares if each is not None]
    return math.hypot(*known) if len(known) == len(shares) else None


def _names(result: Mapping[str, Any]) -> str:
    return "; ".join(dict.fromkeys(each["name"] for each in result["phases"])) or "(none)"
