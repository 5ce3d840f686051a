r"""Reads regular expressions.

What is read means the same to Python and ECMAScript, or less than to either: `\d` is an ASCII
digit, `.` neither a line feed nor a carriage return. What means something else to one of them is
refused, and so are look-around, back references, word boundaries, possessive quantifiers and flags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from tokenwire_worker.engines.guides.grammar.characters import (
    DIGITS,
    EVERY,
    SPACE,
    WORD,
    Ranges,
    characters,
    includes,
    ranges,
    widest,
    without,
)
from tokenwire_worker.engines.guides.grammar.nodes import (
    EMPTY,
    Characters,
    Choice,
    Node,
    Repeat,
    Rule,
    Sequence,
    Text,
    choice,
    repeat,
    sequence,
)

HIGHEST_COUNT = 100_000
"""Most of a repetition's bound; outputs are shorter by far."""

DEEPEST = 64
"""Groups within groups."""


class BadPatternError(Exception):
    """A pattern that is malformed or not supported; says what and where."""


_ANCHORS = {"^": Rule("^"), "$": Rule("$")}
"""Stand for anchors until it is known what they mean; a pattern has no other rules."""

_LINE_ENDS = characters("\n\r")
_COUNTS = re.compile(r"\{([0-9]+)(?:(,)([0-9]*))?\}")
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_NARROW: dict[str, Ranges] = {"d": DIGITS, "w": WORD, "s": SPACE}
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}


def whole(pattern: str) -> Node:
    """Returns what a pattern matches from a text's beginning to its end.

    Raises:
        BadPatternError: it is malformed or not supported.
    """
    anchored, free = _split(_Parser(pattern).parse(), "^")
    anchored, free = _split(choice(each for each in (anchored, free) if each is not None), "$")
    return _plain(choice(each for each in (anchored, free) if each is not None))


def anywhere(pattern: str, other: Node) -> Node:
    """Returns the texts that hold a match of a pattern, as JSON Schema asks for.

    Args:
        pattern: the pattern.
        other: what may stand before and after a match that is not anchored, any number of times.

    Raises:
        BadPatternError: it is malformed or not supported.
    """
    around = repeat(other)
    found: list[Node] = []
    anchored, free = _split(_Parser(pattern).parse(), "^")
    for before, left in ((EMPTY, anchored), (around, free)):
        if left is None:
            continue
        ended, open_ = _split(left, "$")
        found += [
            sequence(before, _plain(node), after)
            for node, after in ((ended, EMPTY), (open_, around))
            if node is not None
        ]
    return choice(found)


# --- anchors -------------------------------------------------------------------------------------


def _split(node: Node, sign: str) -> tuple[Node | None, Node | None]:
    """Returns the part of a node that begins with `^` (ends with `$`), without it, and the rest."""
    if node in _ANCHORS.values():
        return (EMPTY, None) if node == _ANCHORS[sign] else (None, node)
    if isinstance(node, Choice):
        parts = [_split(item, sign) for item in node.items]
        return _union(part[0] for part in parts), _union(part[1] for part in parts)
    if isinstance(node, Sequence) and node.items:
        return _split_sequence(node, sign)
    return None, node


def _split_sequence(node: Sequence, sign: str) -> tuple[Node | None, Node | None]:
    at_start = sign == "^"
    edge = node.items[0 if at_start else -1]
    rest = sequence(*(node.items[1:] if at_start else node.items[:-1]))
    anchored, free = _split(edge, sign)
    # Of `^^a` and `(^|b)a` the rest has the edge as well. An anchor elsewhere is refused later.
    beyond = _split(rest, sign) if EMPTY in (anchored, free) else (None, None)

    def joined(part: Node | None) -> Node | None:
        if part is None or part == EMPTY:
            return None
        return sequence(part, rest) if at_start else sequence(rest, part)

    return (
        _union([joined(anchored), *(beyond if anchored == EMPTY else beyond[:1])]),
        _union([joined(free), beyond[1] if free == EMPTY else None]),
    )


def _union(parts: Iterable[Node | None]) -> Node | None:
    held = [part for part in parts if part is not None]
    return choice(held) if held else None


def _plain(node: Node) -> Node:
    """Returns a node that has no anchor.

    Raises:
        BadPatternError: it has one.
    """
    waiting: list[Node] = [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Rule):
            raise BadPatternError(f"{each.name} is supported at the edges of a pattern only")
        if isinstance(each, Sequence | Choice):
            waiting += each.items
        elif isinstance(each, Repeat):
            waiting.append(each.item)
    return node


