"""JSON Schema to a grammar.

Whatever the grammar matches is valid for the schema; not everything that is valid is matched. Where
a schema leaves things open that a model would lose itself in, the grammar is narrower: properties
stand in the order of the schema, none are added unless the schema says so, and white space is one
space.
"""

from __future__ import annotations

from typing import Any

from tokenwire_worker.engines.guides.grammar.nodes import (
    EMPTY,
    NOTHING,
    Grammar,
    Node,
    Rule,
    Text,
    choice,
    optional,
    repeat,
    sequence,
)
from tokenwire_worker.engines.guides.schema.alternatives import Reader
from tokenwire_worker.engines.guides.schema.apart import told_apart
from tokenwire_worker.engines.guides.schema.document import Part, Unsupported, root
from tokenwire_worker.engines.guides.schema.members import Member, Members, TooMany
from tokenwire_worker.engines.guides.schema.numbers import numbers
from tokenwire_worker.engines.guides.schema.objects import Objects
from tokenwire_worker.engines.guides.schema.strings import strings
from tokenwire_worker.engines.guides.schema.texts import (
    COMMA,
    any_array,
    any_object,
    any_value,
    common_rules,
    written,
)
from tokenwire_worker.engines.guides.schema.values import TYPES, Validator, different, finite, types

MOST_RULES = 20_000
"""Rules of a grammar; schemas of everyday size make some tens."""

