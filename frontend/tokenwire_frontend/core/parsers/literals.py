"""A value in JSON or in Python's notation, read as it comes and given out as JSON text.

A character costs the same wherever it stands: nesting is a list, bounded by DEPTH_LIMIT, and
nothing is read twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

DEPTH_LIMIT = 256
"""Levels of nesting; Python's own reader of JSON, and others, stop at about 1,000."""

WORD_LIMIT = 1024
"""Characters of a number, the longest of which has some 300 digits as a double."""

_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PYTHON_NUMBER = re.compile(
    r"[+-]?(?:[0-9](?:_?[0-9])*\.?(?:[0-9](?:_?[0-9])*)?|\.[0-9](?:_?[0-9])*)"
    r"(?:[eE][+-]?[0-9](?:_?[0-9])*)?"
)
_SPACE = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"[0-9A-Za-z_.+\-]*")
# What ends a run of characters that stand for themselves; special tokens are lone surrogates.
_STOPS = {quote: re.compile(rf"[{quote}\\\x00-\x1f\ud800-\udfff]") for quote in ('"', "'")}
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}
_JSON_WORDS = frozenset({"true", "false", "null"})
_JSON_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})')
_PYTHON_ESCAPES = {
    "\n": "", "\\": "\\\\", "'": "'", '"': '\\"', "a": "\\u0007", "b": "\\b", "f": "\\f",
    "n": "\\n", "r": "\\r", "t": "\\t", "v": "\\u000b",
}  # fmt: skip
_HIGH_HALF = re.compile(r"\\u[dD][89abAB]..")
_LOW_HALF = re.compile(r"\\u[dD][c-fC-F]..")
_ESCAPE_SIZES = {"u": 6, "x": 4, "U": 10}


