"""Python values to protobuf messages; what a field can't hold is refused by its path."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message

_MessageT = TypeVar("_MessageT", bound=Message)


def build(kind: type[_MessageT], values: Mapping[str, Any], place: str = "") -> _MessageT:
    """Returns a message; `place` is its path.

    Raises:
        TypeError: a value of the wrong type; names its path.
        ValueError: a value out of its field's range; names its path.
    """
    try:
        return kind(**values)
    except (TypeError, ValueError):
        # protobuf does not say which value is at fault, so each is tried alone.
        for name, value in values.items():
            _check(kind, name, value, f"{place}.{name}" if place else name)
        raise


def json_object(place: str, value: Mapping[str, Any] | str | None) -> str:
    """Returns a JSON object as text, its keys in their order; a text is passed on as it is."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, Mapping):
        raise TypeError(f"{place}={reprlib.repr(value)}: not a dict, nor a JSON object as text")
    try:
        return json.dumps(dict(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{place}={reprlib.repr(value)}: not a JSON object ({error})") from None


def _check(kind: type[Message], name: str, value: object, place: str) -> None:
    try:
        kind(**{name: value})
    except (TypeError, ValueError) as error:
        fault = TypeError if isinstance(error, TypeError) else ValueError
        raise fault(f"{place}={reprlib.repr(value)}: {error}") from None
