"""Writes the reference of docs/telemetry.md from the registry; what stands above the marker stays.

    python tools/generate_telemetry_reference.py [--out FILE]

Run it through `make telemetry-reference`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenwire_service.telemetry import registry
from tokenwire_service.telemetry.registry import Metric, SpanForm

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/telemetry.md"

MARKER = "<!-- From here on written by `make telemetry-reference`. -->"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    return [_row(head), f"|{'---|' * len(head)}", *map(_row, rows), ""]


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _services(names: Iterable[str]) -> str:
    return ", ".join(name.removeprefix("tokenwire-") for name in names)


def _span(form: SpanForm) -> list[str]:
    lines = [f"### `{form.name}` {form.kind}, {_services(form.services)}", "", form.description, ""]
    parts = [
        ("Attributes", form.attributes),
        ("Where they apply", form.optional),
        ("Events", form.events),
    ]
    lines += [f"- {title}: {_code(names)}" for title, names in parts if names]
    return [*lines, ""] if any(names for _, names in parts) else lines


def _metric(metric: Metric) -> list[str]:
    told = [_code(metric.attributes)] if metric.attributes else []
    told += [f"{_code(metric.optional)} where it applies"] if metric.optional else []
    return [
        f"`{metric.name}`<br>`{metric.prometheus_name}`",
        metric.kind.value,
        f"`{metric.unit}`",
        _services(metric.services),
        metric.description,
        "; ".join(told),
    ]


def reference() -> str:
    """Returns the reference of all spans, events and metrics."""
    lines = ["## Spans", ""]
    for form in registry.SPANS:
        lines += _span(form)
    lines += ["## Events", ""]
    lines += _table(
        ("event", "attributes"),
        ((f"`{name}`", _code(attributes)) for name, attributes in registry.EVENTS.items()),
    )
    lines += ["## Metrics", "", "The second name is the one in the Prometheus formats.", ""]
    head = ("name", "kind", "unit", "service", "", "attributes")
    lines += _table(head, map(_metric, registry.METRICS))
    histograms = {
        metric.bounds: [each.name for each in registry.METRICS if each.bounds == metric.bounds]
        for metric in registry.METRICS
        if metric.bounds
    }
    lines += ["Bucket bounds of the histograms:", ""]
    lines += _table(
        ("histograms", "bounds"),
        ((_code(names), ", ".join(map(str, bounds))) for bounds, names in histograms.items()),
    )
    return "\n".join(lines).rstrip() + "\n"


def page(text: str) -> str:
    """Returns the page with the reference of today."""
    head, marker, _ = text.partition(MARKER)
    if not marker:
        raise SystemExit(f"{PAGE} has no line {MARKER}")
    return f"{head}{marker}\n\n{reference()}"


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PAGE)
    out = parser.parse_args().out
    out.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main()
