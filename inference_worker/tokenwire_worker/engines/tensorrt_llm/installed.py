"""Compares the recorded surface with the tensorrt_llm that is installed."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

from tokenwire_worker.engines.tensorrt_llm.surface import Recorded, recorded

PACKAGE = "tensorrt_llm"

_NOT_THERE = object()


def version() -> str:
    """Returns the version of the installed package; raises ModuleNotFoundError without one."""
    return str(importlib.import_module(PACKAGE).__version__)


def differences(surface: Recorded | None = None) -> Iterator[str]:
    """Yields every difference between the recorded surface and the installed package.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    surface = surface or recorded()
    if version() != surface["version"]:
        yield f"version: recorded {surface['version']}, installed {version()}"
    for name, entry in surface["classes"].items():
        yield from _class_differences(name, entry)
    for name, entry in surface["enums"].items():
        yield from _enum_differences(name, entry)
    for name, entry in surface["methods"].items():
        yield from _method_differences(name, entry)
    for name, entry in surface["attributes"].items():
        yield from _attribute_differences(name, entry)
    for name, entry in surface["exceptions"].items():
        yield from _exception_differences(name, entry)


def find(where: str) -> Any:
    """Returns what stands at MODULE:NAME.NAME, or None where there is no such thing."""
    module, _, path = where.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        return None
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _class_differences(name: str, entry: dict[str, Any]) -> Iterator[str]:
    if find(entry["import"]) is None:
        yield f"{name}: {entry['import']} is not there"
    found = find(entry.get("fields_of", entry["import"]))
    if found is None:
        if "fields_of" in entry:
            yield f"{name}: {entry['fields_of']} is not there"
        return
    there = _fields(found)
    for field, (type_text, default) in entry["fields"].items():
        if field not in there:
            yield f"{name}.{field}: not there"
            continue
        annotation, standing = there.pop(field)
        if (got := shape(annotation)) != (wanted := shape(type_text)):
            yield f"{name}.{field}: recorded as {wanted}, installed as {got}"
        if not _same_default(default, standing):
            yield f"{name}.{field}: recorded default {default!r}, installed {_shown(standing)}"
    if not entry.get("partial"):
        for field in there:
            yield f"{name}.{field}: not recorded"


def _fields(found: Any) -> dict[str, tuple[Any, Any]]:
    """Returns annotation and default of each public field of a pydantic model or a dataclass."""
    fields: dict[str, tuple[Any, Any]] = {}
    for name, info in getattr(found, "model_fields", {}).items():
        fields[name] = (info.annotation, _default(info))
    if not fields and dataclasses.is_dataclass(found):
        for field in dataclasses.fields(found):
            if not field.name.startswith("_"):
                fields[field.name] = (field.type, _default(field))
    return fields


def _default(field: Any) -> Any:
    if field.default_factory not in (None, dataclasses.MISSING):
        return {"factory": getattr(field.default_factory, "__name__", "?")}
    required = field.is_required() if hasattr(field, "is_required") else None
    if required or field.default is dataclasses.MISSING:
        return {"required": True}
    return field.default


def _same_default(recorded_default: Any, standing: Any) -> bool:
    if isinstance(recorded_default, dict):
        if isinstance(standing, dict) and "factory" in standing:
            # A lambda does not say what it makes.
            return standing["factory"] in (recorded_default.get("factory"), "<lambda>")
        if "member" in recorded_default:
            return _shown(standing) == str(recorded_default["member"])
    return bool(recorded_default == standing)


def _shown(value: Any) -> str:
    named = hasattr(value, "name") and hasattr(value, "value")
    return f"{type(value).__name__}.{value.name}" if named else repr(value)


def _enum_differences(name: str, entry: dict[str, Any]) -> Iterator[str]:
    found = find(entry["import"])
    if found is None:
        yield f"{name}: {entry['import']} is not there"
        return
    there, wanted = set(found.__members__), set(entry["members"])
    yield from (f"{name}.{member}: not there" for member in sorted(wanted - there))
    yield from (f"{name}.{member}: not recorded" for member in sorted(there - wanted))


def _method_differences(name: str, entry: dict[str, Any]) -> Iterator[str]:
    found = find(entry["import"])
    if found is None:
        yield f"{name}: {entry['import']} is not there"
        return
    if entry["parameters"] is None:  # made of C++, which tells no signature
        return
    there = [parameter for parameter in inspect.signature(found).parameters if parameter != "self"]
    for parameter in entry["parameters"]:
        if parameter not in there:
            yield f"{name}({parameter}): not there"
    for parameter in there:
        if parameter not in entry["parameters"]:
            yield f"{name}({parameter}): not recorded"


def _attribute_differences(name: str, entry: dict[str, Any]) -> Iterator[str]:
    found = find(entry["import"])
    if found is None:
        yield f"{name}: {entry['import']} is not there"
        return
    there = set(getattr(found, "__dataclass_fields__", ()))
    for attribute in entry["names"]:
        if attribute not in there and getattr(found, attribute, _NOT_THERE) is _NOT_THERE:
            yield f"{name}.{attribute}: not there"


def _exception_differences(name: str, entry: dict[str, Any]) -> Iterator[str]:
    found = find(entry["import"])
    if found is None:
        yield f"{name}: {entry['import']} is not there"
    elif entry["base"] not in {base.__name__ for base in found.__mro__}:
        yield f"{name}: recorded as a {entry['base']}, installed as no such thing"


# --- types, in one form ------------------------------------------------------------------------


def shape(annotation: Any) -> str:
    """Returns a type in one form, whether it is an annotation or its text."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return _text_shape(ast.parse(annotation, mode="eval").body)
    if annotation is None or annotation is type(None):
        return "None"
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return shape(inner[0])
    if origin in (typing.Union, types.UnionType):
        return _union([shape(part) for part in inner])
    if origin is typing.Literal:
        return _literal(list(inner))
    if origin is not None:
        return _generic(origin.__name__, [shape(part) for part in inner])
    return getattr(annotation, "__name__", str(annotation))


def _text_shape(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return "None" if node.value is None else shape(str(node.value))
    if isinstance(node, ast.Attribute):  # torch.Tensor
        return node.attr
    if isinstance(node, ast.BinOp):
        return _union([_text_shape(node.left), _text_shape(node.right)])
    if isinstance(node, ast.Name):
        return node.id
    if not isinstance(node, ast.Subscript):
        return ast.unparse(node)
    name = _text_shape(node.value)
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return _literal([item.value for item in inner if isinstance(item, ast.Constant)])
    shapes = [_text_shape(part) for part in inner]
    if name == "Optional":
        return _union([*shapes, "None"])
    return _union(shapes) if name == "Union" else _generic(name, shapes)


def _generic(name: str, inner: list[str]) -> str:
    return f"{name.lower()}[{', '.join(inner)}]" if inner else name.lower()


def _literal(values: list[Any]) -> str:
    return f"Literal[{', '.join(sorted(map(repr, values)))}]"


def _union(parts: list[str]) -> str:
    flat = {piece for part in parts for piece in _pieces(part)}
    return " | ".join(sorted(flat, key=lambda piece: (piece == "None", piece)))


def _pieces(part: str) -> list[str]:
    """Splits a union at its own bars, not at those within brackets."""
    pieces, depth, start = [], 0, 0
    for at, character in enumerate(part):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "|" and not depth:
            pieces.append(part[start:at].strip())
            start = at + 1
    return [*pieces, part[start:].strip()]
