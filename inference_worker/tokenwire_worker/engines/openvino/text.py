"""What OpenVINO's errors say, without where in its sources they were raised."""

from __future__ import annotations

import re

_PLACE = re.compile(r"^(\[[0-9:]+\] )?\S+\.(cc|cpp|h|hpp):\d+: ")
_CHECK = re.compile(r"^Check failed: \(.*\) is false: ")
_NOISE = ("Exception from ", "Check '")


def told(error: BaseException | str) -> str:
    """Returns the part of an error that is meant for its reader, on one line.

    >>> told("[05:03:29] /a/regex_converter.cc:75: Regex parsing error: Unclosed '['")
    "Regex parsing error: Unclosed '['"
    """
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(_NOISE)]
    text = " ".join(_CHECK.sub("", _PLACE.sub("", line)) for line in kept)
    return text or (lines[0] if lines else type(error).__name__)
