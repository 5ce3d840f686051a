r"""Formats from the `response_schema` of tokenizer_config.json, where that can be streamed.

The schema says with regular expressions how transformers finds reasoning and calls in a whole
output. Its expressions are not run here: they may look at the end before anything is certain, and
their cost has no bound. Instead the markers are taken from expressions of the usual shape, a
literal, any text, a literal, such as `<tool_call>\s*(.*?)\s*</tool_call>`. Where a schema has
another shape, it gives no format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenwire_frontend.core.parsers.calls import JsonCalls
from tokenwire_frontend.core.parsers.formats import ReasoningFormat, ToolFormat

MARKER_LIMIT = 128
"""Characters of a marker as an expression has it; longer ones are not looked at."""

_LITERAL = rf"(?:\\[^\w\s]|[^\\()\[\]{{}}?*+|^$.\s]){{1,{MARKER_LIMIT}}}"
_GAP = r"(?:\\[ns][?*]?|\n){0,8}"
_GROUP = r"\((?:\?(?:[:=!]|P<\w+>))?"
_BETWEEN = re.compile(
    rf"\^?({_LITERAL}){_GAP}{_GROUP}[^()]{{1,{MARKER_LIMIT}}}\){_GAP}({_LITERAL})\$?"
)
_BEFORE = re.compile(rf"(?:{_GROUP})?({_LITERAL}){_GAP}(?:\(\?:)?\Z")
_AFTER = re.compile(rf"[^()]{{1,{MARKER_LIMIT}}}\){_GAP}(?:\|[^()]{{1,16}}\))?({_LITERAL})")
_REASONING = ("thinking", "reasoning", "reasoning_content")


def tool_format_in(tokenizer_config: Mapping[str, Any]) -> ToolFormat | None:
    """Returns how the schema finds calls that are JSON between two markers, or None."""
    calls = _properties(tokenizer_config).get("tool_calls")
    if not isinstance(calls, Mapping):
        return None
    items = calls.get("items")
    if not isinstance(items, Mapping) or items.get("x-parser") != "json":
        return None
    markers = _between(_expression(calls, "x-regex-iterator"))
    return None if markers is None else ToolFormat(JsonCalls(), (markers,))


def reasoning_format_in(tokenizer_config: Mapping[str, Any]) -> ReasoningFormat | None:
    """Returns between which markers the schema finds reasoning, or None."""
    whole = _expression(tokenizer_config.get("response_schema"), "x-regex")
    for name in _REASONING:
        part = _expression(_properties(tokenizer_config).get(name), "x-regex")
        markers = _between(part) or _around(whole, f"(?P<{name}>")
        if markers is not None:
            return ReasoningFormat(*markers)
    return None


def literals_in(tokenizer_config: Mapping[str, Any]) -> Iterator[str]:
    """Returns the texts of the schema, and of its successor `response_template`, unescaped."""
    waiting: list[Any] = [
        tokenizer_config.get("response_schema"), tokenizer_config.get("response_template")
    ]  # fmt: skip
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, str):
            yield _unescaped(node)


def _properties(tokenizer_config: Mapping[str, Any]) -> Mapping[str, Any]:
    schema = tokenizer_config.get("response_schema")
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def _expression(node: object, key: str) -> str:
    expression = node.get(key) if isinstance(node, Mapping) else None
    return expression if isinstance(expression, str) else ""


def _between(expression: str) -> tuple[str, str] | None:
    """Returns the literals of an expression that is a group between two of them."""
    found = _BETWEEN.fullmatch(expression)
    return None if found is None else (_unescaped(found[1]), _unescaped(found[2]))


def _around(expression: str, group: str) -> tuple[str, str] | None:
    """Returns the literals before and after a group of an expression."""
    start = expression.find(group)
    end = start + len(group)
    before = _BEFORE.search(expression[max(start - MARKER_LIMIT, 0) : max(start, 0)])
    after = _AFTER.match(expression, end)
    if start < 0 or before is None or after is None:
        return None
    return _unescaped(before[1]), _unescaped(after[1])


def _unescaped(expression: str) -> str:
    """Returns an expression with every escaped mark as the mark itself."""
    return re.sub(r"\\([^\w\s])", r"\1", expression)
