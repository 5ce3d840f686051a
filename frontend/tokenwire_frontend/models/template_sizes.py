"""What a template makes is checked before it is made: no text or list is larger than any prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import jinja2

SIZE_LIMIT = 8 * 2**20
"""Characters of a text, or elements of a list, that a template may make: twice the largest request,
so that quoting all of one in JSON passes."""

NUMBER_BITS_LIMIT = 4096
"""Bits of a whole number that `*` or `**` may make; a template needs 64."""

INDENT_LIMIT = 64
"""Characters of `tojson`'s indent, and of each of its separators."""

PARTS_LIMIT = 100_000
"""Parts that `batch` and `slice` may make, as `range` in Jinja's sandbox."""


class TooLargeError(jinja2.TemplateRuntimeError):
    """The template makes something larger than any prompt."""


def check_format(form: str, values: tuple[Any, ...], mark: str, characters: int) -> None:
    """Checks a format: its widths, those among the values, and all values at each mark.

    Args:
        form: the format.
        values: what it is given.
        mark: what a field begins with: `%` or `{`.
        characters: of the values' texts.
    """
    if mark == "%":
        fields = form if "%(" in form else " ".join(_PERCENT_FIELD.findall(form))
    else:
        fields = form if _NESTED_FIELD.search(form) else " ".join(_FIELD.findall(form))
    widths = sum(int(digits[:12]) for digits in _DIGITS.findall(fields))
    if mark == "%" and "*" in form:
        widths += sum(abs(each) for each in values if isinstance(each, int))
    elif mark == "{" and fields is form:  # a width may be put together of several values
        widths = 10 ** min(len("".join(_DIGITS.findall(form + str(values)))), 12)
    bounded(len(form) + widths)
    bounded(form.count(mark) * characters // 4)  # rarely is each value at each mark


def bounded(size: int) -> None:
    """Raises TooLargeError where a text or list of this size is more than any prompt may have."""
    if size > SIZE_LIMIT:
        raise TooLargeError(f"makes a text or list of {size} elements; at most {SIZE_LIMIT}")


def check_product(left: Any, right: Any) -> None:
    """Checks what `*` makes."""
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > NUMBER_BITS_LIMIT:
            raise TooLargeError("makes a number that is too large")
    elif isinstance(left, (str, list, tuple)) and isinstance(right, int):
        bounded(len(left) * right)
    elif isinstance(right, (str, list, tuple)) and isinstance(left, int):
        bounded(len(right) * left)


def check_power(base: Any, exponent: Any) -> None:
    """Checks what `**` makes."""
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and base.bit_length() * abs(exponent) > NUMBER_BITS_LIMIT:
        raise TooLargeError("makes a number that is too large")


def _replaced(text: str, old: str, new: str, *_count: Any) -> int:
    return len(text) + text.count(old) * max(len(new) - len(old), 0)


def _width(text: str, width: int = 0, *_fill: Any) -> int:
    return max(len(text), int(width))


def _check_indent(_: Any, text: Any, width: int | str = 4, *_rest: Any, **_options: Any) -> None:
    added = width if isinstance(width, int) else len(width)
    bounded(len(str(text)) + (str(text).count("\n") + 1) * added)


def _check_parts(_: Any, _value: Any, parts: int = 0, *_rest: Any, **options: Any) -> None:
    count = options.get("linecount", options.get("slices", parts))
    if isinstance(count, (int, float)) and count > PARTS_LIMIT:
        raise TooLargeError(f"asks for {count} parts; at most {PARTS_LIMIT}")


def _check_wrap(_: Any, *args: Any, wrapstring: str | None = None, **_options: Any) -> None:
    wrap = wrapstring or (args[3] if len(args) > 3 else None) or ""
    bounded(len(str(args[0])) * (len(wrap) + 1))


def _check_replace(_: Any, text: Any, old: Any = "", new: Any = "", *_rest: Any, **_o: Any) -> None:
    bounded(_replaced(str(text), str(_o.get("old", old)), str(_o.get("new", new))))


def to_json(
    value: Any,
    ensure_ascii: Any = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: Any = False,
) -> str:
    """The filter `tojson`, in the signature that transformers gives it."""
    # Jinja's own filter escapes <, > and &, which a model would read literally.
    widths = [len(indent) if isinstance(indent, str) else indent or 0, *map(len, separators or ())]
    if max(widths) > INDENT_LIMIT:
        raise TooLargeError(f"indents or separates by more than {INDENT_LIMIT}")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


_DIGITS = re.compile(r"\d+")
_PERCENT_FIELD, _FIELD = re.compile(r"%[-+ #0-9.*]*"), re.compile(r"\{[^}]*")
_NESTED_FIELD = re.compile(r"\{[^{}]*\{")


def _longest(table: Any) -> int:
    values = table.values() if isinstance(table, dict) else table
    return max((len(each) for each in values if isinstance(each, str)), default=1)


METHOD_SIZES: dict[str, Callable[..., int]] = {
    "replace": _replaced,
    "center": _width,
    "ljust": _width,
    "rjust": _width,
    "zfill": _width,
    "expandtabs": lambda text, tabsize=8: len(text) + text.count("\t") * int(tabsize),
    "translate": lambda text, table: len(text) * _longest(table),
}
"""Methods of texts that make a larger one: the most characters of their result."""

FILTER_CHECKS: dict[str, Callable[..., None]] = {
    "center": lambda _, text, width=80: bounded(_width(str(text), width)),
    "indent": _check_indent,
    "replace": _check_replace,
    "batch": _check_parts,
    "slice": _check_parts,
    "wordwrap": _check_wrap,
    "format": lambda environment, form, *args, **kwargs: check_format(
        str(form), (*args, kwargs), "%", environment.weigh((*args, kwargs))
    ),
}
"""Filters that make something larger: what checks the environment and the arguments first."""