def as_json_string(text: str) -> str:
    """Returns the text as it stands within a JSON string, without the quotes."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _json_word(word: str) -> str | None:
    return word if word in _JSON_WORDS or _JSON_NUMBER.fullmatch(word) else None


def _python_word(word: str) -> str | None:
    known = _PYTHON_WORDS.get(word) or _json_word(word)
    if known is not None:
        return known
    if not _PYTHON_NUMBER.fullmatch(word):
        return None
    digits = word.replace("_", "").removeprefix("+")
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    mantissa, exponent, power = digits.lower().partition("e")
    whole, point, fraction = mantissa.partition(".")
    whole = whole.lstrip("0") or "0"
    return f"{sign}{whole}{point and '.' + (fraction or '0')}{exponent}{power}"


def _json_escape(escape: str) -> str | None:
    return escape if _JSON_ESCAPE.fullmatch(escape) else None


def _python_escape(escape: str) -> str | None:
    kind = escape[1]
    if kind in _PYTHON_ESCAPES:
        return _PYTHON_ESCAPES[kind]
    digits = escape[1:] if kind in "01234567" else escape[2:]
    if kind not in "01234567xuU":
        return "\\\\" + as_json_string(kind)
    try:
        code = int(digits, 8 if kind in "01234567" else 16)
        return as_json_string(chr(code)) if not 0xD800 <= code < 0xE000 else f"\\u{code:04x}"
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Notation:
    """How values are written."""

    quotes: str
    brackets: Mapping[str, tuple[str, str, str]]
    """By opening bracket: what closes it, and both in JSON."""
    word: Callable[[str], str | None]
    """Returns a number or a constant as JSON, or None."""
    escape: Callable[[str], str | None]
    """Returns an escape sequence as JSON, or None."""
    lenient: bool
    """A comma before a closing bracket, numbers as keys, and three quotes in a row are allowed.
    White space then comes out as JSON usually has it, not as it stood."""


JSON = Notation(
    '"', {"{": ("}", "{", "}"), "[": ("]", "[", "]")}, _json_word, _json_escape, lenient=False
)
PYTHON = Notation(
    "\"'",
    {**JSON.brackets, "(": (")", "[", "]")},
    _python_word,
    _python_escape,
    lenient=True,
)


class _Expects(Enum):
    VALUE = auto()
    FIRST_VALUE = auto()
    """A value, or the end of a list."""
    FIRST_KEY = auto()
    """A key, or the end of an object."""
    KEY = auto()
    COLON = auto()
    COMMA = auto()
    """A comma, or the end of what the value is in."""
    STRING = auto()
    ESCAPE = auto()
    WORD = auto()
    QUOTES = auto()
    """Second and third of three quotes, where a string has begun with one."""


class ValueReader:
    """One value of a notation.

    Strings may have control characters in them, which come out as escapes, since models write line
    feeds there. Half of a surrogate pair, which many readers of JSON refuse, comes out as U+FFFD.
    Special tokens within a string are left out.

    Args:
        notation: JSON or PYTHON.
    """

    __slots__ = (
        "_closers", "_comma", "_expects", "_half", "_is_key", "_notation", "_out", "_quote",
        "_quotes", "_token", "_triple", "broken", "done",
    )  # fmt: skip

    def __init__(self, notation: Notation = JSON) -> None:
        self.done = False
        """The value is complete."""
        self.broken = False
        """What came is not a value, whatever follows."""
        self._notation = notation
        self._expects = _Expects.VALUE
        # By level: what closes it, in the notation and in JSON.
        self._closers: list[tuple[str, str]] = []
        # A comma that was read and may yet turn out to be the last.
        self._comma = False
        self._is_key = False
        self._quote = ""
        self._triple = False
        # Quotes in a row, where three may come.
        self._quotes = 0
        self._token = ""
        # The escape sequence of the first half of a surrogate pair.
        self._half = ""
        self._out: list[str] = []

    def take(self) -> str:
        """Returns the JSON text that was read since this was last called."""
        text = "".join(self._out)
        self._out.clear()
        return text

    def read(self, text: str, at: int, end: int) -> int:
        """Reads on, and returns where it stopped: at `end`, after the value, or where it broke."""
        while at < end and not self.done and not self.broken:
            expects = self._expects
            if expects is _Expects.STRING:
                at = self._read_string(text, at, end)
            elif expects is _Expects.ESCAPE:
                at = self._read_escape(text, at)
            elif expects is _Expects.WORD:
                at = self._read_word(text, at, end)
            elif expects is _Expects.QUOTES:
                at = self._read_quotes(text, at)
            else:
                space = _SPACE.match(text, at, end)
                if space is not None and space.end() > at:
                    if not self._notation.lenient:
                        self._out.append(text[at : space.end()])
                    at = space.end()
                if at < end:
                    at = self._read_mark(text[at], at)
        return at

    def finish(self) -> bool:
        """Returns whether the value is complete, now that nothing follows."""
        if self._expects is _Expects.WORD:
            self._end_word()
        elif self._expects is _Expects.QUOTES:
            self._end_string()
        return self.done

    def _read_mark(self, mark: str, at: int) -> int:
        """Reads a character outside of strings and words, and returns where to go on."""
        expects, notation = self._expects, self._notation
        if expects is _Expects.COLON and mark == ":":
            self._out.append(": " if notation.lenient else ":")
            self._expects = _Expects.VALUE
        elif expects is _Expects.COMMA and mark == ",":
            self._comma = True
            if not notation.lenient:
                self._give_comma()
            in_object = self._closers[-1][1] == "}"
            if notation.lenient:
                self._expects = _Expects.FIRST_KEY if in_object else _Expects.FIRST_VALUE
            else:
                self._expects = _Expects.KEY if in_object else _Expects.VALUE
        elif self._may_close() and mark == self._closers[-1][0]:
            self._comma = False
            self._out.append(self._closers.pop()[1])
            self._end_value()
        elif expects in (_Expects.KEY, _Expects.FIRST_KEY):
            return self._begin_scalar(mark, at, is_key=True)
        elif expects in (_Expects.VALUE, _Expects.FIRST_VALUE):
            if mark not in notation.brackets:
                return self._begin_scalar(mark, at, is_key=False)
            self._open(mark)
        else:
            self.broken = True
            return at
        return at if self.broken else at + 1

    def _may_close(self) -> bool:
        return bool(self._closers) and self._expects in (
            _Expects.COMMA, _Expects.FIRST_KEY, _Expects.FIRST_VALUE,
        )  # fmt: skip

    def _open(self, mark: str) -> None:
        if len(self._closers) == DEPTH_LIMIT:
            self.broken = True
            return
        self._give_comma()
        close, json_open, json_close = self._notation.brackets[mark]
        self._closers.append((close, json_close))
        self._out.append(json_open)
        self._expects = _Expects.FIRST_KEY if json_open == "{" else _Expects.FIRST_VALUE

    def _begin_scalar(self, mark: str, at: int, *, is_key: bool) -> int:
        self._is_key = is_key
        if mark in self._notation.quotes:
            self._give_comma()
            self._out.append('"')
            lenient = self._notation.lenient
            self._quote, self._triple, self._quotes = mark, False, int(lenient)
            self._expects = _Expects.QUOTES if lenient else _Expects.STRING
            return at + 1
        if (is_key and not self._notation.lenient) or not _WORD.fullmatch(mark):
            self.broken = True
            return at
        self._give_comma()
        self._token = ""
        self._expects = _Expects.WORD
        return at

    def _give_comma(self) -> None:
        if self._comma:
            self._out.append(", " if self._notation.lenient else ",")
            self._comma = False

    def _end_value(self) -> None:
        if self._is_key:
            self._is_key = False
            self._expects = _Expects.COLON
        else:
            self._expects = _Expects.COMMA
            self.done = not self._closers

    # Words: numbers and constants.

    def _read_word(self, text: str, at: int, end: int) -> int:
        found = _WORD.match(text, at, min(end, at + WORD_LIMIT + 1 - len(self._token)))
        stop = found.end() if found is not None else at
        self._token += text[at:stop]
        if len(self._token) > WORD_LIMIT:
            self.broken = True
        elif stop < end:
            self._end_word()
        return stop

    def _end_word(self) -> None:
        word = self._notation.word(self._token)
        if word is None:
            self.broken = True
            return
        self._out.append(f'"{word}"' if self._is_key else word)
        self._end_value()

    # Strings.

    def _read_string(self, text: str, at: int, end: int) -> int:
        found = _STOPS[self._quote].search(text, at, end)
        stop = end if found is None else found.start()
        if stop > at:
            self._give_quotes()
            run = text[at:stop]
            self._out.append(run.replace('"', '\\"') if self._quote == "'" else run)
        if found is None:
            return end
        mark = text[stop]
        if mark == self._quote:
            self._quotes += 1
            if not self._triple or self._quotes == 3:
                self._end_string()
        elif mark == "\\":
            if self._quotes:
                self._give_quotes()
            self._token = mark
            self._expects = _Expects.ESCAPE
        elif mark <= "\x7f":
            self._give_quotes()
            self._out.append(as_json_string(mark))
        return stop + 1

    def _give_quotes(self) -> None:
        """Gives out quotes that did not end a string which three of them would end."""
        if self._quotes:
            self._out.append(('\\"' if self._quote == '"' else "'") * self._quotes)
            self._quotes = 0
        self._give_half()

    def _give_half(self) -> None:
        """Gives out half of a surrogate pair whose other half did not follow."""
        if self._half:
            self._out.append("\\ufffd")
            self._half = ""

    def _end_string(self) -> None:
        self._give_half()
        self._out.append('"')
        self._end_value()

    def _read_quotes(self, text: str, at: int) -> int:
        """Reads what follows a string's first quote: two more, or one that ends it, or its text."""
        if text[at] == self._quote:
            self._quotes += 1
            self._triple = self._quotes == 3
            if not self._triple:
                return at + 1
        elif self._quotes == 2:
            self._end_string()
            return at
        self._quotes = 0
        self._expects = _Expects.STRING
        return at + 1 if self._triple else at

    def _read_escape(self, text: str, at: int) -> int:
        """Reads one more character of an escape sequence, which ends with it or before it."""
        token, mark = self._token, text[at]
        octal = self._notation.lenient and token[1:2] != "" and token[1] in "01234567"
        if octal and (len(token) == 4 or mark not in "01234567"):
            self._end_escape()
            return at
        token = self._token = token + mark
        begins_octal = self._notation.lenient and token[1] in "01234567"
        if not begins_octal and len(token) == self._escape_size(token[1]):
            self._end_escape()
        return at if self.broken else at + 1

    def _escape_size(self, kind: str) -> int:
        if kind == "u" or self._notation.lenient:
            return _ESCAPE_SIZES.get(kind, 2)
        return 2

    def _end_escape(self) -> None:
        escape = self._notation.escape(self._token)
        if escape is None:
            self.broken = True
            return
        self._expects = _Expects.STRING
        if self._half and _LOW_HALF.fullmatch(escape):
            self._out.append(self._half + escape)
            self._half = ""
            return
        self._give_half()
        if _HIGH_HALF.fullmatch(escape):
            self._half = escape
        else:
            self._out.append("\\ufffd" if _LOW_HALF.fullmatch(escape) else escape)
