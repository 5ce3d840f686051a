"""The tables of prefill and decode at workers of their own, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.tables import ms, table


def exact(found: Mapping[str, Any]) -> str:
    """Answers of a pair of workers against those of one."""
    return (
        f"Prefill and decode apart, demo model in float32, greedy: {found['chats']} of "
        f"{found['of_chats']} chats and {found['long']} of {found['of_long']} prompts of 3,000 "
        f"tokens are answered as by one worker ({', '.join(found['modes'])})."
    )


def apart(found: Mapping[str, Any]) -> str:
    """A worker for prompts and one for tokens, against workers that do both."""
    rows = [
        (
            tokens,
            arm,
            ms(figures, "ttft_p50_ms"),
            ms(figures, "ttft_p99_ms"),
            ms(figures, "gap_p50_ms"),
            ms(figures, "gap_p99_ms"),
            f"{figures['tokens_per_s']:,.0f}",
        )
        for tokens, arms in found.items()
        if tokens != "modes"
        for arm, figures in arms.items()
    ]
    titles = ("prompt", "workers", "TTFT p50", "TTFT p99", "gap p50", "gap p99", "tok/s")
    return table(titles, rows)
