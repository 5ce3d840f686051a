"""Where a request's time went, as a waterfall: one line for each stage of both hops."""

from __future__ import annotations

import sys

from tokenwire.types import Answer, Stage

_BAR_WIDTH = 40


def render(answer: Answer) -> str:
    """Returns the waterfall and its sums as lines of text."""
    timings = answer.timings
    end_s = max(
        [timings.total_s or 0.0, *(each.start_s + each.duration_s for each in timings.stages)]
    )
    titles = ("service", "stage", "start ms", "took ms")
    rows = [
        (each.service, each.name, _ms(each.start_s), _ms(each.duration_s), _bar(each, end_s))
        for each in timings.stages
    ]
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]

    def line(service: str, stage: str, start: str, took: str, bar: str = "") -> str:
        left = f"{service:<{widths[0]}}  {stage:<{widths[1]}}"
        return f"{left}  {start:>{widths[2]}}  {took:>{widths[3]}}  {bar}".rstrip()

    where = f"on worker {timings.worker}, " if timings.worker else ""
    return "\n".join(
        [
            "",
            f"request {answer.request_id} {where}trace {answer.trace_id}",
            line(*titles),
            *(line(*row) for row in rows),
            *_sums(answer),
        ]
    )


def _sums(answer: Answer) -> list[str]:
    timings, usage = answer.timings, answer.usage
    times = {
        "total": timings.total_s,
        "first token": timings.time_to_first_token_s,
        "each further token": timings.time_per_output_token_s,
    }
    shown = [f"{name} {_ms(value)} ms" for name, value in times.items() if value is not None]
    cached = usage.cached_prompt_tokens
    prompt = f"{usage.prompt_tokens} prompt tokens"
    if cached is not None:
        prompt += f" ({cached} cached)"
    tokens = f"{prompt}, {usage.completion_tokens} generated; ended by {answer.finish_reason}"
    return [", ".join(shown), tokens] if shown else [tokens]


def _bar(stage: Stage, end_s: float) -> str:
    if end_s <= 0:
        return ""
    start = min(_BAR_WIDTH - 1, int(stage.start_s / end_s * _BAR_WIDTH))
    length = max(1, round(stage.duration_s / end_s * _BAR_WIDTH))
    return " " * start + _mark() * min(length, _BAR_WIDTH - start)


def _mark() -> str:
    return "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"
