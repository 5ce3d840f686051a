"""What a schema asks for as alternatives, each of them several plain schemas at once.

References are followed, `allOf` joins, `anyOf` and `oneOf` part. What is left has no keyword that
leads to another schema for the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from tokenwire_worker.engines.guides.schema.document import Part, Unsupported, target

MOST_ALTERNATIVES = 512
"""Alternatives of one value: combinations of `anyOf` multiply."""

MOST_STEPS = 20_000
"""Schemas that are gone through to read a whole document: some tenths of a second."""

_REFUSED = (
    *("dependentRequired", "dependentSchemas", "dependencies"),
    *("unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"),
)
"""Keywords that may refuse a value and that a grammar does not express."""

_Lists: TypeAlias = list[list[Part]]
Apart: TypeAlias = "Callable[[Reader, Part, list[Part]], list[Part]]"


class Reader:
    """Reads the alternatives of one document."""

    def __init__(self, document: Part, apart: Apart) -> None:
        """Reads nothing yet.

        Args:
            document: the whole schema.
            apart: returns the branches of a `oneOf` so that no value is valid for two of them.
        """
        self._document = document
        self._apart = apart
        self._steps = 0

    def alternatives(self, parts: list[Part]) -> list[list[Part]]:
        """Returns the alternatives of several schemas at once; none if no value is valid.

        Raises:
            Unsupported: a keyword is malformed or not supported.
        """
        return self._open([(each, frozenset()) for each in parts])

    def _open(self, waiting: list[tuple[Part, frozenset[str]]]) -> _Lists:
        """Returns the alternatives of schemas, each with the pointers that led to it."""
        plain: list[Part] = []
        seen: set[Part] = set()
        choices: list[tuple[list[Part], frozenset[str]]] = []
        while waiting:
            each, through = waiting.pop()
            self.count(each)
            if each.path in through:
                raise Unsupported(each.path, "a schema that leads to itself for the same value")
            if each in seen or each.value is True:
                continue
            seen.add(each)
            if each.value is False or _is_never(each):
                return []
            check(each)
            plain.append(each)
            through |= {each.path}
            reference = each.get("$ref", str, "a JSON pointer")
            if reference is not None:
                waiting.append((target(self._document, reference, each.at("$ref")), through))
            waiting += [(inner, through) for inner in each.parts("allOf")]
            choices += [(found, through) for found in self._choices(each)]
        return self._combined([plain], choices)

    def _choices(self, each: Part) -> Iterator[list[Part]]:
        any_of = each.parts("anyOf")
        if any_of:
            yield any_of
        one_of = each.parts("oneOf")
        if one_of:
            yield self._apart(self, each, one_of)

    def _combined(self, found: _Lists, choices: list[tuple[list[Part], frozenset[str]]]) -> _Lists:
        for branches, through in choices:
            opened = [more for each in branches for more in self._open([(each, through)])]
            if len(found) * len(opened) > MOST_ALTERNATIVES:
                raise Unsupported(branches[0].path, f"more than {MOST_ALTERNATIVES} alternatives")
            found = [_joined(some, more) for some in found for more in opened]
        return found

    def count(self, each: Part) -> None:
        """Counts a schema that is gone through.

        Raises:
            Unsupported: that makes too many.
        """
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise Unsupported(each.path, "the schema as a whole is too large or too entangled")


def _joined(some: list[Part], more: list[Part]) -> list[Part]:
    return list(dict.fromkeys((*some, *more)))


def _is_never(each: Part) -> bool:
    """Tells whether a schema is `not` of one that everything is valid for."""
    return "not" in each.value and each.value["not"] in ({}, True)


def check(each: Part) -> None:
    """Raises Unsupported where a schema has a keyword that no output can be held to."""
    for keyword in _REFUSED:
        if each.value.get(keyword, True) is not True:
            raise Unsupported(each.at(keyword), f"{keyword!r} is not supported")
    if "not" in each.value and each.value["not"] is not False and not _negates_never(each):
        raise Unsupported(each.at("not"), "'not' is not supported")
    for keyword in ("then", "else"):
        if "if" in each.value and each.value.get(keyword, True) is not True:
            raise Unsupported(each.at("if"), "'if' is not supported")
    if "$id" in each.value and each.path != "#":
        raise Unsupported(each.at("$id"), "'$id' is supported at the top only")
    if isinstance(each.value.get("items"), list):
        raise Unsupported(each.at("items"), "'items' takes a schema; a list is 'prefixItems'")


def _negates_never(each: Part) -> bool:
    return each.value["not"] in ({"not": {}}, {"not": True})
