"""What the adapter relies on of tensorrt_llm, as recorded in surface.json, and values held to it.

A type is written as in Python 3.10 (`list[int] | None`), a class by its bare name. A default is its
JSON value, or {"required": true}, {"factory": NAME} or {"member": "ENUM.MEMBER"}.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

Recorded = dict[str, Any]
"""The recorded surface, as it stands in the file."""

_SCALARS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "Path": (str,),
    "dict": (dict,),
    "None": (type(None),),
}


@cache
def recorded() -> Recorded:
    """Returns the recorded surface."""
    surface: Recorded = json.loads(Path(__file__).with_name("surface.json").read_bytes())
    return surface


def faults(surface: Recorded, class_name: str, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields where values given for fields of a class cannot be right.

    Args:
        surface: the recorded surface.
        class_name: a class of it, such as `KvCacheConfig`.
        values: JSON values by field.

    Yields:
        The path of a field, and what is wrong with it.
    """
    fields: dict[str, tuple[str, Any]] = surface["classes"][class_name]["fields"]
    for name, value in values.items():
        if name not in fields:
            yield name, f"no field of {class_name} in {surface['package']} {surface['version']}"
            continue
        for path, fault in _value_faults(surface, fields[name][0], value):
            yield f"{name}{path}", fault


def _value_faults(surface: Recorded, type_text: str, value: Any) -> Iterator[tuple[str, str]]:
    parts = _alternatives(ast.parse(type_text, mode="eval").body)
    if any(_fits(surface, part, value) for part in parts):
        return
    # A value that is meant for a recorded class is told what is wrong within it.
    for part in parts:
        if isinstance(value, dict) and isinstance(part, ast.Name):
            nested = part.id
            if nested in surface["classes"]:
                for path, fault in faults(surface, nested, value):
                    yield f".{path}", fault
                return
    yield "", f"{json.dumps(value)} is not of type {type_text}"


def _alternatives(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [*_alternatives(node.left), *_alternatives(node.right)]
    return [node]


def _fits(surface: Recorded, node: ast.expr, value: Any) -> bool:
    if isinstance(node, ast.Constant):  # None
        return value is None
    if isinstance(node, ast.Subscript):
        return _fits_generic(surface, node, value)
    name = node.id if isinstance(node, ast.Name) else ""
    if name in _SCALARS:
        is_number = isinstance(value, bool) and name != "bool"
        return isinstance(value, _SCALARS[name]) and not is_number
    if name in surface["enums"]:
        return value in surface["enums"][name]["members"]
    if not isinstance(value, dict):
        return False
    if name in surface["classes"]:
        return not any(faults(surface, name, value))
    # A class that is not recorded checks its own fields; `object` is not made of JSON.
    return name != "object"


def _fits_generic(surface: Recorded, node: ast.Subscript, value: Any) -> bool:
    name = node.value.id if isinstance(node.value, ast.Name) else ""
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return value in [item.value for item in inner if isinstance(item, ast.Constant)]
    if name in ("list", "set"):
        return isinstance(value, list) and all(_fits(surface, inner[0], item) for item in value)
    # Keys of a JSON object are strings; those of dict[int, int] are left to the class.
    return isinstance(value, dict) and all(
        _fits(surface, inner[-1], item) for item in value.values()
    )
