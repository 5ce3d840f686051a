"""The tables of two GPUs, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.tables import ms, table


def exact(found: Mapping[str, Any]) -> str:
    """Answers of split models against those of one GPU."""
    of = found["of"]
    each = ", ".join(f"{name}: {count} of {of}" for name, count in found.items() if name != "of")
    return f"Greedy answers of the demo model in float32 that equal those of one GPU: {each}."


def scale(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Two workers against one."""
    rows = []
    for name in rounds[0]:
        ratios = [
            each[name]["tokens_per_s"] / each["one worker"]["tokens_per_s"] for each in rounds
        ]
        middle = {
            key: statistics.median(each[name][key] for each in rounds) for key in rounds[0][name]
        }
        rows.append(
            (
                name,
                f"{middle['tokens_per_s']:,.0f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                ms(middle, "ttft_p50_ms"),
                f"{middle['frontend_us_per_token']:.0f}",
                f"{middle['worker_us_per_token']:.0f}",
            )
        )
    titles = (
        "8B shape, 128 streams for each worker",
        "tok/s",
        "of one",
        "TTFT p50",
        "frontends us/token",
        "workers us/token",
    )
    return table(titles, rows)


def parallel(found: Mapping[str, Any]) -> str:
    """One model over both GPUs."""
    rows = [
        (
            name,
            concurrency,
            f"{figures['tokens_per_s']:,.0f}",
            f"{figures['tokens_per_s'] / found['first'][concurrency]['tokens_per_s']:.2f}",
            ms(figures, "gap_p50_ms"),
        )
        for name, of_it in found.items()
        for concurrency, figures in of_it.items()
    ]
    return table(("8B shape", "concurrent", "tok/s", "of one GPU", "gap p50"), rows)


def routing(found: Mapping[str, Any]) -> str:
    """Reuse by each policy."""
    rows = [
        (
            load,
            arm,
            f"{figures['reused']:.3f}",
            f"{figures['reused'] / found['one worker'][load]['reused']:.2f}",
            ms(figures, "ttft_p50_ms"),
            ms(figures, "ttft_p99_ms"),
        )
        for load in found["one worker"]
        for arm in found
        for figures in [found[arm][load]]
    ]
    titles = (
        "load",
        "workers",
        "reused, of what could be",
        "of one worker",
        "TTFT p50",
        "TTFT p99",
    )
    return table(titles, rows)


def rolling(found: Mapping[str, Any]) -> str:
    """A rolling restart under load."""
    return (
        "Both workers restarted one after the other under load, in "
        f"{found['both_restarted_s']:.0f} s: {found['answers']} answers, {found['failed']} failed, "
        f"longest gap {ms(found, 'longest_gap_ms')}."
    )
