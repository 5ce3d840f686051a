"""One of several texts, as llguidance takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SPECIAL = re.compile(r"([\\^$.|?*+()\[\]{}/-])")


def choice_pattern(options: Iterable[str]) -> str:
    """Returns a regular expression of the texts."""
    return "|".join(_SPECIAL.sub(r"\\\1", option) for option in options)
