"""Where a request's time went, as a waterfall: one line for each stage of both hops."""

from __future__ import annotations

import sys

from tokenwire.types import Answer, Record, Stage

_BAR_WIDTH = 40


def render(answer: Answer) -> str:
    """Returns an answer's waterfall and its sums as lines of text, after an empty one."""
    sums = _sums(answer, f"ended by {answer.finish_reason}")
    return "\n".join(["", _title(answer), *_stages(answer), *sums, *_moves(answer)])


def render_record(record: Record) -> str:
    """Returns how a recorded request came, its waterfall and its sums as lines of text."""
    came = [f"received {record.received_at.astimezone().isoformat(' ', 'milliseconds')}"]
    if record.model:
        came.append(f"for model {record.model}")
    if record.route_reason:
        came.append(f"route: {record.route_reason}")
    ending = f"{record.outcome}: {record.reason}" if record.reason else str(record.outcome)
    lines = [_title(record), ", ".join(came), *_stages(record), *_sums(record, ending)]
    return "\n".join(lines)


def _title(request: Answer | Record) -> str:
    worker = request.timings.worker
    where = f"on worker {worker}, " if worker else ""
    return f"request {request.request_id} {where}trace {request.trace_id}"


def _stages(request: Answer | Record) -> list[str]:
    timings = request.timings
    if not timings.stages:
        return []
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

    return [line(*titles), *(line(*row) for row in rows)]


def _sums(request: Answer | Record, ending: str) -> list[str]:
    timings, usage = request.timings, request.usage
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
    tokens = f"{prompt}, {usage.completion_tokens} generated; {ending}"
    return [", ".join(shown), tokens] if shown else [tokens]


def _moves(answer: Answer) -> list[str]:
    """Returns how often the client continued it, and which workers had a part in it, if several."""
    lines = []
    if answer.continued:
        times = "once" if answer.continued == 1 else f"{answer.continued} times"
        lines.append(f"continued {times} by the client, with the tokens that it had")
    for each in answer.attempts:
        left = f", left because {each.left_because}" if each.left_because else ""
        lines.append(
            f"worker {each.worker}: sequence {each.sequence} from token {each.token_offset}, "
            f"{each.mode}{left}"
        )
    return lines


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
