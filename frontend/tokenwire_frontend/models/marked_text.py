"""Text of a caller that keeps its origin while a chat template cuts, joins and changes it.

Each character of it that control tokens are made of stands for itself in another plane of Unicode,
one for private use: it is marked. So what the template writes tells, character by character, what
the caller wrote, whatever the template did with it. What the template asks about the text, such as
whether it begins with "<think>", is answered for the text as the caller wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, SupportsIndex

from tokenwire_frontend.models.template_sizes import PARTS_LIMIT, TooLargeError

PLANES = (15, 16)
"""Unicode's planes for private use."""

_UNMARKED = frozenset(" \"'\\0123456789")
"""Characters that are trimmed or escaped, and those that numbers are read from."""

_ESCAPED = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|\\U00(?:0f|10)[0-9a-f]{4}")
"""A mark as JSON, or Python's `repr`, writes it in ASCII."""


class Marks:
    """The marks of one request, of a plane that its text has no character of.

    Marked is every character that can be read and belongs to plane 0, but for a few that templates
    must see as they are.
    """

    def __init__(self, plane: int) -> None:
        self.plane = plane
        self._table = _Table(plane)
        self._ascii_planes = bytes(self._table[code] >> 16 for code in range(128)) + bytes(128)
        self._to_plane_0 = bytes(0 if code == plane else code for code in range(256))

    def mark(self, text: str) -> str:
        """Returns text of the caller with its marks, as a MarkedText where it has any."""
        if text.isascii():  # str.translate takes ten times as long
            whole = bytearray(text.encode("utf-32-le"))
            whole[2::4] = text.encode().translate(self._ascii_planes)
            marked = whole.decode("utf-32-le")
        else:
            marked = text.translate(self._table)
        return text if marked == text else MarkedText(self, marked, text)

    def mark_all(self, value: Any) -> Any:
        """Returns a value of JSON with all its texts marked, keys included."""
        if isinstance(value, str):
            return self.mark(value)
        if isinstance(value, list):
            return [self.mark_all(each) for each in value]
        if isinstance(value, dict):
            return {self.mark(name): self.mark_all(each) for name, each in value.items()}
        return value

    def noted(self, text: str) -> str:
        """Returns a text that was made of others as MarkedText where it has marks."""
        if type(text) is str and self.are_in(text):
            return MarkedText(self, text, self.unmarked(text))
        return text

    def are_in(self, text: str) -> bool:
        """Tells whether a text has marks."""
        return not text.isascii() and self.plane in planes(text)

    def unmarked(self, text: str) -> str:
        """Returns a text as it was before it was marked; of the same length."""
        whole = bytearray(text.encode("utf-32-le", "surrogatepass"))
        whole[2::4] = whole[2::4].translate(self._to_plane_0)
        return whole.decode("utf-32-le", "surrogatepass")

    def unescaped(self, text: str) -> str:
        """Returns a text with the marks that were escaped in JSON or by `repr` as marks again."""

        def mark(found: re.Match[str]) -> str:
            escape = found[0]
            if escape[1] == "U":
                code = int(escape[2:], 16)
            else:
                high, low = int(escape[2:6], 16), int(escape[8:], 16)
                code = 0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF)
            if code >> 16 != self.plane:
                return escape
            own = code & 0xFFFF  # beyond ASCII, JSON would have escaped the character itself
            return chr(code) if escape[1] == "U" or own < 128 else f"\\u{own:04x}"

        return _ESCAPED.sub(mark, text)


def planes(text: str) -> bytes:
    """Returns the plane of Unicode of each character of a text."""
    return text.encode("utf-32-le", "surrogatepass")[2::4]


class _Table(dict[int, int]):
    """The mark of each code point that has one, else itself; for `str.translate`."""

    def __init__(self, plane: int) -> None:
        self._start = plane << 16

    def __missing__(self, code: int) -> int:
        character = chr(code)
        marked = code < 2**16 and character.isprintable() and character not in _UNMARKED
        self[code] = mark = self._start + code if marked else code
        return mark


