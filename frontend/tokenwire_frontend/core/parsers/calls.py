"""The forms in which models write tool calls; `formats` declares each model's own with them.

A form reads one or more calls where its marker has been read. What breaks before a call has begun
becomes text as a whole; what breaks within a call ends it incomplete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tokenwire_frontend.core.json_text import JsonTextError, json_object
from tokenwire_frontend.core.parsers.literals import JSON, PYTHON
from tokenwire_frontend.core.parsers.parameters import (
    ParameterValue,
    Tools,
    json_key,
    types_of,
)
from tokenwire_frontend.core.parsers.stream import Broken, Steps, Stream, finder, plain_name

_NEXT_OBJECT = ("{", ";{", "; {", ";\n{", ",{", ", {", ",\n{")
"""How another object follows one, after white space."""

_IDENTIFIER = re.compile(r"[^\W\d]\w*")


class Form(Protocol):
    """How calls are written between the markers of a section, or where they have none."""

    @property
    def opens(self) -> str:
        """What begins each call; empty where nothing does."""
        ...

    def markers(self) -> Iterable[str]:
        """Returns its markers, of which a tokenizer may have some as special tokens."""
        ...

    def read(self, stream: Stream, tools: Tools, *, known: bool) -> Steps[None]:
        """Reads calls, at least one, of which `opens` is read already.

        Args:
            stream: the output.
            tools: those that may be called.
            known: only a tool's name makes a call.
        """
        ...


def _check(name: str, tools: Tools, *, known: bool) -> str:
    """Returns a tool's name.

    Raises:
        Broken: no tool has it, though one should, or none can have it.
    """
    if name not in tools and (known or not plain_name(name)):
        raise Broken
    return name


@dataclass(frozen=True)
class JsonCalls:
    """Objects with a name and arguments: one, several with `;`, `,` or white space, or a list.

    Keys may stand in any order; arguments before the name are held until it comes. Arguments may be
    an object, a string that holds one, null or absent.
    """

    name: Collection[str] = ("name",)
    arguments: Collection[str] = ("arguments", "parameters")
    id: Collection[str] = ()
    opens: str = ""

    def markers(self) -> Iterable[str]:
        """Returns none."""
        return ()

    def read(self, stream: Stream, tools: Tools, *, known: bool) -> Steps[None]:
        """Reads calls."""
        yield from stream.space()
        if (yield from stream.ahead(("[",))):
            while True:
                yield from self._one(stream, tools, known=known)
                if (yield from stream.ahead((",", "]"))) != ",":
                    return
        yield from self._one(stream, tools, known=known)
        while (yield from stream.ahead(_NEXT_OBJECT)):
            yield from self._members(stream, tools, known=known)

    def _one(self, stream: Stream, tools: Tools, *, known: bool) -> Steps[None]:
        yield from stream.literal("{")
        yield from self._members(stream, tools, known=known)

    def _members(self, stream: Stream, tools: Tools, *, known: bool) -> Steps[None]:
        """Reads an object after its bracket."""
        call = _JsonCall(stream, known=known)
        closed = yield from stream.ahead(("}",))
        while not closed:
            yield from stream.space()
            key = yield from stream.string()
            yield from stream.literal(":")
            yield from stream.space()
            if key in self.name and call.name is None:
                call.name = _check((yield from stream.string()), tools, known=known)
            elif key in self.id and not call.begun:
                call.id = yield from stream.string()
            elif key in self.arguments and call.held is None and not call.begun:
                yield from call.arguments()
            elif known and not call.begun and key not in ("type", "id"):
                raise Broken
            else:
                yield from stream.value(JSON)
            call.begin_held()
            mark = yield from stream.ahead((",", "}"))
            if mark is None and not call.begun:
                raise Broken
            closed = None if mark == "," else "}"
        call.close()


class _JsonCall:
    """One call on its way through an object's members."""

    __slots__ = ("begun", "held", "id", "known", "name", "stream")

    def __init__(self, stream: Stream, *, known: bool) -> None:
        self.stream = stream
        self.known = known
        self.name: str | None = None
        self.id: str | None = None
        self.held: str | None = None
        """Arguments that came before the name."""
        self.begun = False

    def arguments(self) -> Steps[None]:
        """Reads the arguments, which begin here."""
        stream = self.stream
        first = yield from stream.peek()
        if first == "{" and self.name is not None:
            self._begin(self.name)
            yield from stream.value(JSON, argument=True)
            return
        held = yield from stream.value(JSON)
        if first == '"':
            held = json.loads(held) or "{}"
            try:
                json_object(held)
            except JsonTextError:
                raise Broken from None
        elif first != "{":
            if held != "null":
                raise Broken
            held = "{}"
        self.held = held

    def begin_held(self) -> None:
        """Begins the call where its name and arguments are known now."""
        if self.held is not None and self.name is not None and not self.begun:
            self._begin(self.name)
            self.stream.arguments(self.held)

    def close(self) -> None:
        """Ends the call with its object."""
        if not self.begun:
            if self.name is None or self.known:
                raise Broken
            self.held = "{}"
            self.begin_held()
        self.stream.end()

    def _begin(self, name: str) -> None:
        self.begun = True
        self.stream.begin(name, self.id)


