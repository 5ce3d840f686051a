"""Parameters that a format writes without quotes, and their JSON by the tool's JSON Schema.

A parameter that may only be a string is one, whatever it looks like. Where the schema allows no
string, what is JSON is taken as it stands, and Python's notation is converted. Where it allows both
or says nothing, a number, constant, list or object that it allows is one, in JSON's notation alone.
Whatever remains is a string.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenwire_frontend.core.parsers.literals import (
    JSON,
    PYTHON,
    ValueReader,
    as_json_string,
)

VALUE_LIMIT = 64 * 1024
"""Characters of a value that are held until it is known what it is; a longer one is a string."""

SCHEMA_STEPS = 64
"""Schemas that are looked at for one parameter: `anyOf` and `$ref` may nest or even form a ring."""

Tools = Mapping[str, Mapping[str, Any]]
"""By the name of a tool: the JSON Schema of its parameters."""

NO_STRING = frozenset({"object", "array", "number", "boolean", "null"})
"""Types of a parameter of which the output says that it is not a string."""

_BY_BEGINNING = {
    "{": "object",
    "[": "array",
    '"': "string",
    "t": "boolean",
    "f": "boolean",
    "n": "null",
}
_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def types_of(tools: Tools, tool: str, parameter: str) -> frozenset[str]:
    """Returns JSON Schema's names of the types that a parameter may have; none where not known."""
    root = tools.get(tool)
    if not isinstance(root, Mapping):
        return frozenset()
    properties = root.get("properties")
    waiting = [properties.get(parameter)] if isinstance(properties, Mapping) else []
    types: set[str] = set()
    for _ in range(SCHEMA_STEPS):
        if not waiting:
            break
        schema = waiting.pop()
        if not isinstance(schema, Mapping):
            continue
        named = schema.get("type")
        if isinstance(named, str):
            types.add(named)
        elif isinstance(named, list):
            types.update(each for each in named if isinstance(each, str))
        elif isinstance(schema.get("enum"), list):
            types.update(_KINDS.get(type(each), "object") for each in schema["enum"])
        elif "const" in schema:
            types.add(_KINDS.get(type(schema["const"]), "object"))
        for key in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(key), list):
                waiting.extend(schema[key])
        if isinstance(schema.get("$ref"), str):
            waiting.append(_referred(root, schema["$ref"]))
    return frozenset(types)


def _referred(root: Mapping[str, Any], reference: str) -> object:
    """Returns what a JSON pointer into the schema itself refers to, or None."""
    node: object = root
    for part in reference.removeprefix("#").split("/")[1:]:
        if not isinstance(node, Mapping):
            return None
        node = node.get(part.replace("~1", "/").replace("~0", "~"))
    return node


class ParameterValue:
    """One parameter's value as it comes, and its JSON as soon as it is certain.

    Args:
        types: those that it may have; none where not known.
        trim: whether one line feed at either side belongs to the format.
    """

    __slots__ = ("_begun", "_held", "_quoted", "_readings", "_size", "_trim", "_types")

    def __init__(self, types: frozenset[str], *, trim: bool) -> None:
        self._types = types
        self._trim = trim
        self._begun = False
        self._quoted = False
        # What it may be besides a string; without any, it is one.
        self._readings = [] if types == {"string"} else [ValueReader(JSON)]
        if types and "string" not in types:
            self._readings.append(ValueReader(PYTHON))
        self._size = 0
        # What is not given out: all while it may not be a string, else a line feed at its end.
        self._held: list[str] = []

    def push(self, text: str) -> str:
        """Takes the next of it, and returns the JSON text that is certain now."""
        if not self._begun and text:
            self._begun = True
            text = text.removeprefix("\n" * self._trim)
        self._held.append(text)
        if self._readings:
            self._size += len(text)
            self._readings = [each for each in self._readings if _goes_on(each, text)]
            if self._readings and self._size <= VALUE_LIMIT:
                return ""
            self._readings.clear()
        return self._string(last=False)

    def finish(self) -> str:
        """Returns the rest of its JSON text; nothing of it follows."""
        for reading in self._readings:
            if reading.finish():
                known = reading.take().strip()
                if self._allowed(known):
                    return known
        return self._string(last=True)

    def _allowed(self, known: str) -> bool:
        if self._types and "string" not in self._types:
            return True
        kind = _BY_BEGINNING.get(known[0], "number")
        if kind == "number" and "integer" in self._types and "number" not in self._types:
            return not any(mark in known for mark in ".eE")
        return kind in (self._types or NO_STRING)

    def _string(self, *, last: bool) -> str:
        text = "".join(self._held)
        self._held.clear()
        if self._trim and text.endswith("\n"):
            text = text[:-1]
            if not last:
                self._held.append("\n")
        begins = "" if self._quoted else '"'
        self._quoted = True
        return begins + as_json_string(text) + ('"' if last else "")


def _goes_on(reading: ValueReader, text: str) -> bool:
    """Reads on, and returns whether what came may be a value."""
    at = 0 if reading.done else reading.read(text, 0, len(text))
    return not reading.broken and (not reading.done or not text[at:].strip())


def json_key(name: str) -> str:
    """Returns a parameter's name as the key of a JSON object."""
    return json.dumps(name, ensure_ascii=False) + ": "
