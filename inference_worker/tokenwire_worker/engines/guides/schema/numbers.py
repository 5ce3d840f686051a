"""Numbers within bounds, digit by digit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tokenwire_worker.engines.guides.grammar.characters import DIGITS, ranges
from tokenwire_worker.engines.guides.grammar.nodes import (
    EMPTY,
    NOTHING,
    Characters,
    Node,
    Text,
    choice,
    optional,
    repeat,
    sequence,
)
from tokenwire_worker.engines.guides.schema.document import Part, Unsupported
from tokenwire_worker.engines.guides.schema.texts import INTEGER, NUMBER, WHOLE_DIGITS

SIGNIFICANT_DIGITS = 15
"""Digits of a bounded number. Two different numbers of so many digits are different as numbers of
64 bits as well, so that a bound that is excluded is not met by rounding."""

MOST_MULTIPLES = 1000
"""Multiples within bounds, which are written out."""

HIGHEST_EXPONENT = 60
"""Digits of a bound before and after its point."""

_DIGIT = Characters(DIGITS)


@dataclass(frozen=True)
class Bound:
    """One side of a range."""

    value: Decimal
    excluded: bool
    at: str
    """Pointer of the keyword."""


def numbers(parts: list[Part], *, whole: bool) -> Node:
    """Returns the numbers that several schemas ask for at once.

    Args:
        parts: the schemas.
        whole: integers only.

    Raises:
        Unsupported: a bound is malformed, or one that outputs cannot be held to.
    """
    least = _bound(parts, "minimum", "exclusiveMinimum", lowest=True)
    most = _bound(parts, "maximum", "exclusiveMaximum", lowest=False)
    step, at = _step(parts)
    if step:
        return _multiples(least, most, step, at)
    if least is None and most is None:
        return INTEGER if whole else NUMBER
    places = 0 if whole else _places(least, most)
    low = None if least is None else _scaled(least, places, 1)
    high = None if most is None else _scaled(most, places, -1)
    return between(low, high, places)


# --- bounds --------------------------------------------------------------------------------------


def _bound(parts: list[Part], keyword: str, excluding: str, *, lowest: bool) -> Bound | None:
    """Returns the narrowest of several bounds; among equals, one that excludes its value."""
    found = [
        Bound(_decimal(value), name == excluding, each.at(name))
        for each in parts
        for name in (keyword, excluding)
        if (value := each.get(name, (int, float), "a number")) is not None
    ]
    if not found:
        return None
    sign = 1 if lowest else -1
    bound = max(found, key=lambda each: (sign * each.value, each.excluded))
    if not bound.value:
        return bound
    # What is beyond what outputs hold bounds nothing, and nothing is beyond it.
    if bound.value.adjusted() > HIGHEST_EXPONENT:
        if (bound.value < 0) == lowest:
            return None
        raise Unsupported(bound.at, f"numbers have up to {HIGHEST_EXPONENT} digits")
    return bound


def _decimal(value: float) -> Decimal:
    # The shortest text of a number is the one that was meant; 0.1 is not quite 0.1 in 64 bits.
    if isinstance(value, float) and not math.isfinite(value):
        return Decimal("1e999").copy_sign(Decimal(value))
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def _places(least: Bound | None, most: Bound | None) -> int:
    """Returns how many digits there are after the point."""
    bounds = [each.value for each in (least, most) if each is not None and each.value]
    digits = max((value.adjusted() + 1 for value in bounds), default=1)
    return min(max(SIGNIFICANT_DIGITS - digits, 0), HIGHEST_EXPONENT)


def _scaled(bound: Bound, places: int, inward: int) -> int:
    """Returns the bound itself, or the next number with so many places within, times 10**places."""
    exact = Fraction(bound.value) * 10**places
    number: int = math.ceil(exact) if inward > 0 else math.floor(exact)
    if bound.excluded:
        edge = float(bound.value)
        if number == exact:
            number += inward
        # Only a number with a point is rounded when it is read.
        while places and float(Fraction(number, 10**places)) == edge:
            number += inward
    return number


# --- multiples -----------------------------------------------------------------------------------


def _step(parts: list[Part]) -> tuple[int, str]:
    """Returns what numbers are multiples of, 0 for none, and where that is asked for."""
    step, at = 0, ""
    for each in parts:
        value: Any = each.get("multipleOf", (int, float), "a number above 0")
        if value is None:
            continue
        at = each.at("multipleOf")
        if value <= 0:
            raise Unsupported(at, "'multipleOf' takes a number above 0")
        if not math.isfinite(value) or value != int(value):
            raise Unsupported(at, "'multipleOf' is supported for whole numbers only")
        step = math.lcm(step or 1, int(value))
    return step, at


def _multiples(least: Bound | None, most: Bound | None, step: int, at: str) -> Node:
    if least is None or most is None:
        if step == 1:
            low = None if least is None else _scaled(least, 0, 1)
            return between(low, None if most is None else _scaled(most, 0, -1), 0)
        raise Unsupported(at, "'multipleOf' is supported between a minimum and a maximum only")
    low, high = -(-_scaled(least, 0, 1) // step), _scaled(most, 0, -1) // step
    if step == 1:
        return between(low, high, 0)
    if high - low >= MOST_MULTIPLES:
        raise Unsupported(at, f"'multipleOf' is supported for up to {MOST_MULTIPLES} numbers")
    return choice(Text(str(number * step)) for number in range(low, high + 1))


# --- digits --------------------------------------------------------------------------------------


def between(low: int | None, high: int | None, places: int) -> Node:
    """Returns the numbers of a range, as whole numbers of 10**-places; None is no bound.

    Zeros at the end may be left out, those at the beginning have to. There is no minus zero.
    """
    if low is not None and high is not None and low > high:
        return NOTHING
    ways = []
    if high is None or high >= 0:
        ways.append(_from_zero(max(low or 0, 0), high, places))
    if low is None or low < 0:
        nearest = max(1, -high if high is not None else 1)
        ways.append(sequence(Text("-"), _from_zero(nearest, None if low is None else -low, places)))
    return choice(ways)


def _from_zero(low: int, high: int | None, places: int) -> Node:
    """Returns the numbers of a range from 0."""
    shortest = len(str(low // 10**places))
    longest = max(shortest + 1, WHOLE_DIGITS) if high is None else len(str(high // 10**places))
    ways = []
    for digits in range(shortest, longest + 1):
        first = 10 ** (digits - 1 + places) if digits > 1 else 0
        last = 10 ** (digits + places) - 1
        if first >= low and (high is None or last <= high) and digits > 1:
            continue
        bottom, top = max(first, low), last if high is None else min(last, high)
        ways.append(_Digits(bottom, top, digits, places).node())
    # Between the shortest and the longest numbers any digits will do.
    free = [n for n in range(max(shortest, 2), longest + 1) if _is_free(n, low, high, places)]
    if free:
        head = Characters(ranges([(ord("1"), ord("9"))]))
        digits_left = repeat(_DIGIT, free[0] - 1, free[-1] - 1)
        ways.append(sequence(head, digits_left, _fraction(places)))
    return choice(ways)


def _is_free(digits: int, low: int, high: int | None, places: int) -> bool:
    return 10 ** (digits - 1 + places) >= low and (
        high is None or 10 ** (digits + places) - 1 <= high
    )


def _fraction(places: int) -> Node:
    """Returns up to so many digits after a point, or nothing."""
    return optional(sequence(Text("."), repeat(_DIGIT, 1, places))) if places else EMPTY


class _Digits:
    """The numbers of a range that have the same count of digits before the point."""

    def __init__(self, low: int, high: int, digits: int, places: int) -> None:
        self._low, self._high = str(low).zfill(digits + places), str(high).zfill(digits + places)
        self._digits = digits
        self._places = places

    def node(self) -> Node:
        return self._from(0, low=True, high=True)

    def _from(self, at: int, *, low: bool, high: bool) -> Node:
        """Returns what may follow from a digit on.

        Args:
            at: the digit, from 0.
            low: the digits before are the lowest number's.
            high: the digits before are the highest number's.
        """
        # Zeros bound nothing from below, and nines nothing from above.
        low = low and self._low[at:].strip("0") != ""
        high = high and self._high[at:].strip("9") != ""
        if not low and not high:
            return self._free(at)
        if at == len(self._low):
            return EMPTY
        more = self._next(at, low=low, high=high)
        if at < self._digits:
            return more
        if at == self._digits:
            more = sequence(Text("."), more)
        # Digits that are left out are zeros, which are no more than the highest number's.
        return more if low else optional(more)

    def _free(self, at: int) -> Node:
        if at < self._digits:
            left = self._digits - at
            return sequence(repeat(_DIGIT, left, left), _fraction(self._places))
        if at == self._digits:
            return _fraction(self._places)
        return repeat(_DIGIT, 0, self._digits + self._places - at)

    def _next(self, at: int, *, low: bool, high: bool) -> Node:
        first = int(self._low[at]) if low else 0
        last = int(self._high[at]) if high else 9
        if first == last:
            return sequence(Text(str(first)), self._from(at + 1, low=low, high=high))
        ways = []
        if low:
            ways.append(sequence(Text(str(first)), self._from(at + 1, low=True, high=False)))
            first += 1
        if high:
            ways.append(sequence(Text(str(last)), self._from(at + 1, low=False, high=True)))
            last -= 1
        if first <= last:
            inner = Characters(ranges([(ord(str(first)), ord(str(last)))]))
            ways.append(sequence(inner, self._from(at + 1, low=False, high=False)))
        return choice(ways)