class MarkedText(str):
    """Marked text: as a string it is the marked one, asked it answers as the unmarked one.

    Whatever is not overridden here, such as `str.join` or JSON, takes the marked text.
    """

    __slots__ = ("_marks", "_plain")
    _marks: Marks
    _plain: str

    def __new__(cls, marks: Marks, marked: str, plain: str) -> Self:
        """Makes one of the marked text, and the same without marks."""
        self = super().__new__(cls, marked)
        self._marks = marks
        self._plain = plain
        return self

    def __hash__(self) -> int:
        return hash(self._plain)

    def __iter__(self) -> Iterator[str]:
        _check_parts(len(self))
        return (self._cut(place, place + 1) for place in range(len(self)))

    def __add__(self, other: str, /) -> str:
        return self._marks.noted(super().__add__(other))

    def __radd__(self, other: str, /) -> str:
        return self._marks.noted(other.__add__(self))

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        return MarkedText(self._marks, super().__getitem__(key), self._plain[key])

    def strip(self, chars: str | None = None, /) -> str:
        """As `str.strip`."""
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> str:
        """As `str.lstrip`."""
        return self._cut(len(self) - len(self._plain.lstrip(plain(chars))), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        """As `str.rstrip`."""
        return self._cut(0, len(self._plain.rstrip(plain(chars))))

    def removeprefix(self, prefix: str, /) -> str:
        """As `str.removeprefix`."""
        return self._cut(len(self) - len(self._plain.removeprefix(plain(prefix))), len(self))

    def removesuffix(self, suffix: str, /) -> str:
        """As `str.removesuffix`."""
        return self._cut(0, len(self._plain.removesuffix(plain(suffix))))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As `str.split`."""
        return self._pieces(self._plain.split(plain(sep), maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As `str.rsplit`."""
        return self._pieces(self._plain.rsplit(plain(sep), maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        """As `str.splitlines`."""
        return self._pieces(self._plain.splitlines(keepends), None)

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        """As `str.partition`."""
        head, middle, tail = self._pieces(self._plain.partition(plain(sep)), "")
        return head, middle, tail

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        """As `str.rpartition`."""
        head, middle, tail = self._pieces(self._plain.rpartition(plain(sep)), "")
        return head, middle, tail

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        """As `str.replace`."""
        if not old:
            return self._marks.mark(self._plain.replace(old, plain(new), count))
        return self._marks.noted(str.join(new, self.split(old, count)))

    def _changed(self, text: str) -> str:
        """Returns what was made of this text with marks: at the same places, if it is as long."""
        whole = self._marks.mark(text)
        if len(text) != len(self) or self._marks.mark(self._plain) == str(self):
            return whole
        own = self._marks.plane
        pairs = zip(planes(self), str(whole), text, strict=True)
        return self._marks.noted("".join(m if at == own else each for at, m, each in pairs))

    def _cut(self, start: int, end: int) -> str:
        return self[start:end]

    def _pieces(self, pieces: Sequence[str], between: str | None) -> list[str]:
        """Returns the pieces, which stand in the text in order, marked.

        `between` is what stands between two of them; None where that is white space.
        """
        _check_parts(len(pieces))
        found = []
        end = 0
        for number, piece in enumerate(pieces):
            start = self._plain.find(piece, end) if between is None else end
            if number and between is not None:
                start += len(between)
            end = start + len(piece)
            found.append(self._cut(start, end))
        return found


def _check_parts(count: int) -> None:
    """Refuses more parts than take 0.1 s of CPU time, since nothing counts them as steps."""
    if count > PARTS_LIMIT:
        raise TooLargeError(f"makes {count} parts of a text; at most {PARTS_LIMIT}")


def plain(value: Any) -> Any:
    """Returns a value without marks where it is MarkedText, or a tuple of them."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return value._plain if isinstance(value, MarkedText) else value  # noqa: SLF001 - its own


def _asking(name: str) -> Callable[..., Any]:
    ask = getattr(str, name)

    def asking(self: MarkedText, *args: Any) -> Any:
        return ask(plain(self), *map(plain, args))

    asking.__name__ = name
    return asking


def _changing(name: str) -> Callable[..., Any]:
    change = getattr(str, name)

    def changing(self: MarkedText, *args: Any) -> str:
        return self._changed(change(plain(self), *map(plain, args)))

    changing.__name__ = name
    return changing


for _name in (
    "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__", "startswith",
    "endswith", "find", "rfind", "index", "rindex", "count", "isalnum", "isalpha", "isascii",
    "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace",
    "istitle", "isupper",
):  # fmt: skip
    setattr(MarkedText, _name, _asking(_name))
for _name in ("lower", "upper", "title", "capitalize", "casefold", "swapcase", "translate"):
    setattr(MarkedText, _name, _changing(_name))
