"""Objects: which properties, in which order, and their values."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import TypeAlias

from tokenwire_worker.engines.guides.grammar.nodes import (
    NOTHING,
    Node,
    Text,
    choice,
    sequence,
)
from tokenwire_worker.engines.guides.schema.document import Part, Unsupported, check_text
from tokenwire_worker.engines.guides.schema.members import Member, Members, TooMany
from tokenwire_worker.engines.guides.schema.strings import is_match, pattern, strings
from tokenwire_worker.engines.guides.schema.texts import (
    COLON,
    any_object,
    member,
    name_other_than,
    quoted,
)
from tokenwire_worker.engines.guides.schema.values import Validator, finite, of_name, types

Values: TypeAlias = Callable[[list[Part]], Node]
"""Returns the values that several schemas ask for at once."""


class Objects:
    """The objects that several schemas ask for at once."""

    def __init__(
        self,
        parts: list[Part],
        values: Values,
        validator: Validator,
        alternatives: Callable[[list[Part]], list[list[Part]]],
    ) -> None:
        self._parts = parts
        self._values = values
        self._validator = validator
        self._alternatives = alternatives
        self._keys = [
            each.inner("propertyNames") for each in parts if "propertyNames" in each.value
        ]
        self._patterns = [(each, of) for each in parts for of in each.names("patternProperties")]
        self._required = self._required_names()
        self._names = self._all_names()

    def node(self, rules: dict[str, Node], name: str) -> Node:
        """Returns the objects.

        Args:
            rules: where rules are added.
            name: begins their names.

        Raises:
            Unsupported: a keyword is malformed, or one that outputs cannot be held to.
        """
        least, most = self._counts()
        others = self._others()
        if not self._names and not self._parts_say_anything() and not least and most is None:
            return any_object()
        members = [
            Member(member(each, self._value(each)), each in self._required) for each in self._names
        ]
        try:
            inner = Members(rules, name, members, others).between(least, most)
        except TooMany as error:
            at = self._first_with("maxProperties", "minProperties")
            raise Unsupported(at, "too many properties to be counted") from error
        return sequence(Text("{"), inner, Text("}"))

    # --- names ---

    def _required_names(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for each in self._parts:
            for name in each.get("required", list, "a list of names") or []:
                if not isinstance(name, str):
                    raise Unsupported(each.at("required"), "'required' takes a list of names")
                check_text(name, each.at("required"))
                found.setdefault(name, each.at("required"))
        return found

    def _all_names(self) -> list[str]:
        """Returns the names of properties in the order of the output."""
        names = [name for each in self._parts for name in each.names("properties")]
        for key in self._keys:
            for alternative in self._alternatives([key]):
                named = finite(alternative)
                names += [name for name in (named[0] if named else ()) if isinstance(name, str)]
        found = dict.fromkeys((*names, *self._required))
        return [name for name in found if self._is_name(name)]

    def _is_name(self, name: str) -> bool:
        if self._validator.is_valid(name, self._keys):
            return True
        # An object without it is not valid, and with it neither.
        return name in self._required

    def _value(self, name: str) -> Node:
        if not self._validator.is_valid(name, self._keys):
            return NOTHING
        return self._values([found for each in self._parts for found in of_name(each, name)])

    # --- other properties ---

    def _others(self) -> Node | None:
        """Returns the properties that may stand after those that are named, if any."""
        if self._keys and self._are_keys_listed():
            return None
        if self._patterns:
            return self._matching()
        if not self._is_open():
            return None
        additional = [
            each.inner("additionalProperties")
            for each in self._parts
            if "additionalProperties" in each.value
        ]
        if not self._keys:
            return sequence(name_other_than(set(self._names)), COLON, self._values(additional))
        ways = []
        for alternative in self._key_alternatives():
            # The last of two properties of one name counts, so it is to suit both.
            twice = [
                found
                for name in self._names
                for each in self._parts
                for found in of_name(each, name)
            ]
            ways.append(sequence(strings(alternative), COLON, self._values([*additional, *twice])))
        return choice(ways)

    def _are_keys_listed(self) -> bool:
        return all(finite(found) is not None for found in self._key_alternatives())

    def _key_alternatives(self) -> list[list[Part]]:
        """Returns what names may be, of which all are strings."""
        return [
            found
            for found in self._alternatives(self._keys)
            if all("string" in (types(each) or ("string",)) for each in found)
        ]

    def _is_open(self) -> bool:
        """Tells whether there may be properties that no schema names."""
        given = [each for each in self._parts if "additionalProperties" in each.value]
        if any(each.value["additionalProperties"] is False for each in given):
            return False
        return bool(given) or not any(each.names("properties") for each in self._parts)

    def _matching(self) -> Node:
        """Returns the properties whose names match a pattern."""
        for (_, one), (each, other) in combinations(self._patterns, 2):
            if one != other and not _are_prefixes_apart(one, other):
                at = each.at("patternProperties", other)
                raise Unsupported(at, "patterns of names have to begin with different texts")
        if self._keys:
            at = self._first_with("propertyNames")
            raise Unsupported(at, "'propertyNames' beside 'patternProperties' is not supported")
        ways = []
        for of in dict.fromkeys(of for _, of in self._patterns):
            at = next(
                each.at("patternProperties", of) for each, mine in self._patterns if mine == of
            )
            inner: list[Part] = []
            for each in self._parts:
                if of in each.names("patternProperties"):
                    inner.append(each.inner("patternProperties", of))
                elif "additionalProperties" in each.value:
                    inner.append(each.inner("additionalProperties"))
            # The last of two properties of one name counts, so it is to suit both.
            for name in self._names:
                if is_match(name, of, at):
                    inner += [found for each in self._parts for found in of_name(each, name)]
            ways.append(sequence(quoted(pattern(of, at)), COLON, self._values(inner)))
        return choice(ways)

    # --- counts ---

    def _counts(self) -> tuple[int, int | None]:
        leasts = [n for each in self._parts if (n := each.count("minProperties")) is not None]
        mosts = [n for each in self._parts if (n := each.count("maxProperties")) is not None]
        return max(leasts, default=0), min(mosts, default=None)

    def _first_with(self, *keywords: str) -> str:
        return next(
            each.at(keyword)
            for keyword in keywords
            for each in self._parts
            if keyword in each.value
        )

    def _parts_say_anything(self) -> bool:
        said = ("properties", "additionalProperties", "patternProperties", "propertyNames")
        return any(keyword in each.value for each in self._parts for keyword in said)


def _are_prefixes_apart(one: str, other: str) -> bool:
    """Tells whether two patterns begin with texts of which neither begins with the other."""
    prefixes = []
    for each in (one, other):
        if not each.startswith("^"):
            return False
        literal = ""
        for character in each[1:]:
            if not (character.isalnum() or character in "_-: @"):
                break
            literal += character
        # What follows the last character may make it optional.
        prefixes.append(literal if len(literal) == len(each) - 1 else literal[:-1])
    first, second = prefixes
    return not first.startswith(second) and not second.startswith(first)
