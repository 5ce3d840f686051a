"""Distributions of lengths (tokens, turns) and of times (seconds), written as short texts.

| text                | is                                                             |
|---------------------|----------------------------------------------------------------|
| `128`               | always 128                                                     |
| `uniform:64-256`    | any value between, with equal probability                      |
| `normal:512,128`    | mean and standard deviation                                    |
| `lognormal:512,0.6` | median, and standard deviation of the natural logarithm        |
| `file:lengths.txt`  | one of the file's numbers, one a line, with equal probability  |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from random import Random

FORMS = "N, uniform:LOW-HIGH, normal:MEAN,SD, lognormal:MEDIAN,SIGMA or file:PATH"


class Distribution:
    """Values of at least 0, drawn with a generator that the caller seeds."""

    def __init__(self, spec: str, draw: Callable[[Random], float], most: float) -> None:
        self.spec = spec
        """As it was written."""
        self.most = most
        """The largest value; math.inf where it is unbounded."""
        self._draw = draw

    def draw(self, random: Random) -> float:
        """Returns a value, at least 0."""
        return max(0.0, self._draw(random))

    def count(self, random: Random) -> int:
        """Returns a whole number, at least 1."""
        return max(1, round(self._draw(random)))


def distribution(spec: str) -> Distribution:
    """Returns the distribution that a text describes.

    Raises:
        ValueError: the text describes none; its words say why.
    """
    kind, given, rest = spec.partition(":")
    if not given:
        value = _number(spec, spec)
        return Distribution(spec, lambda _: value, value)
    if kind == "uniform":
        low, high = _pair(spec, rest, "-")
        if low > high:
            raise ValueError(f"{spec!r}: {low:g} is above {high:g}")
        return Distribution(spec, lambda random: random.uniform(low, high), high)
    if kind == "normal":
        mean, deviation = _pair(spec, rest, ",")
        return Distribution(spec, lambda random: random.gauss(mean, deviation), math.inf)
    if kind == "lognormal":
        median, sigma = _pair(spec, rest, ",")
        if not median:
            raise ValueError(f"{spec!r}: the median must be above 0")
        mu = math.log(median)
        return Distribution(spec, lambda random: random.lognormvariate(mu, sigma), math.inf)
    if kind == "file":
        values = _file(rest)
        return Distribution(spec, lambda random: random.choice(values), max(values))
    raise ValueError(f"{spec!r} is not {FORMS}")


def _number(spec: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{spec!r} is not {FORMS}")
    return value


def _pair(spec: str, rest: str, separator: str) -> tuple[float, float]:
    first, _, second = rest.partition(separator)
    return _number(spec, first), _number(spec, second)


def _file(path: str) -> list[float]:
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        values = [_number(line, line) for line in lines]
    except ValueError:
        raise ValueError(f"{path}: every line must be a number of at least 0") from None
    if not values:
        raise ValueError(f"{path}: the file has no number")
    return values
