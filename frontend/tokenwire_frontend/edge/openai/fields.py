"""Members of a JSON object, each read once and by its path; what is left over is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar

from tokenwire_service.errors import FieldViolation, InvalidRequestError, invalid

ValueT = TypeVar("ValueT")

UINT32_MOST = 2**32 - 1
UINT64_MOST = 2**64 - 1
INT32_MOST = 2**31 - 1
INT64_LEAST = -(2**63)


class Fields:
    """One object of a request. A member that is null counts as absent.

    Args:
        members: its members, which are taken out as they are read.
        path: where it stands, empty for the body itself.
    """

    def __init__(self, members: dict[str, Any], path: str = "") -> None:
        self._members = members
        self._path = path

    def at(self, name: str) -> str:
        """Returns a member's path."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> Any:
        """Returns a member of any type; None where it is absent."""
        return self._members.pop(name, None)

    def peek(self, name: str) -> Any:
        """Returns a member that is read later."""
        return self._members.get(name)

    def text(self, name: str, default: str = "") -> str:
        """Returns a string."""
        value = self._typed(name, str, "a string")
        return default if value is None else value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Returns a boolean."""
        value = self._typed(name, bool, "a boolean")
        return default if value is None else value

    def whole(self, name: str, most: int = UINT32_MOST, least: int = 0) -> int | None:
        """Returns a whole number within bounds, or None where it is absent."""
        value = self.take(name)
        if value is None:
            return None
        if type(value) is not int:
            raise invalid(self.at(name), "must be a whole number")
        if not least <= value <= most:
            raise invalid(self.at(name), f"must be at least {least} and at most {most}")
        return value

    def number(self, name: str) -> float | None:
        """Returns a number, or None where it is absent."""
        value = self.take(name)
        return None if value is None else number(value, self.at(name))

    def items(self, name: str, most: int) -> list[Any] | None:
        """Returns a list, or None where it is absent."""
        value = self._typed(name, list, "an array")
        if value is not None and len(value) > most:
            raise invalid(self.at(name), f"has {len(value)} items; at most {most}")
        return value

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """Returns a list of strings, which one string may stand for; empty where it is absent."""
        value = self._members.get(name)
        if isinstance(value, str):
            return (self.text(name),)
        items = self.items(name, most) or []
        for place, each in enumerate(items):
            if not isinstance(each, str):
                raise invalid(f"{self.at(name)}[{place}]", f"must be a string, not {_kind(each)}")
        return tuple(items)

    def inner(self, name: str) -> Fields | None:
        """Returns an object, or None where it is absent."""
        value = self.take(name)
        return None if value is None else fields(value, self.at(name))

    def each(self, name: str, most: int) -> Iterator[Fields]:
        """Yields the objects of a list; none where it is absent."""
        for place, value in enumerate(self.items(name, most) or []):
            yield fields(value, f"{self.at(name)}[{place}]")

    def json_text(self, name: str) -> str:
        """Returns an object as JSON text, its keys in their order; empty where it is absent."""
        value = self._typed(name, dict, "an object")
        return "" if value is None else json_text(value, self.at(name))

    def ignore(self, *names: str) -> None:
        """Passes over members that change nothing of an answer."""
        for name in names:
            self._members.pop(name, None)

    def accept(self, name: str, *values: Any) -> None:
        """Passes over a member that has one of these values, which say what is done anyway.

        Raises:
            InvalidRequestError: it has another.
        """
        value = self.take(name)
        if value is not None and value not in values:
            allowed = " or ".join(json.dumps(each) for each in values)
            raise invalid(
                self.at(name), f"is supported only as {allowed}" if values else "is not supported"
            )

    def end(self) -> None:
        """Refuses what was not read.

        Raises:
            InvalidRequestError: names each such member, unless it is null.
        """
        left = [name for name, value in self._members.items() if value is not None]
        if left:
            raise InvalidRequestError(
                [FieldViolation(self.at(name), "is not supported") for name in left],
                reason="UNKNOWN_FIELD",
            )

    def _typed(self, name: str, kind: type[ValueT], told: str) -> ValueT | None:
        value = self.take(name)
        if value is None or type(value) is kind:
            return value
        raise invalid(self.at(name), f"must be {told}, not {_kind(value)}")


def fields(value: Any, path: str) -> Fields:
    """Returns the members of an object that stands at `path`."""
    if type(value) is not dict:
        raise invalid(path, f"must be an object, not {_kind(value)}")
    return Fields(value, path)


def number(value: Any, path: str) -> float:
    """Returns a number that stands at `path`."""
    if type(value) is not float and type(value) is not int:
        raise invalid(path, f"must be a number, not {_kind(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise invalid(path, "is beyond the range of a double") from error


def json_text(value: Any, path: str) -> str:
    """Returns a value as JSON text: its keys in their order, its whole numbers exact."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError) as error:
        raise invalid(path, "is nested too deeply") from error


_KINDS = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array",
          dict: "an object"}  # fmt: skip


def _kind(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), "that")
