"""Whether a value that a schema names, in `enum` or `const`, is valid for other schemas."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from decimal import Decimal
from typing import Any

from tokenwire_worker.engines.guides.schema.alternatives import Reader
from tokenwire_worker.engines.guides.schema.document import Part, Unsupported, check_text
from tokenwire_worker.engines.guides.schema.strings import is_match

TYPES = ("null", "boolean", "object", "array", "number", "integer", "string")


def finite(parts: list[Part]) -> tuple[list[Any], str] | None:
    """Returns the values that `enum` and `const` leave, and where; None without them.

    Raises:
        Unsupported: a keyword is malformed.
    """
    found: list[Any] | None = None
    path = ""
    for each in parts:
        for values, at in _named(each):
            check_text(values, at)
            among = set(map(identity, values))
            kept = different(values if found is None else found)
            kept = [value for value in kept if identity(value) in among]
            found, path = kept, path or at
    return None if found is None else (found, path)


def _named(each: Part) -> list[tuple[list[Any], str]]:
    named = []
    values = each.get("enum", list, "a list of values")
    if values is not None:
        named.append((values, each.at("enum")))
    if "const" in each.value:
        named.append(([each.value["const"]], each.at("const")))
    for values, at in named:
        if any(isinstance(value, float) and not math.isfinite(value) for value in values):
            raise Unsupported(at, "a number is too large")
    return named


def identity(value: Any) -> Hashable:
    """Returns what is equal for equal values of JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, list):
        return tuple(map(identity, value))
    if isinstance(value, dict):
        return frozenset((name, identity(inner)) for name, inner in value.items())
    return isinstance(value, bool), value


def different(values: Iterable[Any]) -> list[Any]:
    """Returns values each once."""
    return list({identity(value): value for value in reversed(list(values))}.values())[::-1]


def types(each: Part) -> frozenset[str] | None:
    """Returns the names of types that a schema allows, or None where it does not say.

    Raises:
        Unsupported: `type` is malformed.
    """
    given = each.get("type", (str, list), "the name of a type or a list of them")
    if given is None:
        return None
    names = [given] if isinstance(given, str) else given
    if not names or any(name not in TYPES for name in names):
        raise Unsupported(each.at("type"), f"'type' takes one of {', '.join(TYPES)}")
    return frozenset(names)


def is_type(value: Any, name: str) -> bool:
    """Tells whether a value is of a type."""
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, int | float):
        return name == "number" or (name == "integer" and value == math.floor(value))
    kinds: dict[str, type] = {"object": dict, "array": list, "string": str, "null": type(None)}
    return name in kinds and isinstance(value, kinds[name])


class Validator:
    """Validates values by the schemas of one document."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def is_valid(self, value: Any, parts: list[Part]) -> bool:
        """Tells whether a value is valid for several schemas at once.

        Raises:
            Unsupported: a keyword is malformed or not supported.
        """
        for alternative in self._reader.alternatives(parts):
            named = finite(alternative)
            is_named = named is None or identity(value) in map(identity, named[0])
            if is_named and all(self.is_left(value, each) for each in alternative):
                return True
        return False

    def is_left(self, value: Any, each: Part) -> bool:
        """Tells whether a value is valid for a schema without its `enum`, `const` and references.

        Raises:
            Unsupported: a keyword is malformed or not supported.
        """
        allowed = types(each)
        if allowed is not None and not any(is_type(value, name) for name in allowed):
            return False
        if isinstance(value, str):
            return self._is_string(value, each)
        if isinstance(value, list):
            return self._is_array(value, each)
        if isinstance(value, dict):
            return self._is_object(value, each)
        return isinstance(value, bool | None) or self._is_number(value, each)

    def _is_number(self, value: float, each: Part) -> bool:
        tests: dict[str, Callable[[float], bool]] = {
            "minimum": lambda bound: value >= bound,
            "maximum": lambda bound: value <= bound,
            "exclusiveMinimum": lambda bound: value > bound,
            "exclusiveMaximum": lambda bound: value < bound,
            "multipleOf": lambda step: step > 0 and Decimal(value) % Decimal(step) == 0,
        }
        return all(
            test(each.get(keyword, (int, float), "a number"))
            for keyword, test in tests.items()
            if keyword in each.value
        )

    def _is_string(self, value: str, each: Part) -> bool:
        if not _is_counted(len(value), each, "minLength", "maxLength"):
            return False
        of = each.get("pattern", str, "a regular expression")
        return of is None or is_match(value, of, each.at("pattern"))

    def _is_array(self, value: list[Any], each: Part) -> bool:
        for keyword in ("contains",):
            if keyword in each.value:
                raise Unsupported(each.at(keyword), f"{keyword!r} is not supported")
        if not _is_counted(len(value), each, "minItems", "maxItems"):
            return False
        unique = each.get("uniqueItems", bool, "true or false")
        if unique and len(set(map(identity, value))) < len(value):
            return False
        first = each.parts("prefixItems")
        rest = each.inner("items") if "items" in each.value else None
        schemas = [first[at] if at < len(first) else rest for at in range(len(value))]
        return all(
            schema is None or self.is_valid(item, [schema])
            for item, schema in zip(value, schemas, strict=True)
        )

    def _is_object(self, value: dict[str, Any], each: Part) -> bool:
        names = each.get("required", list, "a list of names") or []
        if not all(name in value for name in names):
            return False
        if not _is_counted(len(value), each, "minProperties", "maxProperties"):
            return False
        if "propertyNames" in each.value:
            schema = each.inner("propertyNames")
            if not all(self.is_valid(name, [schema]) for name in value):
                return False
        return all(self.is_valid(inner, of_name(each, name)) for name, inner in value.items())


def of_name(each: Part, name: str) -> list[Part]:
    """Returns the schemas that one schema has for the property of a name.

    Raises:
        Unsupported: a keyword is malformed, or a pattern not supported.
    """
    named = each.get("properties", dict, "an object of schemas") or {}
    found = [each.inner("properties", name)] if name in named else []
    found += [
        each.inner("patternProperties", of)
        for of in each.names("patternProperties")
        if is_match(name, of, each.at("patternProperties", of))
    ]
    if not found and "additionalProperties" in each.value:
        found.append(each.inner("additionalProperties"))
    return found


def _is_counted(count: int, each: Part, least: str, most: str) -> bool:
    fewest, limit = each.count(least), each.count(most)
    return (fewest is None or count >= fewest) and (limit is None or count <= limit)