@dataclass(frozen=True)
class HeadedCalls:
    """A head of names and marks, and then the arguments as a JSON object.

    Args:
        opens: what begins a call.
        head: what each mark begins: `name`, `id`, another word that must stand there, or None for
            the arguments. The entry of "" is what stands first.
        closes: what ends a call; it may be absent.
        fence: whether arguments may stand in a fenced block of Markdown.
        name_in_id: whether the name is the id without a prefix and a number: `functions.NAME:0`.
        or_json: the form that calls have where JSON stands in the head's place.
    """

    opens: str
    head: Mapping[str, str | None]
    closes: str = ""
    fence: bool = False
    name_in_id: bool = False
    or_json: JsonCalls | None = None

    def markers(self) -> Iterable[str]:
        """Returns those of a call and of its head."""
        return (each for each in (self.opens, *self.head, self.closes) if each.strip())

    def read(self, stream: Stream, tools: Tools, *, known: bool) -> Steps[None]:
        """Reads one call, or those of a JSON list where there may be one."""
        if self.or_json is not None and (yield from stream.peek_after_space()) in ("[", "{"):
            yield from self.or_json.read(stream, tools, known=known)
            return
        fields: dict[str, str] = {}
        marks = {stream.form(mark): each for mark, each in self.head.items() if mark}
        what: str | None = self.head[""]
        while what is not None:
            text, mark = yield from stream.until(tuple(marks))
            fields[what] = text.strip()
            if what not in ("name", "id") and fields[what] != what:
                raise Broken
            what = marks[mark]
        call_id = fields.get("id")
        name = fields.get("name", call_id or "")
        if self.name_in_id:
            name = name.removeprefix("functions.").rpartition(":")[0] or name
        _check(name, tools, known=known)
        if self.fence:
            yield from stream.ahead(("```json", "```"))
        if (yield from stream.peek_after_space()) != "{":
            raise Broken
        yield from stream.space()
        stream.begin(name, call_id)
        yield from stream.value(JSON, argument=True)
        stream.end()
        if self.fence:
            yield from stream.ahead(("```",))
        if self.closes:
            yield from stream.ahead((stream.form(self.closes),))


