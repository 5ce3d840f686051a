"""Strings of a length, a pattern or a format."""

from __future__ import annotations

from tokenwire_worker.engines.guides.grammar.characters import EVERY
from tokenwire_worker.engines.guides.grammar.matching import TooLong, matches
from tokenwire_worker.engines.guides.grammar.nodes import (
    NOTHING,
    Characters,
    Node,
    Text,
    repeat,
    sequence,
)
from tokenwire_worker.engines.guides.grammar.regex import BadPatternError, anywhere
from tokenwire_worker.engines.guides.schema.document import Part, Unsupported
from tokenwire_worker.engines.guides.schema.formats import PATTERNS
from tokenwire_worker.engines.guides.schema.lengths import fitted
from tokenwire_worker.engines.guides.schema.texts import CHARACTER, STRING, quoted


def strings(parts: list[Part]) -> Node:
    """Returns the strings that several schemas ask for at once.

    Raises:
        Unsupported: a keyword is malformed, or one that outputs cannot be held to.
    """
    least, most = _lengths(parts)
    if most is not None and most < least:
        return NOTHING
    patterns = {
        text: each.at("pattern")
        for each in parts
        if (text := each.get("pattern", str, "a regular expression")) is not None
    }
    if len(patterns) > 1:
        raise Unsupported(list(patterns.values())[1], "a second 'pattern' is not supported")
    for text, at in patterns.items():
        node = fitted(pattern(text, at), least, most)
        if node is None:
            raise Unsupported(at, "the length of this 'pattern' cannot be held to")
        return NOTHING if node == NOTHING else quoted(node)
    node = _format(parts, least, most)
    if node is not None:
        return quoted(node)
    if not least and most is None:
        return STRING
    return sequence(Text('"'), repeat(CHARACTER, least, most), Text('"'))


def _lengths(parts: list[Part]) -> tuple[int, int | None]:
    leasts = [count for each in parts if (count := each.count("minLength")) is not None]
    mosts = [count for each in parts if (count := each.count("maxLength")) is not None]
    return max(leasts, default=0), min(mosts, default=None)


def pattern(text: str, at: str) -> Node:
    """Returns the texts that hold a match of a pattern.

    Args:
        text: the pattern.
        at: pointer of the keyword.

    Raises:
        Unsupported: it is malformed or not supported.
    """
    try:
        return anywhere(text, Characters(EVERY))
    except BadPatternError as error:
        raise Unsupported(at, str(error)) from error


def is_match(text: str, of: str, at: str) -> bool:
    """Tells whether a text holds a match of a pattern.

    Args:
        text: the text.
        of: the pattern.
        at: pointer of the pattern.

    Raises:
        Unsupported: the pattern is malformed, not supported, or takes too long.
    """
    try:
        return matches(pattern(of, at), text)
    except TooLong as error:
        raise Unsupported(at, "takes too long to be tried on what the schema names") from error


def _format(parts: list[Part], least: int, most: int | None) -> Node | None:
    """Returns the texts of a format, or None where there is none or the length leaves none."""
    for each in parts:
        name = each.get("format", str, "a name")
        if name in PATTERNS:
            node = fitted(pattern(PATTERNS[name], each.at("format")), least, most)
            return None if node == NOTHING else node
    return None
