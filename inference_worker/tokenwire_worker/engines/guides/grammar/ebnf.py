"""Reads the EBNF of callers, the dialect of xgrammar.

Lookahead and tag dispatch are not read: they steer xgrammar's search and say nothing about texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenwire_worker.engines.guides.grammar.characters import EVERY, ranges, without
from tokenwire_worker.engines.guides.grammar.nodes import (
    EMPTY,
    Characters,
    Grammar,
    Node,
    Rule,
    Text,
    choice,
    repeat,
    sequence,
)

DEEPEST = 64
"""Groups within groups."""

HIGHEST_COUNT = 100_000
"""Most of a repetition's bound; outputs are shorter by far."""

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+|\#[^\r\n]*)
    |(?P<assign>::=)
    |(?P<macro>(?:TagDispatch|TokenTagDispatch|Token|ExcludeToken)\s*\()
    |(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)
    |(?P<text>"(?:[^"\\\r\n]|\\.)*")
    |(?P<set>\[(?:[^\]\\\r\n]|\\.)*\])
    |(?P<counts>\{\s*[0-9]+\s*(?:,\s*[0-9]*\s*)?\})
    |(?P<ahead>\(=)
    |(?P<sign>[()|*+?])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))|(.)", re.DOTALL
)
_CONTROLS = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "f": "\f",
    "v": "\v",
    "b": "\b",
    "a": "\a",
    "e": "\x1b",
}


class BadGrammarError(Exception):
    """A grammar that is malformed or not supported; says what and where."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def read(text: str) -> Grammar:
    """Returns the grammar that a text describes; its root rule is `root`.

    Raises:
        BadGrammarError: it is malformed or not supported.
    """
    return _Reader(text).grammar()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._tokenize()
        self._at = 0
        self._depth = 0
        self._used: dict[str, _Token] = {}

    def grammar(self) -> Grammar:
        rules: dict[str, Node] = {}
        while self._next().kind != "end":
            name = self._take("name", "a rule's name")
            if name.text in rules:
                raise self._bad(f"rule {name.text!r} is defined twice", name)
            self._take("assign", "::=")
            rules[name.text] = self._choice()
        for used, token in self._used.items():
            if used not in rules:
                raise self._bad(f"rule {used!r} is not defined", token)
        if "root" not in rules:
            raise BadGrammarError("there is no rule named root")
        return Grammar(Rule("root"), rules)

    def _bad(self, what: str, token: _Token) -> BadGrammarError:
        line = self._text.count("\n", 0, token.at) + 1
        column = token.at - self._text.rfind("\n", 0, token.at)
        return BadGrammarError(f"{what}, at line {line}, column {column}")

    # --- tokens ---

    def _tokenize(self) -> list[_Token]:
        tokens, at = [], 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None or match.lastgroup is None:
                opens = self._text[at] in '"['
                what = f"{self._text[at]} is not closed" if opens else "unexpected character"
                raise self._bad(what, _Token("", "", at))
            if match.lastgroup != "space":
                tokens.append(_Token(match.lastgroup, match[0], at))
            at = match.end()
        return [*tokens, _Token("end", "", at), _Token("end", "", at)]

    def _next(self, ahead: int = 0) -> _Token:
        return self._tokens[self._at + ahead]

    def _take(self, kind: str, what: str) -> _Token:
        token = self._next()
        if token.kind != kind:
            raise self._bad(f"{what} is expected", token)
        self._at += 1
        return token

    def _take_sign(self, sign: str) -> bool:
        token = self._next()
        if token.kind != "sign" or token.text != sign:
            return False
        self._at += 1
        return True

    # --- nodes ---

    def _choice(self) -> Node:
        items = [self._sequence()]
        while self._take_sign("|"):
            items.append(self._sequence())
        return choice(items)

    def _sequence(self) -> Node:
        items = [self._quantified()]
        while not self._is_over():
            items.append(self._quantified())
        return sequence(*items)

    def _is_over(self) -> bool:
        token = self._next()
        if token.kind == "name":
            return self._next(1).kind == "assign"
        return token.kind == "end" or token.text in ("|", ")")

    def _quantified(self) -> Node:
        item = self._item()
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._take_sign(sign):
                return repeat(item, least, most)
        token = self._next()
        if token.kind != "counts":
            return item
        self._at += 1
        fewest, comma, limit = token.text[1:-1].partition(",")
        count = int(fewest)
        most = (int(limit) if limit.strip() else None) if comma else count
        if max(count, most or 0) > HIGHEST_COUNT:
            raise self._bad(f"repetitions count to {HIGHEST_COUNT} at most", token)
        if most is not None and most < count:
            raise self._bad("the least of a repetition is above its most", token)
        return repeat(item, count, most)

    def _item(self) -> Node:
        token = self._next()
        self._at += 1
        if token.kind == "text":
            return Text("".join(self._characters(token)))
        if token.kind == "set":
            return self._set(token)
        if token.kind == "name":
            self._used.setdefault(token.text, token)
            return Rule(token.text)
        if token.text == "(":
            return self._group(token)
        if token.kind == "macro":
            raise self._bad(f"{token.text}) is not supported", token)
        if token.kind == "ahead":
            raise self._bad("lookahead is not supported", token)
        raise self._bad("a literal, a set, a rule or a group is expected", token)

    def _group(self, token: _Token) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._bad(f"groups nest more than {DEEPEST} deep", token)
        node = EMPTY if self._next().text == ")" else self._choice()
        self._depth -= 1
        if not self._take_sign(")"):
            raise self._bad(") is expected", self._next())
        return node

    # --- characters ---

    def _characters(self, token: _Token) -> list[str]:
        """Returns the characters between the signs that enclose them."""
        return [one for one, _ in self._pieces(token)]

    def _pieces(self, token: _Token) -> list[tuple[str, bool]]:
        """Returns each character, and whether it was escaped."""
        pieces = []
        for match in _ESCAPE.finditer(token.text[1:-1]):
            digits = match[1] or match[2] or match[3]
            where = _Token("", "", token.at + 1 + match.start())
            if digits:
                one = self._numbered(int(digits, 16), where)
            elif match[4]:
                one = self._escaped(match[4], where)
            else:
                one = match[5]
            # In a set such a character adds nothing.
            is_in_output = one != "\0" and not "\ud800" <= one <= "\udfff"
            if token.kind == "text" and not is_in_output:
                raise self._bad(f"U+{ord(one):04X} is in no output", where)
            pieces.append((one, match[5] is None))
        return pieces

    def _numbered(self, code_point: int, where: _Token) -> str:
        if code_point > EVERY[-1][1]:
            raise self._bad("there is no such character", where)
        return chr(code_point)

    def _escaped(self, letter: str, where: _Token) -> str:
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter.isalnum() or not letter.isascii():
            raise self._bad(f"\\{letter} is not supported", where)
        return letter

    def _set(self, token: _Token) -> Node:
        pieces = self._pieces(token)
        negated = bool(pieces) and pieces[0] == ("^", False)
        if negated:
            pieces = pieces[1:]
        held, at = [], 0
        while at < len(pieces):
            first = last = pieces[at][0]
            if at + 2 < len(pieces) and pieces[at + 1] == ("-", False):
                last = pieces[at + 2][0]
                at += 2
            if first > last:
                raise self._bad("a range that ends before it begins", token)
            held.append((ord(first), ord(last)))
            at += 1
        found = ranges(held)
        return Characters(without(EVERY, found) if negated else found)
