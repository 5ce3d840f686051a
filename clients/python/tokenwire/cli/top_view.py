"""The view of a snapshot for a terminal of any width, by rich.

console = Console(record=True, width=120)
console.print(View("127.0.0.1:50051", now, rates.between(before, now)))
console.export_svg(title="tokenwire top")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tokenwire.cli.failures import plain
from tokenwire.cli.rates import Rates
from tokenwire.types import Activity, Outcome, Quantiles, Record, WorkerInfo

_WIDE = 110
"""Columns from which on everything is shown; below, what other commands tell is left out."""

_BAR_WIDTH = 8

_FULL = 0.9
"""Share of a KV cache from which on requests may soon have to wait for it."""

_NO_TENTHS = 100
"""Per second; from here on a rate's tenths say nothing."""

_STATES = {
    "ready": "green",
    "connecting": "yellow",
    "suspect": "yellow",
    "draining": "yellow",
    "refused": "red",
    "lost": "red",
}
_OUTCOMES = {
    Outcome.COMPLETED: "green",
    Outcome.CANCELLED: "blue",
    Outcome.REFUSED: "yellow",
    Outcome.FAILED: "red",
}


def console() -> Console:
    """Returns the console of standard output."""
    return Console(highlight=False)


def screen() -> Live:
    """Returns the terminal's whole screen, to be entered, and updated with views."""
    return Live(View(""), console=console(), screen=True, auto_refresh=False)


@dataclass(frozen=True)
class View:
    """One snapshot, drawn as wide as the console is."""

    target: str
    activity: Activity | None = None
    rates: Rates = field(default_factory=Rates)
    notice: str = ""
    """What keeps the view from being renewed."""

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        wide = options.max_width >= _WIDE
        activity = self.activity
        yield _title(self.target, activity)
        if self.notice:
            yield Text(self.notice, style="bold red")
        if activity is None:
            return
        yield from _load(activity, self.rates)
        yield Text()
        yield _table(_WORKERS, activity.workers, wide=wide)
        for worker in activity.workers:
            if worker.state_reason:
                yield Text(f"{worker.address}: {plain(worker.state_reason)}", style="yellow")
        yield Text()
        yield _latencies(activity)
        if activity.records:
            yield Text()
            yield _table(_RECORDS, activity.records, wide=wide)


def _title(target: str, activity: Activity | None) -> RenderableType:
    line = Table.grid(expand=True)
    line.add_column()
    line.add_column(justify="right")
    name = Text.assemble(("tokenwire", "bold"), " ", target)
    line.add_row(name, f"up {_long_time(activity.uptime_s)}" if activity else "")
    return line


def _load(activity: Activity, rates: Rates) -> Iterator[RenderableType]:
    speeds = {
        "requests": rates.requests,
        "tokens in": rates.prompt_tokens,
        "out": rates.completion_tokens,
    }
    active = f"{activity.active_generations} of {activity.generations_limit}"
    figures = [Text.assemble("generations ", (active, "bold"))]
    if activity.queued_generations:
        figures.append(Text.assemble("waiting ", (f"{activity.queued_generations}", "bold")))
    figures += [Text.assemble(f"{name} ", (_rate(each), "bold")) for name, each in speeds.items()]
    yield Text("   ").join(figures)
    counts = [
        Text.assemble(f"{outcome} ", (f"{activity.outcomes.get(outcome, 0):,}", f"bold {style}"))
        for outcome, style in _OUTCOMES.items()
    ]
    yield Text("   ").join(counts)


_Row = TypeVar("_Row")


@dataclass(frozen=True)
class _Column(Generic[_Row]):
    """A column of a table, and how its cells come from what a row is about."""

    title: str
    cell: Callable[[_Row], RenderableType]
    number: bool = False
    only_wide: bool = False


def _table(columns: Sequence[_Column[_Row]], rows: Iterable[_Row], *, wide: bool) -> Table:
    gap = 2 if wide else 1
    table = Table(box=None, padding=(0, gap, 0, 0), header_style="dim", pad_edge=False)
    shown = [column for column in columns if wide or not column.only_wide]
    for column in shown:
        # The columns that may wrap give way first, and their cells are cut short instead.
        table.add_column(
            column.title, justify="right" if column.number else "left", no_wrap=column.number
        )
    for row in rows:
        table.add_row(*(column.cell(row) for column in shown))
    return table


def _word(text: str, style: str = "") -> Text:
    """Returns a text that is cut short, and never wrapped, where the terminal is too narrow."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _cache(worker: WorkerInfo) -> RenderableType:
    usage = worker.kv_cache_usage
    style = "red" if usage >= _FULL else "green"
    bar = ProgressBar(
        total=1.0, completed=usage, width=_BAR_WIDTH, complete_style=style, finished_style=style
    )
    cell = Table.grid(padding=(0, 1, 0, 0))
    cell.add_row(bar, f"{usage:.0%}")
    return cell


_WORKERS: Sequence[_Column[WorkerInfo]] = (
    _Column("worker", lambda each: _word(each.address)),
    _Column("name", lambda each: _word(each.name)),
    _Column("state", lambda each: _word(each.state, _STATES.get(each.state, ""))),
    _Column("model", lambda each: _word(each.model), only_wide=True),
    _Column("engine", lambda each: _word(each.engine), only_wide=True),
    _Column("running", lambda each: str(each.running), number=True),
    _Column("waiting", lambda each: str(each.waiting), number=True),
    _Column("in flight", lambda each: str(each.in_flight), number=True),
    _Column("KV cache", _cache),
)

_LATENCIES: Sequence[_Column[tuple[str, Quantiles]]] = (
    _Column("", lambda each: each[0]),
    _Column("p50", lambda each: _time(each[1].p50_s), number=True),
    _Column("p90", lambda each: _time(each[1].p90_s), number=True),
    _Column("p99", lambda each: _time(each[1].p99_s), number=True),
    _Column("requests", lambda each: f"{each[1].count:,}", number=True),
)

_RECORDS: Sequence[_Column[Record]] = (
    _Column("time", lambda each: f"{each.received_at.astimezone():%H:%M:%S}"),
    _Column("request", lambda each: _word(each.request_id)),
    _Column("model", lambda each: _word(each.model), only_wide=True),
    _Column("worker", lambda each: _word(each.timings.worker), only_wide=True),
    _Column("outcome", lambda each: _word(_ending(each), _OUTCOMES.get(each.outcome, ""))),
    _Column("in", lambda each: f"{each.usage.prompt_tokens:,}", number=True),
    _Column(
        "cached", lambda each: _count(each.usage.cached_prompt_tokens), number=True, only_wide=True
    ),
    _Column("out", lambda each: f"{each.usage.completion_tokens:,}", number=True),
    _Column("first", lambda each: _time(each.timings.time_to_first_token_s), number=True),
    _Column("token", lambda each: _time(each.timings.time_per_output_token_s), number=True),
    _Column("total", lambda each: _time(each.timings.total_s), number=True),
)


def _latencies(activity: Activity) -> Table:
    rows = [
        ("time to first token", activity.time_to_first_token),
        ("time per output token", activity.time_per_output_token),
        ("total", activity.total),
    ]
    columns = [replace(_LATENCIES[0], title=f"last {activity.window_s:g} s"), *_LATENCIES[1:]]
    return _table(columns, rows, wide=True)


def _ending(record: Record) -> str:
    return f"{record.outcome} {record.reason}".rstrip()


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}/s" if value >= _NO_TENTHS else f"{value:,.1f}/s"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def _long_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    return " ".join(f"{number} {unit}" for number, unit in parts[:2])
