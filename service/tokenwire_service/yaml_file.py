"""Files in YAML or JSON that people and their tools write: what one says, or what is wrong."""

from __future__ import annotations

import json
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

DEPTH = 64
"""Mappings and lists that may stand in one another; settings have four."""


def load(path: Path, most_bytes: int) -> Any:
    """Returns what a file says; None: it is empty, or has comments alone.

    Raises:
        ValueError: it can't be read or parsed, is larger, or has a key twice in a mapping; names
            the file, and the place in it as LINE:COLUMN.
    """
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if len(content) > most_bytes:
        raise ValueError(f"{path}: has more than {most_bytes} bytes")
    try:
        return _parsed(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start}: is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ValueError(f"{place}: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        words = " ".join(str(error).split())[:100]
        raise ValueError(f"{path}: can't be parsed: {words}") from error


def _parsed(text: str) -> Any:
    if text.lstrip().startswith("{"):
        # JSON may have a tab before a field, and YAML may not; and it is read in a fraction of the
        # time.
        with suppress(json.JSONDecodeError, _RepeatedKeyError, RecursionError):
            return json.loads(text, object_pairs_hook=_once_each)
    _check_depth(text)
    return yaml.load(text, _Loader)  # noqa: S506 - it is a SafeLoader


def _check_depth(text: str) -> None:
    """Raises ValueError where mappings and lists stand in one another too deeply.

    libyaml's events are read one by one; its loader, a call in C for each level, ends the process.
    """
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH:
            raise ValueError(f"is nested more than {DEPTH} deep")


class _RepeatedKeyError(ValueError):
    """YAML's loader tells where."""


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RepeatedKeyError
    return found


class _Loader(yaml.CSafeLoader):  # type: ignore[misc]  # it has no types
    """libyaml's, which takes a sixth of the time: 0.7 s for 10,000 API keys.

    It refuses a key that stands twice in a mapping; YAML's own loader takes the last.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Returns a mapping."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not a text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} stands here twice", key_node.start_mark
                )
            seen.add(key)
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found