# --- parsing -------------------------------------------------------------------------------------


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        node = self._choice()
        if self._at < len(self._text):
            raise self._bad("unbalanced )")
        return node

    def _bad(self, what: str, at: int | None = None) -> BadPatternError:
        return BadPatternError(f"{what}, at character {self._at if at is None else at}")

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _choice(self) -> Node:
        items = [self._sequence()]
        while self._take("|"):
            items.append(self._sequence())
        return choice(items)

    def _sequence(self) -> Node:
        items: list[Node] = []
        while self._next() not in ("", "|", ")"):
            item = self._quantified()
            if not (isinstance(item, Rule) and items[-1:] == [item]):  # `^^` is `^`
                items.append(item)
        return sequence(*items)

    def _quantified(self) -> Node:
        at = self._at
        item = self._item()
        counts = self._counts()
        if counts is None:
            return item
        if isinstance(item, Rule):
            raise self._bad("nothing to repeat", at)
        if self._take("+"):
            raise self._bad("possessive quantifiers are not supported", at)
        self._take("?")  # lazy: the same texts, in another order of trying
        if self._next() in ("*", "+", "?") or self._counts() is not None:
            raise self._bad("multiple repeat")
        _plain(item)
        return repeat(item, *counts)

    def _counts(self) -> tuple[int, int | None] | None:
        for sign, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return counts
        at = self._at
        if self._text.startswith("{,", at):
            raise self._bad("{, means different things to different engines")
        match = _COUNTS.match(self._text, at)
        if match is None:
            return None
        self._at = match.end()
        least = int(match[1])
        most = (int(match[3]) if match[3] else None) if match[2] else least
        if max(least, most or 0) > HIGHEST_COUNT:
            raise self._bad(f"repetitions count to {HIGHEST_COUNT} at most", at)
        if most is not None and most < least:
            raise self._bad("the least of a repetition is above its most", at)
        return least, most

    def _item(self) -> Node:
        character = self._next()
        if character in ("*", "+", "?") or _COUNTS.match(self._text, self._at):
            raise self._bad("nothing to repeat")
        if character == "(":
            return self._group()
        if character == "[":
            return Characters(self._class())
        if character == "\\":
            held = self._escape()
            return _characters(held if isinstance(held, tuple) else characters(held))
        self._at += 1
        if character == ".":
            return Characters(without(EVERY, _LINE_ENDS))
        if character in ("^", "$"):
            return _ANCHORS[character]
        return Text(self._allowed(character, self._at - 1))

    def _allowed(self, character: str, at: int) -> str:
        if not includes(EVERY, ord(character)):
            raise self._bad(f"U+{ord(character):04X} is in no output", at)
        return character

    def _group(self) -> Node:
        at = self._at
        self._at += 1
        if self._take("?"):
            name = re.compile(r"P<[A-Za-z_]\w*>|:", re.ASCII).match(self._text, self._at)
            if name is None:
                raise self._bad(f"{self._text[at : at + 4]} is not supported", at)
            self._at = name.end()
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._bad(f"groups nest more than {DEEPEST} deep", at)
        node = self._choice()
        self._depth -= 1
        if not self._take(")"):
            raise self._bad("missing )", at)
        return node

    # --- characters ---

    def _escape(self) -> str | Ranges:
        """Returns the one character, or the set, that an escape outside of a class means."""
        at = self._at
        letter = self._text[at + 1 : at + 2]
        self._at += 2
        if letter in _NARROW:
            return _NARROW[letter]
        if letter and letter.lower() in _NARROW:
            return _rest(letter.lower())
        return self._allowed(self._one(letter, at), at)

    def _one(self, letter: str, at: int) -> str:
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter in _HEXADECIMAL:
            digits = self._text[self._at : self._at + _HEXADECIMAL[letter]]
            if not re.fullmatch(f"[0-9a-fA-F]{{{_HEXADECIMAL[letter]}}}", digits):
                raise self._bad(f"\\{letter} takes {_HEXADECIMAL[letter]} hexadecimal digits", at)
            self._at += len(digits)
            if int(digits, 16) > EVERY[-1][1]:
                raise self._bad("there is no such character", at)
            return chr(int(digits, 16))
        if not letter:
            raise self._bad("a backslash at the end", at)
        if letter.isalnum() or letter == "_" or not letter.isascii():
            raise self._bad(f"\\{letter} is not supported", at)
        return letter

    def _class(self) -> Ranges:
        at = self._at
        self._at += 1
        negated = self._take("^")
        if self._next() == "]":
            raise self._bad("[] means different things to different engines", at)
        held: list[tuple[int, int]] = []
        while not self._take("]"):
            if not self._next():
                raise self._bad("unterminated character set", at)
            held += self._class_part(negated)
        found = ranges(held)
        return without(EVERY, found) if negated else found

    def _class_part(self, negated: bool) -> Ranges:
        at = self._at
        first = self._class_item(negated)
        if self._next() != "-" or self._text[self._at + 1 : self._at + 2] in ("", "]"):
            return first if isinstance(first, tuple) else characters(first)
        self._at += 1
        last = self._class_item(negated)
        if isinstance(first, tuple) or isinstance(last, tuple):
            raise self._bad("a range of sets", at)
        if first > last:
            raise self._bad("a range that ends before it begins", at)
        return ((ord(first), ord(last)),)

    def _class_item(self, negated: bool) -> str | Ranges:
        at = self._at
        if self._next() != "\\":
            self._at += 1
            return self._text[at]
        letter = self._text[at + 1 : at + 2]
        self._at += 2
        if letter and letter.lower() in _NARROW:
            # What is taken away is the most that the escape can mean.
            wide = (
                widest(letter.lower()) if negated == letter.islower() else _NARROW[letter.lower()]
            )
            return wide if letter.islower() else without(EVERY, wide)
        return self._one(letter, at)


@cache
def _rest(letter: str) -> Ranges:
    r"""Returns what `\D`, `\W` or `\S` means to any engine, by the letter in lower case."""
    return without(EVERY, widest(letter))


def _characters(held: Ranges) -> Node:
    one = len(held) == 1 and held[0][0] == held[0][1]
    return Text(chr(held[0][0])) if one else Characters(held)
