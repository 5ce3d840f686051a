"""What is printed while a run goes on (standard error), and at its end (standard output)."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from tokenwire.bench.figures import duration, shown
from tokenwire.bench.plan import Phase
from tokenwire.bench.summary import CPU, is_one_of_several, summaries
from tokenwire.cli.printing import print_table

PLAIN_S = 5.0
"""Between two lines where standard error is not a terminal."""


class Progress:
    """One phase's line, renewed with each word of a load process."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._live = sys.stderr.isatty()
        self._told: dict[int, Mapping[str, Any]] = {}
        self._start_s = self._shown_s = time.monotonic()
        self._tokens = 0
        self._rate = 0.0

    def start(self, start_s: float) -> None:
        """Notes the start, a time of time.monotonic."""
        self._start_s = self._shown_s = start_s

    def hear(self, process: int, told: Mapping[str, Any]) -> None:
        """Takes what a load process tells, and shows it when it is time."""
        self._told[process] = told
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.9 if self._live else PLAIN_S):
            return
        tokens = self._sum("tokens_so_far")
        self._rate = (tokens - self._tokens) / (now_s - self._shown_s)
        self._tokens, self._shown_s = tokens, now_s
        self._show(now_s)

    def end(self) -> None:
        """Leaves the line."""
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _show(self, now_s: float) -> None:
        phase, elapsed_s = self._phase, now_s - self._start_s
        in_phase_s = elapsed_s - phase.warmup_s
        if in_phase_s < 0:
            when = "warm-up"
        elif in_phase_s < phase.duration_s:
            when = f"{in_phase_s:.0f}/{phase.duration_s:g} s"
        else:
            when = "draining"
        firsts_s = [each["ttft_s"] for each in self._told.values() if each["ttft_s"] is not None]
        first = duration(sorted(firsts_s)[len(firsts_s) // 2]) if firsts_s else "-"
        line = (
            f"{phase_title(phase.name, phase.round)}  {when}  {self._rate:,.0f} tok/s  "
            f"first token {first}  "
            f"in flight {self._sum('in_flight')}  ended {self._sum('ended_so_far'):,}  "
            f"failed {self._sum('failed_so_far'):,}"
        )
        if self._live:
            # A line that wraps would not be written over.
            line = line[: shutil.get_terminal_size().columns - 1]
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _sum(self, name: str) -> int:
        return sum(each[name] for each in self._told.values())


def phase_title(name: str, number: int) -> str:
    """Returns what a phase is called where there are several rounds of it."""
    return name if number == 1 else f"{name} (round {number})"


_COLUMNS = (
    ("REQ/S", "requests_per_s"),
    ("TOK/S", "output_tokens_per_s"),
    ("TTFT P50", "ttft_p50_s"),
    ("P99", "ttft_p99_s"),
    ("ITL P50", "itl_p50_s"),
    ("P99", "itl_p99_s"),
    ("E2E P50", "e2e_p50_s"),
    ("CACHED", "cached_share"),
)


def print_result(result: Mapping[str, Any]) -> None:
    """Prints the main figures as a table, and what to doubt below it."""
    found = summaries(result)
    has_goodput = any("good_share" in each.figures for each in found)
    processes = list(
        dict.fromkeys(
            name.removeprefix(CPU)
            for each in found
            for name in each.figures
            if name.startswith(CPU) and not is_one_of_several(name, each.figures)
        )
    )
    titles = ["PHASE", *(head for head, _ in _COLUMNS)]
    titles += ["GOOD"] * has_goodput + ["FAILED"] + [f"{each} us/tok".upper() for each in processes]
    rows = []
    for each in found:
        row = [each.title, *(shown(key, each.value(key)) for _, key in _COLUMNS)]
        row += [shown("good_share", each.value("good_share"))] * has_goodput
        row += [str(each.failed)]
        row += [shown(CPU, each.value(f"{CPU}{name}")) for name in processes]
        rows.append(row)
    print_table(titles, rows)
    if any(each.rounds > 1 for each in found):
        print("medians of the rounds")
    for phase in result["phases"]:
        where = phase_title(phase["name"], phase["round"])
        for name, flow in phase["flows"].items():
            of = f"{where}: {name}" if name != "all" else where
            for reason, count in flow["errors"].items():
                print(f"failed: {of}: {count} x {reason}")
        if phase["doubts"]:
            print(f"note: {where}: {'; '.join(phase['doubts'])}")
