"""A JSON Schema as a document: its parts by their JSON pointers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

LONGEST_INTEGER = 1000
"""Characters of a number: reading one takes time that grows with its square."""

DEEPEST = 128
"""Arrays and objects of a schema within one another: what follows them may call itself."""


class Unsupported(Exception):  # noqa: N818 - it says what the schema is
    """A schema that is malformed, or asks for what outputs cannot be held to."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{reason}, at {path}")
        self.path = path
        """JSON pointer of the keyword, from `#`."""
        self.reason = reason


@dataclass(frozen=True)
class Part:
    """A schema within the document; equal to another where the pointers are."""

    path: str
    """JSON pointer, from `#`."""
    value: Any = field(compare=False)
    """The schema as read from JSON: true, false or an object."""
    asked: str = ""
    """A property that is asked for besides."""

    def at(self, *steps: str | int) -> str:
        """Returns the pointer of something within."""
        return "/".join((self.path, *map(_step, steps)))

    def inner(self, *steps: str | int) -> Part:
        """Returns a schema within.

        Raises:
            Unsupported: there is none.
        """
        value = self.value
        for step in steps:
            value = value[step]
        return part(self.at(*steps), value)

    def get(self, keyword: str, kind: type | tuple[type, ...], what: str) -> Any:
        """Returns the value of a keyword, or None without it.

        Raises:
            Unsupported: it is not of the kind.
        """
        value = self.value.get(keyword)
        if value is None and keyword not in self.value:
            return None
        # In Python, but not in JSON, true and false are integers.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Unsupported(self.at(keyword), f"{keyword!r} takes {what}")
        return value

    def count(self, keyword: str) -> int | None:
        """Returns the value of a keyword that counts, or None without it.

        Raises:
            Unsupported: it is no whole number from 0.
        """
        value = self.get(keyword, (int, float), "a whole number from 0")
        if value is None:
            return None
        if value < 0 or not math.isfinite(value) or value != int(value):
            raise Unsupported(self.at(keyword), f"{keyword!r} takes a whole number from 0")
        return int(value)

    def parts(self, keyword: str) -> list[Part]:
        """Returns the schemas of a keyword that takes a list of them; none without it.

        Raises:
            Unsupported: it is something else.
        """
        found = self.get(keyword, list, "a list of schemas")
        if found == [] and keyword != "prefixItems":
            raise Unsupported(self.at(keyword), f"{keyword!r} takes at least one schema")
        return [self.inner(keyword, index) for index in range(len(found or ()))]

    def names(self, keyword: str) -> list[str]:
        """Returns the names of a keyword that takes an object of schemas; none without it.

        Raises:
            Unsupported: it is something else.
        """
        names = list(self.get(keyword, dict, "an object of schemas") or ())
        for name in names:
            check_text(name, self.at(keyword))
        return names


def part(path: str, value: Any) -> Part:
    """Returns a schema at a pointer; raises Unsupported where there is none."""
    if not isinstance(value, dict | bool):
        raise Unsupported(path, "a schema is an object, true or false")
    return Part(path, value)


def root(text: str) -> Part:
    """Reads a schema.

    Raises:
        Unsupported: the text is no JSON, or no schema.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise Unsupported("#", f"not valid JSON: {str(error)[:100]}") from error
    if _depth(value) > DEEPEST:
        raise Unsupported("#", f"nested more than {DEEPEST} deep")
    return part("#", value)


def _depth(value: Any) -> int:
    """Returns how many arrays and objects lie within one another."""
    depth, level = 0, [value]
    while level:
        inner = [each for each in level if isinstance(each, dict | list)]
        if not inner:
            return depth
        depth += 1
        level = [
            more for each in inner for more in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


def target(document: Part, reference: str, at: str) -> Part:
    """Returns what a `$ref` refers to.

    Args:
        document: the whole schema.
        reference: the keyword's value.
        at: pointer of the keyword.

    Raises:
        Unsupported: it is not in the document.
    """
    if reference != "#" and not reference.startswith("#/"):
        raise Unsupported(at, "'$ref' takes a JSON pointer into the schema itself")
    value, path = document.value, "#"
    for step in reference.split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        value = _entered(value, name)
        if value is None:
            raise Unsupported(at, "'$ref' refers to nothing in the schema")
        path = f"{path}/{_step(name)}"
    return part(path, value)


def _entered(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, list) and name.isascii() and name.isdecimal() and int(name) < len(value):
        return value[int(name)]
    return None


def check_text(value: Any, path: str) -> None:
    """Raises Unsupported where a value holds a text that no UTF-8 text can hold."""
    for text in _texts(value):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise Unsupported(path, "half of a surrogate pair is in no output")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _step(step: str | int) -> str:
    return str(step).replace("~", "~0").replace("/", "~1")


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise Unsupported("#", f"a number has {len(digits)} digits; at most {LONGEST_INTEGER}")
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
