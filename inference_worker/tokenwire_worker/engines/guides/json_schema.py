"""What a JSON Schema asks for that xgrammar, the compiler of guides, would pass over in silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tokenwire_worker.engines.port import Ability, Guide

_UNHEEDED = (
    *("not", "contains", "minContains", "maxContains", "multipleOf"),
    *("if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
    *("unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"),
)
"""Keywords that the compiler passes over, so that the output would not be held to them."""

_SUBSCHEMAS = ("properties", "patternProperties", "$defs", "definitions")


def passed_over(guide: Guide) -> str | None:
    """Returns what a guide asks for that the compiler would pass over, or None."""
    if guide.form is Ability.GUIDED_JSON_SCHEMA:
        for keyword, path in unheeded_keywords(guide.text):
            return f"this engine does not hold outputs to {keyword!r}, at {path}"
    return None


def unheeded_keywords(schema: str) -> Iterator[tuple[str, str]]:
    """Yields each keyword of a JSON Schema that the compiler passes over, and its JSON pointer.

    A text that is no JSON yields nothing: the compiler says what is wrong with it.
    """
    try:
        root = json.loads(schema)
    except ValueError:
        return
    yield from _unheeded(root, "#")


def _unheeded(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _unheeded(item, f"{path}/{index}")
        return
    if not isinstance(node, dict):
        return
    for keyword, value in node.items():
        at = f"{path}/{keyword}"
        if keyword in _UNHEEDED or (keyword == "uniqueItems" and value is True):
            yield keyword, at
        elif keyword == "allOf" and isinstance(value, list) and len(value) > 1:
            yield "allOf of several", at
        elif keyword == "$ref" and isinstance(value, str) and not value.startswith("#"):
            yield "$ref to elsewhere", at
        elif keyword in _SUBSCHEMAS and isinstance(value, dict):
            for name, subschema in value.items():
                yield from _unheeded(subschema, f"{at}/{name}")
        elif keyword not in ("const", "enum", "default", "examples"):
            yield from _unheeded(value, at)
