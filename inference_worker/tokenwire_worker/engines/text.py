"""What errors of engines and of their compilers say, on one line."""

from __future__ import annotations

import re

_PLACE = re.compile(r"^(\[[0-9:]+\] )?\S+\.(cc|cpp|h|hpp):\d+: ")
_CHECK = re.compile(r"^Check failed: \(.*\) is false: ")
_NOISE = ("Exception from ", "Check '")
_DRAWN = "error: "
"""Begins the last line of an error in a regular expression, which is drawn above it."""


def told(error: BaseException | str) -> str:
    """Returns the part of an error that is meant for its reader, without where it was raised.

    That is one line: those that follow are a trace, or repeat what was to be compiled.

    >>> told("[05:03:29] /a/regex_converter.cc:75: Regex parsing error: Unclosed '['")
    "Regex parsing error: Unclosed '['"
    """
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    if lines[-1].startswith(_DRAWN):
        return lines[-1].removeprefix(_DRAWN)
    kept = (line for line in lines if line and not line.startswith(_NOISE))
    return _CHECK.sub("", _PLACE.sub("", next(kept, lines[0])))
