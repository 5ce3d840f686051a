"""One of several texts, in the forms that guide compilers take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

_SPECIAL = re.compile(r"([\\^$.|?*+()\[\]{}/-])")


def choice_grammar(options: Iterable[str]) -> str:
    """Returns an EBNF grammar of the texts; its string literals are written as JSON's."""
    return "root ::= " + " | ".join(json.dumps(option, ensure_ascii=False) for option in options)


def choice_pattern(options: Iterable[str]) -> str:
    """Returns a regular expression of the texts."""
    return "|".join(_SPECIAL.sub(r"\\\1", option) for option in options)
