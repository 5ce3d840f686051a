"""`oneOf`: that no value is valid for two of its branches.

A grammar can say "one of these", not "and none of the others". So branches have to exclude each
other: by type, by values, by the bounds of numbers, or as objects by a property that all of them
ask for. Where branches only describe such a property, as Pydantic does for one with a default, it
is asked for.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from tokenwire_worker.engines.guides.schema.alternatives import Reader
from tokenwire_worker.engines.guides.schema.document import Part, Unsupported
from tokenwire_worker.engines.guides.schema.values import TYPES, Validator, finite, types

DEEPEST = 3
"""Properties within properties that are looked at."""


def told_apart(reader: Reader, each: Part, branches: list[Part]) -> list[Part]:
    """Returns the branches of a `oneOf` as schemas that exclude each other.

    Args:
        reader: reads the document.
        each: the schema with the `oneOf`.
        branches: its branches.

    Raises:
        Unsupported: it is not known how.
    """
    tests = _Tests(reader)
    if tests.all_apart(branches):
        return branches
    for name in tests.common_names(branches):
        asking = [_asking(branch, name) for branch in branches]
        if tests.all_apart(asking):
            return asking
    raise Unsupported(
        each.at("oneOf"), "'oneOf' is supported where its branches exclude each other plainly"
    )


def _asking(branch: Part, name: str) -> Part:
    """Returns a branch that asks for a property."""
    value = branch.value if isinstance(branch.value, dict) else {}
    names = [*(branch.get("required", list, "a list of names") or ()), name] if value else [name]
    return Part(branch.path, {**value, "required": names}, name)


class _Tests:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._validator = Validator(reader)

    def all_apart(self, branches: list[Part]) -> bool:
        opened = [self._reader.alternatives([branch]) for branch in branches]
        return all(
            self._are_apart(one, other, DEEPEST)
            for some, others in combinations(opened, 2)
            for one in some
            for other in others
        )

    def common_names(self, branches: list[Part]) -> list[str]:
        """Returns the names of properties that all branches describe."""
        found: dict[str, int] = {}
        opened = [self._reader.alternatives([branch]) for branch in branches]
        for alternatives in opened:
            for name in _described(alternatives):
                found[name] = found.get(name, 0) + 1
        return [name for name, count in found.items() if count == len(branches)]

    def _are_apart(self, one: list[Part], other: list[Part], depth: int) -> bool:
        """Tells whether it is certain that no value is valid for both."""
        for each in one[:1]:
            self._reader.count(each)
        for some, others in ((one, other), (other, one)):
            named = finite(some)
            if named is not None:
                return not any(self._is_valid(value, some, others) for value in named[0])
        kinds = _kinds(one) & _kinds(other)
        return all(self._is_apart_as(kind, one, other, depth) for kind in kinds)

    def _is_valid(self, value: Any, some: list[Part], others: list[Part]) -> bool:
        return all(self._validator.is_left(value, each) for each in some) and (
            self._validator.is_valid(value, others)
        )

    def _is_apart_as(self, kind: str, one: list[Part], other: list[Part], depth: int) -> bool:
        if kind == "number":
            return _gap(one, other) or _gap(other, one)
        if kind == "object" and depth:
            names = _asked_for(one) & _asked_for(other)
            return any(self._are_properties_apart(name, one, other, depth) for name in names)
        return False

    def _are_properties_apart(
        self, name: str, one: list[Part], other: list[Part], depth: int
    ) -> bool:
        inner = [
            [each.inner("properties", name) for each in some if name in each.names("properties")]
            for some in (one, other)
        ]
        return all(
            self._are_apart(left, right, depth - 1)
            for left in self._reader.alternatives(inner[0])
            for right in self._reader.alternatives(inner[1])
        )


def _kinds(parts: list[Part]) -> set[str]:
    """Returns the types that values may have; integers are numbers."""
    kinds = set(TYPES) - {"integer"}
    for each in parts:
        allowed = types(each)
        if allowed is not None:
            kinds &= {"number" if name == "integer" else name for name in allowed}
    return kinds


def _described(alternatives: list[list[Part]]) -> set[str]:
    sets = [{name for each in some for name in each.names("properties")} for some in alternatives]
    return set.intersection(*sets) if sets else set()


def _asked_for(parts: list[Part]) -> set[str]:
    return {name for each in parts for name in each.get("required", list, "a list of names") or []}


def _gap(lower: list[Part], upper: list[Part]) -> bool:
    """Tells whether all numbers of the one are below all of the other."""
    tops = [
        value
        for each in lower
        for keyword in ("maximum", "exclusiveMaximum")
        if (value := each.get(keyword, (int, float), "a number")) is not None
    ]
    bottoms = [
        value
        for each in upper
        for keyword in ("minimum", "exclusiveMinimum")
        if (value := each.get(keyword, (int, float), "a number")) is not None
    ]
    return bool(tops and bottoms) and min(tops) < max(bottoms)
