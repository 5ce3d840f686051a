"""Charts as SVG: lines, points and bars on linear or logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 74, 14, 12, 42
COLOURS = 8
"""Of the style sheet: s0 to s7; then they come again, dashed."""

LEAST_LOG_RANGE = 3.0
"""From the begin of a logarithmic axis to its end: narrower ones have no tick to read."""

LEAST_TICKS, MOST_TICKS = 3, 9

Point = tuple[float, float]
Shown = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """Points of one colour and name."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    step: bool = False
    """Each value holds until the next point, as a distribution's does."""


@dataclass(frozen=True)
class Axis:
    """One axis: what it shows, and how a value reads."""

    title: str
    shown: Shown
    logarithmic: bool = False
    begin: float | None = None
    end: float | None = None
    ticks: Sequence[float] = field(default=())

    def scale(self, values: Sequence[float], length: float) -> _Scale:
        """Returns where values are on this axis."""
        low = self.begin if self.begin is not None else min(values)
        high = self.end if self.end is not None else max(values)
        if self.logarithmic:
            low, high = max(low, 1e-9), max(high, 1e-9)
            widen = math.sqrt(LEAST_LOG_RANGE / min(LEAST_LOG_RANGE, high / low))
            low, high = low / widen, high * widen
            return _Scale(math.log10(low), math.log10(high), length, logarithmic=True)
        if high <= low:
            high = low + (abs(low) or 1.0)
        return _Scale(low, high, length, logarithmic=False)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    length: float
    logarithmic: bool

    def at(self, value: float) -> float:
        if self.logarithmic:
            value = math.log10(max(value, 1e-9))
        share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share)) * self.length

    def ticks(self) -> list[float]:
        if not self.logarithmic:
            return _round_ticks(self.low, self.high)
        wide, middle, narrow = (self._log_ticks(each) for each in ((1,), (1, 2, 5), range(1, 10)))
        if len(middle) > MOST_TICKS:
            return wide
        return middle if len(middle) >= LEAST_TICKS else narrow

    def _log_ticks(self, firsts: Sequence[int]) -> list[float]:
        values = (
            first * 10.0**power
            for power in range(math.floor(self.low), math.ceil(self.high) + 1)
            for first in firsts
        )
        return [each for each in values if self.low <= math.log10(each) <= self.high]


def _round_ticks(low: float, high: float) -> list[float]:
    """Returns four to six round numbers between two."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Returns a chart of lines."""
    return _chart(series, x, y, _line)


def scatter(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Returns a chart of points."""
    return _chart(series, x, y, _dots)


def marked(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Returns a chart of lines whose points can be told apart."""
    return _chart(series, x, y, lambda *given: _line(*given) + _marks(*given))


def bars(
    groups: Sequence[tuple[str, Sequence[float | None]]], names: Sequence[str], y: Axis
) -> str:
    """Returns a chart of horizontal bars: a group for each title, a bar for each name in it."""
    values = [each for _, group in groups for each in group if each is not None]
    if not values:
        return ""
    bar, space = 18, 14
    labels = 210
    height = sum(space + bar * sum(v is not None for v in group) for _, group in groups) + 8
    scale = Axis(y.title, y.shown, begin=0.0).scale([*values, 0.0], WIDTH - labels - 70)
    parts, top = [], 4.0
    for title, group in groups:
        count = sum(each is not None for each in group)
        middle = top + count * bar / 2 + 4
        parts.append(_text(labels - 10, middle, _short(title, 32), "end"))
        for colour, each in enumerate(group):
            if each is None:
                continue
            width = max(1.0, scale.at(each))
            parts.append(
                f'<rect class="s{colour % COLOURS} bar" x="{labels}" y="{top:.1f}" '
                f'width="{width:.1f}" height="{bar - 3}" rx="2"><title>'
                f"{escape(names[colour])}: {escape(y.shown(each))}</title></rect>"
            )
            parts.append(_text(labels + width + 6, top + bar - 7, y.shown(each), "start"))
            top += bar
        top += space
    return _legend(names, range(len(names))) + _svg("".join(parts), height)


def _chart(series: Sequence[Series], x: Axis, y: Axis, draw: Callable[..., str]) -> str:
    shown = [each for each in series if each.points]
    points = [point for each in shown for point in each.points]
    if not points:
        return '<p class="nothing">nothing was measured</p>'
    across = x.scale([point[0] for point in points], WIDTH - LEFT - RIGHT)
    up = y.scale([point[1] for point in points], HEIGHT - TOP - BOTTOM)
    parts = [_grid(across, up, x, y)]
    parts += [draw(each, across, up) for each in shown]
    legend = _legend([each.name for each in shown], [each.colour for each in shown])
    return (legend if len(shown) > 1 or shown[0].name else "") + _svg("".join(parts), HEIGHT)


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in y.ticks or up.ticks():
        at = bottom - up.at(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(_text(LEFT - 8, at + 4, y.shown(value), "end"))
    for value in x.ticks or across.ticks():
        at = LEFT + across.at(value)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        parts.append(_text(at, bottom + 17, x.shown(value), "middle"))
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    parts.append(_text((LEFT + right) / 2, HEIGHT - 6, x.title, "middle", "title"))
    parts.append(
        f'<text class="title" text-anchor="middle" transform="translate(13 '
        f'{(TOP + bottom) / 2:.0f}) rotate(-90)">{escape(y.title)}</text>'
    )
    return "".join(parts)


def _placed(series: Series, across: _Scale, up: _Scale) -> list[Point]:
    bottom = HEIGHT - BOTTOM
    return [(LEFT + across.at(a), bottom - up.at(b)) for a, b in series.points]


def _line(series: Series, across: _Scale, up: _Scale) -> str:
    placed = _placed(series, across, up)
    if series.step:  # from the ground up: one value alone is a line too
        placed.insert(0, (placed[0][0], HEIGHT - BOTTOM))
    path = f"M{placed[0][0]:.1f} {placed[0][1]:.1f}"
    for left, top in placed[1:]:
        path += f"H{left:.1f}V{top:.1f}" if series.step else f"L{left:.1f} {top:.1f}"
    return f'<path class="line {_class(series.colour)}" d="{path}"/>'


def _marks(series: Series, across: _Scale, up: _Scale) -> str:
    return "".join(
        f'<circle class="{_class(series.colour)} mark" cx="{left:.1f}" cy="{top:.1f}" r="4"/>'
        for left, top in _placed(series, across, up)
    )


def _dots(series: Series, across: _Scale, up: _Scale) -> str:
    path = "".join(f"M{left:.1f} {top:.1f}h0" for left, top in _placed(series, across, up))
    return f'<path class="dots {_class(series.colour)}" d="{path}"/>'


def _class(colour: int) -> str:
    return f"s{colour % COLOURS}" + (" dashed" if colour >= COLOURS else "")


def _legend(names: Sequence[str], colours: Sequence[int]) -> str:
    # Rounds of one phase have one name and one colour.
    items = "".join(
        f'<li><i class="s{colour % COLOURS}"></i>{escape(name)}</li>'
        for name, colour in dict.fromkeys(zip(names, colours, strict=True))
    )
    return f'<ul class="legend">{items}</ul>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _svg(content: str, height: float) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">{content}</svg>'
