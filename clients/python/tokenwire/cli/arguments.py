"""What an argument may be: types for argparse, which puts the option's name before their words."""

from __future__ import annotations

import json
import math
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tokenwire._channel import checked_targets

UINT32 = 2**32 - 1
UINT64 = 2**64 - 1


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Returns the type of an integer; the bounds are the contract's."""

    def parse(value: str) -> int:
        with suppress(ValueError):
            found = int(value)
            if least <= found <= most:
                return found
        raise ArgumentTypeError(f"{value!r} is not a whole number from {least} to {most}")

    return parse


def number(value: str) -> float:
    """The type of a number, whose bounds are the server's to judge."""
    try:
        return float(value)
    except ValueError:
        raise ArgumentTypeError(f"{value!r} is not a number") from None


def seconds(value: str) -> float:
    """The type of a time."""
    found = number(value)
    if not 0 <= found < math.inf:
        raise ArgumentTypeError(f"{value!r} is not a time in seconds, 0 or more")
    return found


def interval(value: str) -> float:
    """The type of the time between two snapshots of a frontend; the bounds are the contract's."""
    found = number(value)
    if not 0.1 <= found <= 60:
        raise ArgumentTypeError(f"{value!r} is not a time from 0.1 to 60 seconds")
    return found


def target(value: str) -> str:
    """The type of a server's address, or of several."""
    try:
        checked_targets(value)
    except ValueError as error:
        raise ArgumentTypeError(str(error).removeprefix("target: ")) from None
    return value


def text_or_file(value: str) -> str:
    """The type of a text that may stand in a file: `@FILE`."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise ArgumentTypeError(f"{error.filename}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ArgumentTypeError(f"{value[1:]} is not UTF-8 text") from None


def token_bias(value: str) -> tuple[int, float]:
    """The type of a token's bias: ID=BIAS."""
    token_id, given, bias = value.partition("=")
    if not given:
        raise ArgumentTypeError(f"{value!r} is not ID=BIAS, such as 42=-1.5")
    return whole_number(0, UINT32)(token_id), number(bias)


def tools_file(value: str) -> list[Any]:
    """The type of a file with a JSON list of tools."""
    try:
        found = json.loads(text_or_file(f"@{value}"))
    except ValueError as error:
        raise ArgumentTypeError(f"{value} is not JSON: {error}") from None
    if not isinstance(found, list):
        raise ArgumentTypeError(f"{value} is not a JSON list of tools")
    return found


def json_object(value: str) -> str:
    """The type of a JSON object, which is passed on as it is written."""
    try:
        found = json.loads(value)
    except ValueError as error:
        raise ArgumentTypeError(f"{value!r} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ArgumentTypeError(f"{value!r} is not a JSON object")
    return value


def tool_choice(value: str) -> str | dict[str, Any]:
    """The type of the choice among tools: a mode, or a tool's name."""
    if value in ("auto", "none", "required"):
        return value
    return {"type": "function", "function": {"name": value}}


def text(value: str) -> str:
    """Returns the argument, or for `-` standard input without its last line break.

    Raises:
        ValueError: it is no text.
    """
    if value == "-":
        with _reading("standard input"):
            return _encodable(sys.stdin.read()).removesuffix("\n")
    with _reading("the argument"):
        return _encodable(value)


def line(prompt: str) -> str:
    """Returns a line of standard input.

    Raises:
        EOFError: there is none.
        ValueError: it is no text.
    """
    with _reading("standard input"):
        return _encodable(input(prompt))


def token_ids(place: str, words: Sequence[str]) -> list[int]:
    """Returns the token ids; a ValueError names the place and the word that is none."""
    try:
        return [whole_number(0, UINT32)(word) for word in words]
    except ArgumentTypeError as error:
        raise ValueError(f"{place}: {error}, as a token id is") from None


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """Names the source of what is no text, where Python would name a codec and a position."""
    try:
        yield
    except UnicodeError as error:
        encoding = getattr(error, "encoding", "UTF-8").upper()
        raise ValueError(f"{source} is not {encoding} text") from None


def _encodable(value: str) -> str:
    # Python lets bytes that are no UTF-8 through as surrogates, which no request can carry.
    value.encode()
    return value
