"""JSON text from callers, read strictly: what can't be written again as it was is refused."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class JsonTextError(ValueError):
    """The text is not a JSON object; the message says why."""


def json_object(text: str) -> dict[str, Any]:
    """Returns the object, its keys in their order and its whole numbers exact; empty text is {}.

    Raises:
        JsonTextError: malformed, nested too deeply, not an object, a key twice in one object, a
            number beyond a double's range, or half of a surrogate pair.
    """
    if not text:
        return {}
    try:
        value = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_distinct
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise JsonTextError("is JSON, but nested too deeply") from error
    except UnicodeEncodeError as error:
        raise JsonTextError("is JSON, but has half of a surrogate pair") from error
    except ValueError as error:
        raise JsonTextError(f"is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise JsonTextError("is JSON, but not an object")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError("a number is beyond the range of a double")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("an object names a key twice")
    return members
