"""A result's figures by phase and flow, over all rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenwire.bench.figures import Figure

CPU = "cpu_us_per_token."
"""Before a process's name: its CPU time for each output token."""


@dataclass(frozen=True)
class Summary:
    """One flow of one phase."""

    phase: str
    flow: str
    rounds: int
    figures: Mapping[str, Figure]
    """Medians of the rounds; the CPU time of processes among them, with the phase's first flow."""
    failed: int
    """Of all rounds."""

    @property
    def title(self) -> str:
        """What it is called in tables."""
        return self.phase if self.flow == "all" else f"{self.phase}: {self.flow}"

    def value(self, name: str) -> float | None:
        """Returns a figure's value; None where it is not known."""
        figure = self.figures.get(name)
        return figure["value"] if figure else None


def is_one_of_several(name: str, figures: Mapping[str, Figure]) -> bool:
    """Whether a figure is the cost of one of several processes that are a figure together too.

    Which of them the kernel gives a connection is chance, so their shares of a cost say nothing.
    """
    role, _, number = name.rpartition(" ")
    return number.isdecimal() and role in figures


def summaries(result: Mapping[str, Any]) -> list[Summary]:
    """Returns the summaries in the order in which phases were first measured."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for phase in result["phases"]:
        for flow in phase["flows"]:
            found.setdefault((phase["name"], flow), []).append(phase)
    return [_summary(phase, flow, rounds) for (phase, flow), rounds in found.items()]


def _summary(phase: str, flow: str, rounds: Sequence[Mapping[str, Any]]) -> Summary:
    flows = [each["flows"][flow] for each in rounds]
    names = dict.fromkeys(name for each in flows for name in each["figures"])
    figures = {
        name: over_rounds([each["figures"][name] for each in flows if name in each["figures"]])
        for name in names
    }
    if flow == next(iter(rounds[0]["flows"])):
        costs: dict[str, list[Figure]] = {}
        for each in rounds:
            for process in each["processes"]:
                costs.setdefault(process["name"], []).append(process["cpu_us_per_token"])
        figures |= {f"{CPU}{name}": over_rounds(each) for name, each in costs.items()}
    failed = sum(each["requests"]["failed"] for each in flows)
    return Summary(phase, flow, len(rounds), figures, failed)


def over_rounds(figures: Sequence[Figure]) -> Figure:
    """Returns the median of several rounds, and its noise.

    The noise is that of the rounds themselves, or half their range where that is more.
    """
    values = [each["value"] for each in figures if each["value"] is not None]
    if not values:
        return {"value": None, "noise": None}
    noises = [each["noise"] for each in figures if each["noise"] is not None]
    noise = statistics.median(noises) / math.sqrt(len(noises)) if noises else None
    if len(values) > 1:
        noise = max(noise or 0.0, (max(values) - min(values)) / 2)
    return {"value": statistics.median(values), "noise": noise}
