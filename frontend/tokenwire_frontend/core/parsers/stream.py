"""The output on its way through a parser: what is not read yet, and what no event has yet.

A format reads the output as a generator that yields where it needs more. Each of the steps below
decides by what it has seen and never by where a piece of text ended, so the events are the same
for every split. A format that meets what it does not know raises Broken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from tokenwire_frontend.core.channels import Channel
from tokenwire_frontend.core.parsers.events import (
    Arguments,
    CallBegin,
    CallEnd,
    Event,
    Reasoning,
    Text,
)
from tokenwire_frontend.core.parsers.literals import Notation, ValueReader

T = TypeVar("T")
Steps = Generator[None, None, T]

SPACE_LIMIT = 16
"""Characters of white space that may stand beside a marker: two line feeds and some indentation."""

NAME_LIMIT = 256
"""Characters of a tool's name, a parameter's, an id or a key, as written."""

HELD_LIMIT = 64 * 1024
"""Characters that a call may have before it is known whose it is, such as arguments that stand
before the name. The output of a usual request has fewer in all."""

FIRST_SYMBOL = 0xD800
"""Special tokens stand in the stream as lone surrogates: no decoded text has any."""

_SYMBOL = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(rf"\s{{0,{SPACE_LIMIT}}}")
_NAME = re.compile(r"[^\s<>{}()\[\]\"'`,;=|\uff5c\ud800-\udfff]*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class Broken(Exception):  # noqa: N818 - not an error: the text is text
    """What came is not what the format has here; nothing of it was read."""


def plain_name(name: str) -> bool:
    """Returns whether a tool may have this name, as far as formats without quotes know."""
    return 0 < len(name) <= NAME_LIMIT and _NAME.fullmatch(name) is not None


class Finder:
    """Finds the first of some markers in a text, with white space before it.

    Args:
        markers: as they stand in the stream.
        space: the white space that belongs to a marker, as a class of a regular expression; none
            where it is empty.
    """

    __slots__ = ("_begins", "_doubt", "_longest", "_markers", "_pattern", "_space")

    def __init__(self, markers: Collection[str], space: str = r"\s") -> None:
        self._markers = tuple(markers)
        either = "|".join(map(re.escape, self._markers)) or "(?!)"
        before = rf"{space}{{0,{SPACE_LIMIT}}}" if space else ""
        self._pattern = re.compile(rf"{before}(?P<marker>{either})")
        self._space = re.compile(rf"{before}\Z")
        self._begins = {marker[0] for marker in self._markers}
        self._longest = max(map(len, self._markers), default=0)
        begins = re.escape("".join(sorted(self._begins)))
        self._doubt = re.compile(rf"[{begins}\ud800-\udfff]" + (rf"|{space}\Z" if space else ""))

    def sure(self, text: str) -> bool:
        """Returns whether a text, with nothing held before it, surely has no part of a marker."""
        return self._doubt.search(text) is None

    def search(self, text: str, at: int) -> re.Match[str] | None:
        """Returns the first marker, of which "marker" is the group."""
        return self._pattern.search(text, at)

    def certain(self, text: str, at: int) -> int:
        """Returns up to where a text without a marker can have no part of one."""
        end = len(text)
        for place in range(max(at, end - self._longest + 1), end):
            if text[place] in self._begins and self._may_begin(text[place:]):
                end = place
                break
        found = self._space.search(text, max(at, end - SPACE_LIMIT), end)
        return end if found is None else found.start()

    def _may_begin(self, text: str) -> bool:
        return any(marker.startswith(text) for marker in self._markers)


@lru_cache(maxsize=64)
def finder(markers: tuple[str, ...], space: str) -> Finder:
    """Returns a finder, of which there are a few for each format."""
    return Finder(markers, space)


class Stream:
    """One sequence's output, and the events made of it.

    Args:
        symbols: what stands in the stream, by the text of each special token.
        call_id: makes the id of a call by its index.
        shows_tokens: whether special tokens that mark nothing are text.
    """

    __slots__ = (
        "_held", "_raw", "_shows_tokens", "_symbols", "_texts", "at", "buffer", "call", "call_id",
        "calls", "ended", "events", "fresh", "open",
    )  # fmt: skip

    def __init__(
        self,
        symbols: Mapping[str, str],
        call_id: Callable[[int], str],
        *,
        shows_tokens: bool = False,
    ) -> None:
        self.buffer = ""
        """What has come and, from `at` on, is not read."""
        self.at = 0
        self.ended = False
        """Nothing follows what has come."""
        self.events: list[Event] = []
        self.call_id = call_id
        self.call: int | None = None
        """The call that has begun and not ended."""
        self.calls = 0
        """Calls that have begun."""
        self.fresh = True
        """No text has come since the output's beginning, or since a call."""
        self.open: tuple[Channel, Finder] | None = None
        """Set while all that is not what this finds goes out at once, into this channel."""
        self._symbols = symbols
        self._shows_tokens = shows_tokens
        self._texts = {ord(symbol): text for text, symbol in symbols.items()}
        # What was read and no event has, and its size.
        self._raw: list[str] = []
        self._held = 0

    def push(self, text: str) -> None:
        """Takes what has come."""
        self.buffer = self.buffer[self.at :] + text
        self.at = 0

    def form(self, marker: str) -> str:
        """Returns a marker as it stands in the stream."""
        for text, symbol in self._symbols.items():
            if text in marker:
                marker = marker.replace(text, symbol)
        return marker

    # What formats read.

    def more(self) -> Steps[None]:
        """Waits for more.

        Raises:
            Broken: the output has ended.
        """
        if not self.ended:
            yield
        if self.ended and self.at >= len(self.buffer):
            raise Broken

    def read(self, size: int) -> str:
        """Reads characters that are there.

        Raises:
            Broken: more than HELD_LIMIT would be held.
        """
        if self._held + size > HELD_LIMIT and self.call is None:
            raise Broken
        return self._take(size)

    def peek(self) -> Steps[str]:
        """Returns the next character, which stays."""
        while self.at >= len(self.buffer):
            yield from self.more()
        return self.buffer[self.at]

    def peek_after_space(self) -> Steps[str]:
        """Returns the next character that is not white space, where it comes; nothing is read."""
        while True:
            found = _SPACE.match(self.buffer, self.at)
            end = self.at if found is None else found.end()
            if end < len(self.buffer) or self.ended:
                return self.buffer[end : end + 1]
            yield

    def newlines(self) -> Steps[None]:
        """Reads line feeds, at most SPACE_LIMIT, as far as they come."""
        left = SPACE_LIMIT
        while left:
            if self.at < len(self.buffer):
                if self.buffer[self.at] != "\n":
                    return
                self.read(1)
                left -= 1
            elif self.ended:
                return
            else:
                yield

    def space(self) -> Steps[None]:
        """Reads white space, at most SPACE_LIMIT characters."""
        left = SPACE_LIMIT
        while left and (yield from self.peek()).isspace():
            self.read(1)
            left -= 1

    def ahead(self, markers: Sequence[str]) -> Steps[str | None]:
        """Reads the marker that stands here, or after white space; None where none does.

        Args:
            markers: in their form; one that is another's beginning comes after it.
        """
        while True:
            found = _SPACE.match(self.buffer, self.at)
            start = self.at if found is None else found.end()
            rest = self.buffer[start : start + NAME_LIMIT]
            for marker in markers:
                if rest.startswith(marker):
                    self.read(start + len(marker) - self.at)
                    return marker
                if marker.startswith(rest) and not self.ended:
                    break
            else:
                return None
            yield

    def literal(self, marker: str) -> Steps[None]:
        """Reads a marker, and white space before it.

        Raises:
            Broken: it does not stand here.
        """
        if (yield from self.ahead((marker,))) is None:
            raise Broken

    def until(self, markers: Sequence[str], limit: int = NAME_LIMIT) -> Steps[tuple[str, str]]:
        """Reads up to the first of some markers, and it; returns both.

        Raises:
            Broken: none stands within the limit.
        """
        while True:
            places = [self.buffer.find(marker, self.at, self.at + limit) for marker in markers]
            found = [
                (place, marker) for place, marker in zip(places, markers, strict=True) if place >= 0
            ]
            if found:
                place, marker = min(found)
                return self.read(place - self.at), self.read(len(marker))
            if len(self.buffer) - self.at >= limit:
                raise Broken
            yield from self.more()
            if self.ended:
                raise Broken

    def name(self) -> Steps[str]:
        """Reads a name, which ends before white space, a bracket, a quote or such.

        Raises:
            Broken: there is none, or it is too long.
        """
        while True:
            found = _NAME.match(self.buffer, self.at, self.at + NAME_LIMIT + 1)
            end = self.at if found is None else found.end()
            if end - self.at > NAME_LIMIT or self.at == end < len(self.buffer):
                raise Broken
            if end < len(self.buffer):
                return self.read(end - self.at)
            if self.ended:
                raise Broken
            yield

    def string(self) -> Steps[str]:
        """Reads a JSON string of at most NAME_LIMIT characters.

        Raises:
            Broken: none stands here, or a longer one.
        """
        while True:
            found = _STRING.match(self.buffer, self.at, self.at + NAME_LIMIT)
            if found is not None:
                reader = ValueReader()
                reader.read(found[0], 0, len(found[0]))
                if not reader.done:
                    raise Broken
                text: str = json.loads(reader.take())
                self.read(len(found[0]))
                return text
            size = len(self.buffer) - self.at
            if size >= NAME_LIMIT or self.buffer[self.at : self.at + 1] not in ('"', ""):
                raise Broken
            yield from self.more()
            if self.ended:
                raise Broken

    def value(self, notation: Notation, *, argument: bool = False) -> Steps[str]:
        """Reads a value, and gives it out as arguments as it comes.

        Returns:
            The value as JSON, where no call has begun.

        Raises:
            Broken: it is not one; what was read until there is given out.
        """
        reader = ValueReader(notation)
        parts: list[str] = []
        while True:
            end = len(self.buffer)
            if self.call is None:
                end = min(end, self.at + max(HELD_LIMIT - self._held, 1))
            self.read(reader.read(self.buffer, self.at, end) - self.at)
            if self.call is None:
                parts.append(reader.take())
            else:
                text = reader.take()
                self.arguments(text if argument else "")
            if reader.done:
                return "".join(parts)
            if reader.broken:
                raise Broken
            if self.at >= len(self.buffer):
                yield from self.more()

    # What formats give out.

    def raw(self) -> str:
        """Returns what was read and no event has; then it counts as given out."""
        raw = "".join(self._raw)
        self._raw.clear()
        self._held = 0
        return raw.translate(self._texts) if self._texts and _SYMBOL.search(raw) else raw

    def text(self, size: int) -> None:
        """Reads characters that are there, any number, and gives them out as text."""
        text = self._take(size)
        if self._raw:
            self.events.append(Text(self.shown(text), self.raw()))
        if text:
            self.fresh = False

    def reasoning(self, size: int) -> None:
        """Reads characters that are there, any number, and gives them out as reasoning."""
        text = self._take(size)
        if self._raw:
            self.events.append(Reasoning(self.shown(text), self.raw()))

    def give_back(self) -> None:
        """Gives out as text what was read and no event has, markers included."""
        if self._raw:
            text = "".join(self._raw)
            self.events.append(Text(self.shown(text), self.raw()))
            self.fresh = False

    def begin(self, name: str, call_id: str | None = None) -> None:
        """Begins a call.

        Args:
            name: the tool's.
            call_id: the id that the output has for it.
        """
        index = self.call = self.calls
        self.calls += 1
        self.events.append(CallBegin(index, call_id or self.call_id(index), name, self.raw()))

    def arguments(self, text: str) -> None:
        """Gives out arguments of the call."""
        if self.call is not None and (text or self._raw):
            self.events.append(Arguments(self.call, text, self.raw()))

    def end(self, *, complete: bool = True) -> None:
        """Ends the call."""
        if self.call is not None:
            self.events.append(CallEnd(self.call, complete, self.raw()))
            self.call = None
            self.fresh = True

    def shown(self, text: str) -> str:
        """Returns a part of the stream as text, with or without special tokens."""
        if not self._symbols or not _SYMBOL.search(text):
            return text
        return text.translate(self._texts) if self._shows_tokens else _SYMBOL.sub("", text)

    def _take(self, size: int) -> str:
        text = self.buffer[self.at : self.at + size]
        if text:
            self.at += size
            self._raw.append(text)
            self._held += size
        return text
