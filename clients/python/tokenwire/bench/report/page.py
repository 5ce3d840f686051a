"""The report of one result."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from tokenwire.bench.figures import duration, shown, value
from tokenwire.bench.progress import phase_title
from tokenwire.bench.report.charts import COLOURS, Axis, Series, bars, lines, marked, scatter
from tokenwire.bench.report.style import card, frame, table
from tokenwire.bench.summary import CPU, Summary, summaries

METRICS = {
    "ttft": "Time to first token",
    "itl": "Gap between two messages with tokens",
    "tpot": "Time per output token, a request's mean",
    "e2e": "Time to the end",
    "frontend_ttft": "Time to first token, as the frontend told it",
}
_QUANTILES = ("mean", "p50", "p90", "p99", "p99.9", "max")
LEAST_SWEEP = 3
"""Points that make a curve."""
WORKERS_SHOWN = 16
"""Rows of workers: a simulated fleet may have a thousand."""

_SHARES = Axis("share of all", lambda each: f"{each:.0%}", begin=0.0, end=1.0)


@dataclass(frozen=True)
class _Part:
    """One flow of one phase in one round."""

    name: str
    """The same in all rounds, and of one colour."""
    title: str
    colour: int
    phase: Mapping[str, Any]
    flow: Mapping[str, Any]

    def figure(self, name: str) -> float | None:
        return value(self.flow["figures"], name)


def page(result: Mapping[str, Any]) -> str:
    """Returns the report as an HTML page."""
    parts = list(_parts(result))
    heading = f"tokenwire bench {result['scenario']}"
    if result["label"]:
        heading += f": {result['label']}"
    sections = [_head(result, heading), _tiles(result), _notes(result), _main_table(result)]
    if parts:
        sections += [_goodput(result), _sweep(result), _latencies(parts)]
        sections += [_percentiles(result), _over_time(parts), _requests(parts)]
        sections += [_processes(result)]
    sections += [_failures(parts), _setup(result)]
    return frame(heading, "".join(sections))


def _parts(result: Mapping[str, Any]) -> Iterator[_Part]:
    colours: dict[str, int] = {}
    for phase in result["phases"]:
        for flow, found in phase["flows"].items():
            prefix = "" if flow == "all" else f"{flow}, "
            name = prefix + phase["name"]
            title = prefix + phase_title(phase["name"], phase["round"])
            yield _Part(name, title, colours.setdefault(name, len(colours)), phase, found)


def _head(result: Mapping[str, Any], heading: str) -> str:
    served = result["deployment"]
    engines = ", ".join(
        dict.fromkeys(each["engine"] for each in served["workers"] if each["engine"])
    )
    count = len(served["workers"])
    workers = "1 worker" if count == 1 else f"{count} workers"
    cut = " Interrupted: the last phase is not whole." if result["interrupted"] else ""
    return (
        f"<h1>{escape(heading)}</h1><p class=soft>{escape(served['model'])} at "
        f"{escape(served['target'])}, {workers} with {escape(engines)}; "
        f"{escape(result['created_at'])}.{cut}</p>"
    )


def _tiles(result: Mapping[str, Any]) -> str:
    """The best of each main figure; the table below has all."""
    wanted = (
        ("output_tokens_per_s", "most output tokens/s", max),
        ("requests_per_s", "most requests/s", max),
        ("ttft_p50_s", "lowest median first token", min),
        ("itl_p50_s", "lowest median gap", min),
        ("cached_share", "most from the prompt cache", max),
    )
    tiles = []
    for name, title, choose in wanted:
        found = [(each.value(name), each.title) for each in summaries(result)]
        known = [(figure, where) for figure, where in found if figure is not None]
        if known:
            best, where = choose(known)
            tiles.append(
                f'<div class="tile"><span>{title}</span><b>{shown(name, best)}</b>'
                f"<span>{escape(where)}</span></div>"
            )
    parts = list(_parts(result))
    lost = sum(count for each in parts for count in each.flow["lost"].values())
    came = sum(each.flow["tokens"]["completion"] for each in parts)
    verdict = "none" if not lost else f"{lost:,}"
    kind = "better" if not lost else "worse"
    tiles.append(
        f'<div class="tile"><span>lost or repeated</span><b class="{kind}">{verdict}</b>'
        f"<span>of {came:,} tokens checked</span></div>"
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _notes(result: Mapping[str, Any]) -> str:
    items = [
        f"<li><b>{escape(phase_title(phase['name'], phase['round']))}</b>: "
        f"{escape('; '.join(phase['doubts']))}</li>"
        for phase in result["phases"]
        if phase["doubts"]
    ]
    if not items:
        return ""
    return f'<div class="notes"><b>Before you believe it</b><ul>{"".join(items)}</ul></div>'


def _main_table(result: Mapping[str, Any]) -> str:
    titles = ["", "requests/s", "output tok/s", "total tok/s", "first token p50", "p99"]
    titles += ["gap p50", "p99", "end p50", "p99", "cached", "failed"]
    names = ["requests_per_s", "output_tokens_per_s", "total_tokens_per_s", "ttft_p50_s"]
    names += ["ttft_p99_s", "itl_p50_s", "itl_p99_s", "e2e_p50_s", "e2e_p99_s", "cached_share"]
    found = summaries(result)
    rows = []
    for colour, each in enumerate(found):
        cells = [f"{_swatch(colour)} {escape(each.title)}"]
        cells += [
            _with_noise(each.figures, name)
            if name.endswith(("_per_s", "_p50_s"))
            else shown(name, each.value(name))
            for name in names
        ]
        cells.append(f'<span class="worse">{each.failed:,}</span>' if each.failed else "0")
        rows.append(cells)
    note = "Small figures are the noise: two standard errors, from ten parts of the measured time."
    if any(each.rounds > 1 for each in found):
        note = "Medians of the rounds. Small figures are the noise: half their range, or more."
    body = f'{table(titles, rows)}<p class="soft">{note}</p>'
    return f'<h2>Summary</h2><section class="card">{body}</section>'


def _with_noise(figures: Mapping[str, Any], name: str) -> str:
    figure = figures.get(name)
    if figure is None or figure["value"] is None:
        return "-"
    text = escape(shown(name, figure["value"]))
    if figure["noise"] is not None and figure["value"]:
        noise = figure["noise"] / figure["value"]
        text += f" <small>±{noise:.0%}</small>" if noise < 1 else " <small>±&gt;100%</small>"
    return text


def _swatch(colour: int) -> str:
    return f'<i class="swatch s{colour % COLOURS}"></i>'


def _goodput(result: Mapping[str, Any]) -> str:
    """Goodput against the load, where the phases say what the load is."""
    loads = {
        each["name"]: (each["labels"]["load"], each["plan"])
        for each in result["phases"]
        if "load" in each["labels"]
    }
    if not loads:
        return ""
    found = [each for each in summaries(result) if each.phase in loads]
    x = Axis("load, as a multiple of the measured capacity", lambda each: f"{each:g}x", begin=0.0)
    y = Axis("requests/s", lambda each: shown("_per_s", each) if each else "0", begin=0.0)

    def against_load(title: str, figure: str, colour: int) -> Series:
        points = [(loads[each.phase][0], each.value(figure)) for each in found]
        return Series(title, sorted((a, b) for a, b in points if b is not None), colour)

    offered = [(load, plan["flows"][0]["arrivals"]["rate_per_s"]) for load, plan in loads.values()]
    rates = [
        against_load("requests that ended well", "requests_per_s", 0),
        against_load("requests that met the objective", "goodput_per_s", 1),
        Series("requests that arrived", sorted(offered), 7),
    ]
    objective = next(iter(loads.values()))[1]["objective"]
    wanted = ", ".join(
        f"{name.removesuffix('_s')} {duration(limit)}"
        for name, limit in objective.items()
        if limit is not None
    )
    firsts = [
        against_load(quantile, f"ttft_{quantile}_s", colour)
        for colour, quantile in enumerate(("p50", "p90", "p99"))
    ]
    charts = card(f"Goodput ({wanted})", marked(rates, x, y))
    charts += card("Time to first token", marked(firsts, x, time_axis("first token")))
    return f'<h2>Beyond the capacity</h2><div class="grid2">{charts}</div>'


def time_axis(title: str) -> Axis:
    """Returns a logarithmic axis of times."""
    return Axis(title, _tick, logarithmic=True)


def _tick(seconds: float) -> str:
    if not seconds:
        return "0"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 0.9995 or unit == "us":
            return f"{seconds * scale:.3g} {unit}"
    return ""


def _sweep(result: Mapping[str, Any]) -> str:
    """Throughput against latency: each phase is a point of the curve that its call draws."""
    plans = {
        (phase["name"], flow["name"]): flow
        for phase in result["phases"]
        for flow in phase["plan"]["flows"]
        if "load" not in phase["labels"]
    }
    curves: dict[str, list[Summary]] = {}
    for each in summaries(result):
        plan = plans.get((each.phase, each.flow))
        if plan is not None and each.flow == "all":
            window = f", {plan['max_delay_s'] * 1e3:g} ms window" if plan["max_delay_s"] else ""
            curves.setdefault(plan["call"] + window, []).append(each)
    if not curves or max(map(len, curves.values())) < LEAST_SWEEP:
        return ""
    charts = []
    x = Axis("output tokens/s", lambda each: shown("_per_s", each) if each else "0", begin=0.0)
    for metric, title in (("ttft_p50_s", "first token, median"), ("itl_p50_s", "gap, median")):
        series = []
        for colour, (name, members) in enumerate(curves.items()):
            points = [(each.value("output_tokens_per_s"), each.value(metric)) for each in members]
            known = [(a, b) for a, b in points if a is not None and b is not None]
            series.append(Series(name, known, colour))
        charts.append(card(f"Throughput against {title}", marked(series, x, time_axis(title))))
    return f'<h2>Throughput against latency</h2><div class="grid2">{"".join(charts)}</div>'


def _latencies(parts: list[_Part]) -> str:
    charts = []
    for metric, title in METRICS.items():
        series = [
            Series(each.name, _pairs(each.flow["curves"][metric]), each.colour, step=True)
            for each in parts
        ]
        if any(each.points for each in series):
            charts.append(card(title, lines(series, time_axis(""), _SHARES)))
    return (
        "<h2>Latencies</h2><p class=soft>The share of all requests, or of all gaps, that took at "
        f'most the time below.</p><div class="grid2">{"".join(charts)}</div>'
    )


def _percentiles(result: Mapping[str, Any]) -> str:
    tables = []
    for metric, title in METRICS.items():
        rows = [
            [
                f"{_swatch(colour)} {escape(each.title)}",
                *(_with_noise(each.figures, f"{metric}_{name}_s") for name in _QUANTILES),
            ]
            for colour, each in enumerate(summaries(result))
            if each.value(f"{metric}_p50_s") is not None
        ]
        if rows:
            tables.append(card(title, table(["", *_QUANTILES], rows)))
    return f'<h2>Percentiles</h2><div class="rows">{"".join(tables)}</div>'


def _pairs(points: list[list[float]]) -> list[tuple[float, float]]:
    return [(a, b) for a, b in points]


def _over_time(parts: list[_Part]) -> str:
    x = Axis("time since the end of the warm-up", lambda each: f"{each:g} s", begin=0.0)
    rates = Axis("tokens/s", lambda each: shown("_per_s", each) if each else "0", begin=0.0)
    wanted = (
        ("tokens_per_s", "Output tokens/s", rates),
        ("ttft_p50_s", "Time to first token, median", time_axis("")),
        ("ttft_p99_s", "Time to first token, p99", time_axis("")),
        ("itl_p99_s", "Gap between two messages, p99", time_axis("")),
    )
    charts = []
    for name, title, y in wanted:
        series = [
            Series(
                each.name,
                [
                    (row["at_s"], row[name])
                    for row in each.flow["timeline"]
                    if row[name] is not None
                ],
                each.colour,
            )
            for each in parts
        ]
        if any(each.points for each in series):
            charts.append(card(title, lines(series, x, y)))
    return f'<h2>Over time</h2><div class="grid2">{"".join(charts)}</div>'


def _requests(parts: list[_Part]) -> str:
    """Single requests by their start: a sample where there were many."""
    x = Axis("start, since the end of the warm-up", lambda each: f"{each:g} s", begin=0.0)
    charts = []
    for part in parts:
        rows = part.flow["sample"]
        first = [(row[0], row[1]) for row in rows if row[1] is not None and not row[5]]
        end = [(row[0], row[2]) for row in rows if not row[5]]
        failed = [(row[0], row[2]) for row in rows if row[5]]
        series = [
            Series("to the end", end, 1),
            Series("to the first token", first, 0),
            Series("to the failure", failed, 4),
        ]
        if rows and part.phase["round"] == 1:
            charts.append(card(part.name, scatter(series, x, time_axis(""))))
    return (
        "<h2>Requests</h2><p class=soft>Each point is a request of the first round.</p>"
        f'<div class="grid2">{"".join(charts)}</div>'
    )


def _processes(result: Mapping[str, Any]) -> str:
    phases = result["phases"]
    names = list(dict.fromkeys(each["name"] for phase in phases for each in phase["processes"]))
    if not names:
        return ""
    groups = [
        (each.phase, [each.value(f"{CPU}{name}") for name in names]) for each in summaries(result)
    ]
    axis = Axis("us of CPU for each output token", lambda each: f"{each:.1f} us")
    charts = [card("CPU time for each output token", bars(groups, names, axis))]
    x = Axis("time since the end of the warm-up", lambda each: f"{each:g} s", begin=0.0)
    y = Axis("MiB", lambda each: f"{each:,.0f}", begin=0.0)
    last = max(phases, key=lambda each: each["window_s"])
    series = [
        Series(each["name"], _pairs(each["memory_mib"]), names.index(each["name"]))
        for each in last["processes"]
    ]
    charts.append(card(f"Memory, {last['name']}", lines(series, x, y)))
    return f'<h2>Processes</h2><div class="grid2">{"".join(charts)}</div>'


def _failures(parts: list[_Part]) -> str:
    rows = []
    for part in parts:
        requests = part.flow["requests"]
        ends = ", ".join(f"{count:,} {name}" for name, count in part.flow["finish_reasons"].items())
        errors = ", ".join(f"{count:,} {name}" for name, count in part.flow["errors"].items())
        cells = [f"{_swatch(part.colour)} {escape(part.name)}"]
        cells += [
            f"{requests[each]:,}" for each in ("started", "completed", "failed", "unfinished")
        ]
        rows.append([*cells, escape(ends), escape(errors)])
    titles = ["", "started", "completed", "failed", "unfinished", "finish reasons", "errors"]
    return f'<h2>Ends</h2><section class="card">{table(titles, rows)}</section>'


def _setup(result: Mapping[str, Any]) -> str:
    rows = [["command", f"<code>tokenwire {escape(shlex.join(result['command']))}</code>"]]
    rows += [[name, escape(str(each))] for name, each in result["environment"].items()]
    workers = result["deployment"]["workers"]
    rows += [
        [escape(f"worker {each['address']}"), escape(each["engine"])]
        for each in workers[:WORKERS_SHOWN]
    ]
    if len(workers) > WORKERS_SHOWN:
        rows.append([f"and {len(workers) - WORKERS_SHOWN} more", "all are in the result file"])
    for phase in result["phases"]:
        load = phase["load"]
        shares = ", ".join(f"{each['cpu_share']:.0%}" for each in load["processes"])
        lag = duration(load["loop_lag_p99_s"]) if load["loop_lag_p99_s"] is not None else "-"
        busy = load["machine_busy_share"]
        machine = f"; this machine {busy:.0%} busy" if busy is not None else ""
        text = f"{phase['window_s']:g} s measured; load processes used {shares} of a core"
        where = phase_title(phase["name"], phase["round"])
        rows.append([escape(where), escape(f"{text}, loop lag p99 {lag}{machine}")])
    body = "".join(f'<tr><td>{name}</td><td class="left">{each}</td></tr>' for name, each in rows)
    return f'<h2>How it was measured</h2><section class="card"><table>{body}</table></section>'
