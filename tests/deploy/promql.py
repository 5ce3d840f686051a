"""The metrics and labels that a PromQL expression names."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_SELECTOR = re.compile(r"(?<![\w:.])([A-Za-z_:][\w:]*)(?:\s*\{([^}]*)\})?(?!\s*\(|[\w:])")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_WORDS = {"and", "or", "unless", "bool", "offset"}


@dataclass(frozen=True)
class Named:
    """What an expression names."""

    metrics: dict[str, set[str]]
    """Labels that each metric is selected by."""
    by: set[str]
    """Labels that it groups or joins by."""
    aggregates: bool
    """Whether only those labels are left in the result."""


def named(expression: str) -> Named:
    """Returns what an expression names."""
    bare = _RANGE.sub("", _STRING.sub('""', expression))
    groupings = [match[2] for match in _GROUPING.finditer(bare)]
    by = {label.strip() for labels in groupings for label in labels.split(",")} - {""}
    rest = _GROUPING.sub("", bare)
    metrics: dict[str, set[str]] = {}
    for match in _SELECTOR.finditer(rest):
        if match[1] not in _WORDS:
            metrics.setdefault(match[1], set()).update(_MATCHER.findall(match[2] or ""))
    return Named(metrics, by, bool(re.search(r"\b(sum|min|max|avg|count)\b", bare)))