@dataclass(frozen=True)
class ParameterCalls:
    """A name, and parameters each between markers of its own, without quotes.

    Args:
        opens: what begins a call; the name follows.
        named: what stands after the name.
        parameter: what begins a parameter; its name follows.
        value: what stands between a parameter's name and its value, and of which types it may then
            be; none where the tool's schema says so.
        value_ends: what ends a value.
        closes: what ends a call.
        trim: whether one line feed at either side of a value belongs to the format.
        value_opens: what stands before a value besides, after white space.
    """

    opens: str
    named: str
    parameter: str
    value: Mapping[str, frozenset[str]]
    value_ends: str
    closes: str
    trim: bool = False
    value_opens: str = ""

    def markers(self) -> Iterable[str]:
        """Returns those of a call and of its parameters."""
        own = (self.opens, self.parameter, *self.value, self.value_opens, self.value_ends)
        return filter(None, (*own, self.closes))

    def read(self, stream: Stream, tools: Tools, *, known: bool) -> Steps[None]:
        """Reads one call."""
        yield from stream.space()
        name = _check((yield from stream.name()), tools, known=known)
        if self.named:
            yield from stream.literal(stream.form(self.named))
        parameter, closes = stream.form(self.parameter), stream.form(self.closes)
        values = {stream.form(mark): types for mark, types in self.value.items()}
        before = "{"
        while True:
            mark = yield from stream.ahead((parameter, closes))
            if mark is None:
                raise Broken
            if stream.call is None:
                stream.begin(name)
            if mark == closes:
                break
            key, mark = yield from stream.until(tuple(values))
            if self.value_opens:
                yield from stream.literal(stream.form(self.value_opens))
            stream.arguments(before + json_key(stream.shown(key.strip())))
            types = values[mark] or types_of(tools, name, key.strip())
            yield from self._value(stream, ParameterValue(types, trim=self.trim))
            before = ", "
        stream.arguments("{}" if before == "{" else "}")
        stream.end()

    def _value(self, stream: Stream, value: ParameterValue) -> Steps[None]:
        ends = stream.form(self.value_ends)
        find = finder((ends,), "")
        while True:
            found = find.search(stream.buffer, stream.at)
            stop = find.certain(stream.buffer, stream.at) if found is None else found.start()
            text = value.push(stream.shown(stream.read(stop - stream.at)))
            if found is not None:
                stream.read(len(ends))
                stream.arguments(text + value.finish())
                return
            if text:
                stream.arguments(text)
            yield from stream.more()
            if stream.ended:
                raise Broken


@dataclass(frozen=True)
class PythonCalls:
    """Python calls with keyword arguments, in a list or one after the other."""

    opens: str = ""

    def markers(self) -> Iterable[str]:
        """Returns none."""
        return ()

    def read(self, stream: Stream, tools: Tools, *, known: bool) -> Steps[None]:
        """Reads calls."""
        listed = yield from stream.ahead(("[",))
        if known and not listed:
            raise Broken
        while True:
            yield from self._one(stream, tools, known=known)
            mark = yield from stream.ahead((",", "]") if listed else (",",))
            if mark == "]" or (mark is None and (listed or not (yield from self._goes_on(stream)))):
                return
            if mark and listed and (yield from stream.ahead(("]",))):
                return

    def _goes_on(self, stream: Stream) -> Steps[bool]:
        """Returns whether a name stands here, where a comma might."""
        following = yield from stream.peek_after_space()
        return _IDENTIFIER.match(following) is not None

    def _one(self, stream: Stream, tools: Tools, *, known: bool) -> Steps[None]:
        yield from stream.space()
        name = _check((yield from stream.name()), tools, known=known)
        yield from stream.literal("(")
        before = "{"
        while not (yield from stream.ahead((")",))):
            yield from stream.space()
            key = yield from stream.name()
            if not _IDENTIFIER.fullmatch(key):
                raise Broken
            yield from stream.literal("=")
            yield from stream.space()
            if stream.call is None:
                stream.begin(name)
            stream.arguments(before + json_key(key))
            yield from stream.value(PYTHON, argument=True)
            before = ", "
            mark = yield from stream.ahead((",", ")"))
            if mark == ")":
                break
            # Gemma's template writes earlier calls without commas, and models follow it.
            if mark is None and not (yield from self._goes_on(stream)):
                raise Broken
        if stream.call is None:
            stream.begin(name)
        stream.arguments("{}" if before == "{" else "}")
        stream.end()
