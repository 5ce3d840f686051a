"""The pages' frame and style sheet, for light and dark screens and for paper."""

from __future__ import annotations

from html import escape

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #16202c; --soft: #5b6878;
  --rule: #e3e7ec; --good: #177245; --bad: #b42318; --warn-page: #fff6e0; --warn-rule: #e8b93f;
  --s0: #2563eb; --s1: #e8590c; --s2: #099268; --s3: #8b3fd9; --s4: #d6336c; --s5: #0b8bb0;
  --s6: #b58500; --s7: #64748b; }
@media (prefers-color-scheme: dark) { :root { --page: #11161d; --card: #19212b; --ink: #e6ebf1;
  --soft: #98a5b5; --rule: #2c3744; --good: #4cc38a; --bad: #ff8579; --warn-page: #2e2611;
  --warn-rule: #8d701f; --s0: #6aa1ff; --s1: #ff9558; --s2: #3fcf9f; --s3: #bf8cff; --s4: #ff7aa8;
  --s5: #4cc5e6; --s6: #e0b43c; --s7: #9aa8ba; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 18px; margin: 34px 0 12px; }
h3 { font-size: 14px; margin: 0 0 6px; } p { margin: 4px 0; } .soft { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 16px 18px; overflow-x: auto; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fill, minmax(430px, 1fr)); gap: 16px; }
.rows { display: grid; gap: 16px; grid-template-columns: minmax(0, 1fr); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 14px;
  margin-top: 20px; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 12px 16px; } .tile b { display: block; font-size: 24px; line-height: 1.25; }
.tile span { color: var(--soft); font-size: 13px; }
.notes { background: var(--warn-page); border: 1px solid var(--warn-rule); border-radius: 10px;
  padding: 12px 18px; margin-top: 18px; } .notes ul { margin: 4px 0; padding-left: 20px; }
table { border-collapse: collapse; width: 100%; font-size: 13px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 6px; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; } tbody tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
th.group { text-align: center; border-bottom: 0; }
td small { color: var(--soft); } .better { color: var(--good); } .worse { color: var(--bad); }
td.left { text-align: left; } code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11.5px; }
svg text.title { fill: var(--ink); } .grid { stroke: var(--rule); fill: none; }
.axis { stroke: var(--soft); fill: none; } .line { fill: none; stroke: var(--c); stroke-width: 2;
  stroke-linejoin: round; } .dashed { stroke-dasharray: 5 4; } .dots { fill: none; stroke: var(--c);
  stroke-width: 4; stroke-linecap: round; opacity: .55; } .bar, .mark { fill: var(--c); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0 0 6px;
  padding: 0; font-size: 12.5px; color: var(--soft); } .swatch, .legend i {
  display: inline-block; width: 11px; height: 11px; border-radius: 3px; background: var(--c);
  margin-right: 6px; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); }
.s4 { --c: var(--s4); } .s5 { --c: var(--s5); } .s6 { --c: var(--s6); } .s7 { --c: var(--s7); }
.nothing { color: var(--soft); padding: 30px; text-align: center; }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""


def frame(title: str, body: str) -> str:
    """Returns a whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def card(title: str, content: str) -> str:
    """Returns a framed part of a page."""
    return f'<section class="card"><h3>{escape(title)}</h3>{content}</section>'


def table(titles: list[str], rows: list[list[str]]) -> str:
    """Returns a table; its cells are HTML."""
    head = "".join(f"<th>{escape(each)}</th>" for each in titles)
    body = "".join(f"<tr>{''.join(f'<td>{each}</td>' for each in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