_OF_TYPE = {
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties"),
        *("propertyNames", "minProperties", "maxProperties"),
    ),
    "array": (
        *("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
        *("contains", "minContains", "maxContains"),
    ),
    "string": ("pattern", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""Keywords that say something about values of one type alone."""


def compiled(schema: str) -> Grammar:
    """Returns the grammar of a schema.

    Args:
        schema: its JSON text.

    Raises:
        Unsupported: it is malformed, or asks for what outputs cannot be held to.
    """
    return _Compiler(root(schema)).grammar()


def any_json_object() -> Grammar:
    """Returns the grammar of any object."""
    return Grammar(any_object(), common_rules())


class _Compiler:
    def __init__(self, document: Part) -> None:
        self._document = document
        self._reader = Reader(document, told_apart)
        self._validator = Validator(self._reader)
        self._rules = common_rules()
        self._names: dict[frozenset[Part], str] = {}
        """Rules of schemas that hold at once."""
        self._waiting: list[tuple[str, list[Part]]] = []

    def grammar(self) -> Grammar:
        top = self._values([self._document])
        while self._waiting:
            name, parts = self._waiting.pop()
            self._rules[name] = self._any_of(name, parts)
            if len(self._rules) > MOST_RULES:
                raise Unsupported("#", "the schema as a whole is too large")
        return Grammar(top, self._rules)

    def _values(self, parts: list[Part]) -> Node:
        """Returns the values that several schemas ask for at once."""
        parts = [each for each in parts if each.value is not True and each.value != {}]
        if not parts:
            return any_value()
        if any(each.value is False for each in parts):
            return NOTHING
        key = frozenset(parts)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"{parts[0].path} {len(self._names)}"
            self._waiting.append((name, parts))
        return Rule(name)

    def _any_of(self, name: str, parts: list[Part]) -> Node:
        alternatives = self._reader.alternatives(parts)
        return choice(self._all_of(f"{name} {at}", found) for at, found in enumerate(alternatives))

    def _all_of(self, name: str, parts: list[Part]) -> Node:
        """Returns the values that several plain schemas ask for at once."""
        listed = self._listed(parts)
        if listed is not None:
            return choice(written(value) for value in listed)
        kinds = _kinds(parts)
        if kinds is None:
            return any_value()
        return choice(self._of_kind(kind, name, parts) for kind in TYPES if kind in kinds)

    def _listed(self, parts: list[Part]) -> list[Any] | None:
        """Returns the valid ones of the values that schemas list, or None where they list none."""
        named = finite(parts)
        if named is None:
            return None
        return [
            value
            for value in named[0]
            if all(self._validator.is_left(value, each) for each in parts)
        ]

    def _of_kind(self, kind: str, name: str, parts: list[Part]) -> Node:
        if kind == "object":
            objects = Objects(parts, self._values, self._validator, self._reader.alternatives)
            return objects.node(self._rules, name)
        if kind == "array":
            return self._arrays(name, parts)
        if kind == "string":
            return strings(parts)
        if kind == "boolean":
            return choice([Text("true"), Text("false")])
        if kind == "null":
            return Text("null")
        return numbers(parts, whole=kind == "integer")

    # --- arrays ---

    def _arrays(self, name: str, parts: list[Part]) -> Node:
        for each in parts:
            if "contains" in each.value:
                raise Unsupported(each.at("contains"), "'contains' is not supported")
        leasts = [count for each in parts if (count := each.count("minItems")) is not None]
        mosts = [count for each in parts if (count := each.count("maxItems")) is not None]
        least, most = max(leasts, default=0), min(mosts, default=None)
        if most is not None and most < least:
            return NOTHING
        firsts = [each.parts("prefixItems") for each in parts]
        rest = [each.inner("items") for each in parts if "items" in each.value]
        unique = [each for each in parts if each.get("uniqueItems", bool, "true or false")]
        if unique and (most is None or most > 1):
            return self._unique(name, unique[0], rest, least, most, bool(max(map(len, firsts))))
        length = max(map(len, firsts))
        if not length and not rest and not least and most is None:
            return any_array()
        first = [self._values(_at(parts, firsts, at)) for at in range(length)]
        # After items that are told one by one, no more unless the schema says what they are.
        others = NOTHING if first and not rest else self._values(rest)
        return sequence(Text("["), _items(first, others, least, most), Text("]"))

    def _unique(
        self,
        name: str,
        each: Part,
        items: list[Part],
        least: int,
        most: int | None,
        has_first: bool,
    ) -> Node:
        """Returns arrays of different values, which stand in the order in which they are listed."""
        listed = [self._listed(parts) for parts in self._reader.alternatives(items)]
        if has_first or not items or None in listed:
            raise Unsupported(
                each.at("uniqueItems"), "supported where 'items' lists the values only"
            )
        values = different(value for some in listed for value in some or ())
        members = [Member(written(value), required=False) for value in values]
        try:
            inner = Members(self._rules, name, members, None).between(least, most)
        except TooMany as error:
            raise Unsupported(each.at("uniqueItems"), "too many values to be told apart") from error
        return sequence(Text("["), inner, Text("]"))


def _kinds(parts: list[Part]) -> set[str] | None:
    """Returns the types that values may have, or None where nothing says or implies any."""
    given = [allowed for each in parts if (allowed := types(each)) is not None]
    if not given:
        implied = {
            kind
            for kind, keywords in _OF_TYPE.items()
            if any(keyword in each.value for each in parts for keyword in keywords)
        }
        return implied or None
    kinds = set(TYPES)
    for allowed in given:
        kinds &= allowed | ({"integer"} if "number" in allowed else frozenset())
    return kinds - {"integer"} if "number" in kinds else kinds


def _at(parts: list[Part], firsts: list[list[Part]], at: int) -> list[Part]:
    """Returns the schemas of the item at a place."""
    return [
        first[at] if at < len(first) else each.inner("items")
        for each, first in zip(parts, firsts, strict=True)
        if at < len(first) or "items" in each.value
    ]


def _items(first: list[Node], others: Node, least: int, most: int | None) -> Node:
    """Returns items between commas: those told one by one, and the others after them."""
    count = len(first)
    if most is not None and most < count:
        first, others = first[:most], NOTHING
        count = most
    room = None if most is None else most - count
    missing = max(least - count, 0)
    if not count:
        return _others(others, missing, room)
    node = repeat(sequence(COMMA, others), missing, room)
    for at in range(count - 1, -1, -1):
        node = sequence(COMMA if at else EMPTY, first[at], node)
        if at >= least:
            node = optional(node)
    return node


def _others(others: Node, missing: int, room: int | None) -> Node:
    if room == 0:
        return NOTHING if missing else EMPTY
    top = None if room is None else room - 1
    some = sequence(others, repeat(sequence(COMMA, others), max(missing - 1, 0), top))
    return some if missing else optional(some)
