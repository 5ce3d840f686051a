"""The page that sets two results side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tokenwire.bench.comparison import Row
from tokenwire.bench.figures import shown
from tokenwire.bench.report.charts import Axis, Series, lines
from tokenwire.bench.report.page import METRICS, time_axis
from tokenwire.bench.report.style import card, frame, table


def comparison_page(
    before: Mapping[str, Any], after: Mapping[str, Any], rows: Sequence[Row]
) -> str:
    """Returns the comparison as an HTML page."""
    title = f"tokenwire bench {after['scenario']}: B against A"
    names = [_name(letter, each) for letter, each in (("A", before), ("B", after))]
    head = f"<h1>{escape(title)}</h1>" + "".join(f"<p class=soft>{escape(n)}</p>" for n in names)
    return frame(title, head + _verdicts(rows) + _table(rows) + _curves(before, after))


def _name(letter: str, result: Mapping[str, Any]) -> str:
    label = f" {result['label']}," if result["label"] else ""
    served = result["deployment"]
    return f"{letter}:{label} {served['model']} at {served['target']}, {result['created_at']}"


def _verdicts(rows: Sequence[Row]) -> str:
    main = [each for each in rows if each.is_main]
    tiles = []
    for verdict, title in (
        ("better", "better in B"),
        ("worse", "worse in B"),
        ("same", "the same within the noise"),
    ):
        count = sum(each.verdict == verdict for each in main)
        tiles.append(
            f'<div class="tile"><span>{title}</span><b class="{verdict}">{count}</b>'
            f"<span>of {len(main)} figures</span></div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _table(rows: Sequence[Row]) -> str:
    cells = []
    for row in rows:
        if row.is_main:
            noise = f"±{row.noise:.1%}" if row.noise is not None else "-"
            cells.append(
                [
                    escape(row.title),
                    shown(row.name, row.before),
                    shown(row.name, row.after),
                    f'<b class="{row.verdict}">{row.ratio:.3f}</b>',
                    noise,
                    f'<span class="{row.verdict}">{row.verdict}</span>',
                ]
            )
    titles = ["figure", "A", "B", "B / A", "noise", "B is"]
    note = (
        '<p class="soft">The noise is of the ratio: two standard errors, or half the range of the '
        "rounds where that is more. A difference below it says nothing.</p>"
    )
    return f'<h2>Figures</h2><section class="card">{table(titles, cells)}{note}</section>'


def _curves(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    charts = []
    second = {(each["name"], each["round"]): each for each in after["phases"]}
    x = time_axis("")
    y = Axis("share of all", lambda each: f"{each:.0%}", begin=0.0, end=1.0)
    for phase in before["phases"]:
        other = second.get((phase["name"], phase["round"]))
        if other is None or phase["round"] > 1:
            continue
        for name, flow in phase["flows"].items():
            if name not in other["flows"]:
                continue
            for metric in ("ttft", "itl"):
                series = [
                    Series(letter, [(a, b) for a, b in each["curves"][metric]], colour, step=True)
                    for colour, (letter, each) in enumerate(
                        (("A", flow), ("B", other["flows"][name]))
                    )
                ]
                if all(each.points for each in series):
                    where = phase["name"] if name == "all" else f"{phase['name']}, {name}"
                    charts.append(card(f"{METRICS[metric]}: {where}", lines(series, x, y)))
    return f'<h2>Distributions</h2><div class="grid2">{"".join(charts)}</div>'
