"""The parser of one sequence's output, and what a model's parsers share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping

from tokenwire_frontend.core.channels import Channel
from tokenwire_frontend.core.parsers.events import Event
from tokenwire_frontend.core.parsers.formats import Harmony, ReasoningFormat, ToolFormat
from tokenwire_frontend.core.parsers.harmony import (
    AFTER_REASONING,
    HARMONY_MARKERS,
    IN_REASONING,
    read_messages,
)
from tokenwire_frontend.core.parsers.parameters import Tools
from tokenwire_frontend.core.parsers.stream import (
    FIRST_SYMBOL,
    SPACE_LIMIT,
    Broken,
    Steps,
    Stream,
    finder,
)

OPENING_CHARACTERS = 64
"""Characters at a prompt's end among which the beginning of reasoning is looked for."""


class OutputFormat:
    """How a model's output is read: prepared once, for all its requests.

    Args:
        tools: how it writes calls; None where calls are not looked for.
        reasoning: how it marks reasoning; None where that is text. Harmony marks both or neither:
            beside it, another format is as if it were Harmony.
        special_tokens: texts by id of the tokens that the plain text leaves out. Of the formats'
            markers, those that are such tokens count only as them, never as text that looks alike.
    """

    __slots__ = ("marks", "reasoning", "symbols", "tools")

    def __init__(
        self,
        tools: ToolFormat | Harmony | None,
        reasoning: ReasoningFormat | Harmony | None,
        special_tokens: Mapping[int, str],
    ) -> None:
        self.tools = tools
        self.reasoning = reasoning
        markers = [*self.markers()]
        self.symbols: dict[str, str] = {}
        """What stands in a stream, by the text of each special token that the formats know."""
        self.marks: dict[int, str] = {}
        """The same by id: what OutputParser.push takes in the place of such a token's text."""
        for token_id, text in special_tokens.items():
            if text.strip() and any(text in marker for marker in markers):
                symbol = self.symbols.setdefault(text, chr(FIRST_SYMBOL + len(self.symbols)))
                self.marks[token_id] = symbol

    def opened_by(self, prompt: str, *, continued: str = "") -> bool:
        """Returns whether a prompt ends within reasoning, so that the output begins there.

        Args:
            prompt: its text with special tokens, or the end of it.
            continued: the message that the output continues, where it continues one.
        """
        if self.reasoning is None:
            return False
        opens, closes = (
            (IN_REASONING, AFTER_REASONING)
            if isinstance(self.reasoning, Harmony)
            else (self.reasoning.opens, self.reasoning.closes)
        )
        if continued:
            return continued.rfind(opens) > continued.rfind(closes)
        return prompt[-OPENING_CHARACTERS:].rstrip().endswith(opens.rstrip())

    def markers(self) -> Iterator[str]:
        """Returns the formats' markers, as text."""
        if isinstance(self.tools, Harmony) or isinstance(self.reasoning, Harmony):
            yield from HARMONY_MARKERS
        if isinstance(self.tools, ToolFormat):
            yield from self.tools.markers()
        if isinstance(self.reasoning, ReasoningFormat):
            yield from (self.reasoning.opens, self.reasoning.closes)


class OutputParser:
    """Makes events of one sequence's output, the same for every split of it.

    Args:
        output_format: the model's.
        call_id: makes the id of a call by its index in the sequence; called once for each, and
            only where the output has none.
        tools: JSON Schemas of the parameters of the tools that the request gives, by name.
        in_reasoning: whether the prompt ends within reasoning.
        shows_tokens: whether special tokens that mark nothing are text, as they are where a request
            asks for them.
    """

    __slots__ = ("_format", "_in_reasoning", "_steps", "_stream", "_tools")

    def __init__(
        self,
        output_format: OutputFormat,
        call_id: Callable[[int], str],
        tools: Tools,
        *,
        in_reasoning: bool = False,
        shows_tokens: bool = False,
    ) -> None:
        self._format = output_format
        self._tools = tools
        self._in_reasoning = in_reasoning
        self._stream = Stream(
            output_format.symbols,
            _fitting(call_id, output_format.tools),
            shows_tokens=shows_tokens,
        )
        self._steps: Iterator[None] = self._read()

    def push(self, text: str) -> list[Event]:
        """Takes the next text, or a mark of OutputFormat.marks; returns what is certain now."""
        self._stream.push(text)
        return self._advance()

    def passes(self, text: str) -> Channel | None:
        """Takes the next text where all of it goes out, and nothing else; returns whereto.

        Returns None, and takes nothing, where that is not sure at a glance. The hot path.
        """
        stream = self._stream
        if not text or stream.open is None or stream.at < len(stream.buffer):
            return None
        channel, find = stream.open
        if not find.sure(text):
            return None
        if channel is Channel.TEXT:
            stream.fresh = False
        return channel

    def finish(self) -> list[Event]:
        """Returns the rest: the sequence has ended. Nothing may be pushed after it."""
        self._stream.ended = True
        return self._advance()

    def _advance(self) -> list[Event]:
        next(self._steps, None)
        events, self._stream.events = self._stream.events, []
        return events

    def _read(self) -> Steps[None]:
        tools, reasoning = self._format.tools, self._format.reasoning
        stream = self._stream
        if isinstance(tools, Harmony) or isinstance(reasoning, Harmony):
            yield from read_messages(
                stream,
                calls=tools is not None,
                thoughts=reasoning is not None,
                in_reasoning=self._in_reasoning,
            )
            return
        reader = _Reader(stream, tools, reasoning, self._tools, in_reasoning=self._in_reasoning)
        yield from reader.read()


def _fitting(
    call_id: Callable[[int], str], tools: ToolFormat | Harmony | None
) -> Callable[[int], str]:
    """Returns a maker of ids as the model's chat template takes them back."""
    size = tools.id_characters if isinstance(tools, ToolFormat) else None
    if size is None:
        return call_id
    return lambda index: hashlib.sha256(call_id(index).encode()).hexdigest()[:size]


class _Reader:
    """Reads an output in which text is between reasoning and calls."""

    __slots__ = (
        "_bare", "_closes", "_format", "_in_reasoning", "_reasoning", "_stream", "_tools",
        "_triggers",
    )  # fmt: skip

    def __init__(
        self,
        stream: Stream,
        tool_format: ToolFormat | None,
        reasoning: ReasoningFormat | None,
        tools: Tools,
        *,
        in_reasoning: bool,
    ) -> None:
        self._stream = stream
        self._format = tool_format
        self._reasoning = reasoning
        self._tools = tools
        self._in_reasoning = in_reasoning and reasoning is not None
        # By what begins a section: what ends it.
        self._closes: dict[str, str] = {}
        self._bare = ""
        self._triggers: tuple[str, ...] = ()
        if tool_format is not None:
            form, self._bare = stream.form, tool_format.bare
            self._closes = {form(each[0]): form(each[1]) for each in tool_format.sections}
            opens = form(tool_format.form.opens)
            alone = (opens,) if opens and (tool_format.alone or not self._closes) else ()
            self._triggers = (*self._closes, *alone, *self._bare)

    def read(self) -> Steps[None]:
        """Reads all of it."""
        while True:
            trigger = yield from self._read_reasoning()
            if trigger is None:
                trigger = yield from self._read_text()
            if trigger is None:
                return
            try:
                yield from self._read_calls(trigger)
            except Broken:
                yield from self._mend(trigger)

    def _mend(self, trigger: str) -> Steps[None]:
        """Gives out what broke: all of it as text, if no call had begun."""
        stream = self._stream
        if stream.call is None:
            stream.give_back()
            return
        stream.end(complete=False)
        closes = self._closes.get(trigger)
        if closes:
            yield from stream.ahead((closes,))

    def _read_reasoning(self) -> Steps[str | None]:
        """Reads reasoning, if it begins here; returns what begins calls within it, if that does."""
        stream, reasoning = self._stream, self._reasoning
        if reasoning is None or not stream.fresh:
            return None
        opened = yield from stream.ahead((stream.form(reasoning.opens),))
        if opened is None and not self._in_reasoning:
            return None
        self._in_reasoning = False
        closes = stream.form(reasoning.closes)
        # A special token is certain to be meant, and models forget to end their reasoning.
        tokens = [each for each in self._triggers if each[0] >= chr(FIRST_SYMBOL)]
        find = finder((closes, *tokens), r"\n")
        yield from stream.newlines()
        while True:
            found = find.search(stream.buffer, stream.at)
            if found is not None:
                stream.reasoning(found.start() - stream.at)
                stream.read(len(found[0]))
                if found["marker"] != closes:
                    return found["marker"]
                yield from stream.newlines()
                return None
            end = len(stream.buffer)
            certain = end if stream.ended else find.certain(stream.buffer, stream.at)
            stream.reasoning(certain - stream.at)
            if stream.ended:
                return None
            stream.open = Channel.REASONING, find
            yield
            stream.open = None

    def _read_text(self) -> Steps[str | None]:
        """Reads text up to what begins calls, and returns that; None at the output's end.

        It is read, too, unless it is a bare one.
        """
        stream = self._stream
        find = finder(self._triggers, r"\s")
        start = stream.at
        while True:
            found = find.search(stream.buffer, start)
            if found is None:
                end = len(stream.buffer)
                certain = end if stream.ended else find.certain(stream.buffer, start)
                if stream.ended and self._trails(stream.buffer[stream.at :]):
                    stream.read(end - stream.at)
                    certain = stream.at
                stream.text(certain - stream.at)
                if stream.ended:
                    return None
                stream.open = Channel.TEXT, find
                yield
                stream.open = None
                start = stream.at
                continue
            trigger = found["marker"]
            bare = trigger in self._bare
            if bare and not self._begins_line(found):
                start = found.end()
                continue
            stream.text(found.start() - stream.at)
            stream.read(len(found[0]) - (len(trigger) if bare else 0))
            return trigger

    def _begins_line(self, found: re.Match[str]) -> bool:
        """Returns whether a bare trigger is the first of a line, of the output or after a call."""
        if "\n" in found[0]:
            return True
        return self._stream.fresh and found.start() == self._stream.at

    def _trails(self, rest: str) -> bool:
        """Returns whether an output's last characters are white space after its last call."""
        stream = self._stream
        return stream.fresh and stream.calls > 0 and len(rest) <= SPACE_LIMIT and not rest.strip()

    def _read_calls(self, trigger: str) -> Steps[None]:
        """Reads calls that begin here.

        Raises:
            Broken: what stands here is not one.
        """
        stream, tools = self._stream, self._tools
        if self._format is None:
            return
        form = self._format.form
        closes = self._closes.get(trigger)
        if closes is None:
            yield from form.read(stream, tools, known=trigger in self._bare)
        elif form.opens:
            opens, some = stream.form(form.opens), False
            marks = (opens, closes) if closes else (opens,)
            while (yield from stream.ahead(marks)) == opens:
                yield from form.read(stream, tools, known=False)
                some = True
            if not some:
                raise Broken
        else:
            yield from form.read(stream, tools, known=False)
            if closes:
                yield from stream.ahead((closes,))
