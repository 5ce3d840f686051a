"""Where in a sequence's output text, reasoning and tool calls stand."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

CALL_BYTES = 40
"""Most bytes of the beginning of a tool call on the wire besides its id and name: numbers, tags and
lengths of five fields and of the message around them."""


class Channel(Enum):
    """What a part of the output is."""

    TEXT = "text"
    REASONING = "reasoning"
    CALL = "call"
    """Arguments of a tool call, as JSON text."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next part of the output."""

    channel: Channel
    text: str = ""
    call: int = 0
    """Which call of the sequence, from 0."""
    opens: tuple[str, str] | None = None
    """Id and name of the call, where it begins here; such a piece has no text."""

    def encode(self) -> bytes:
        """Returns what stands for it in the log.

        Where it opens a call, that is the room that this takes on the wire, so that a log is cut by
        the bytes that it has.
        """
        if self.opens is None:
            return self.text.encode()
        return bytes(CALL_BYTES + sum(len(each.encode()) for each in self.opens))


@dataclass(slots=True)
class CallDelta:
    """What is new of one tool call."""

    index: int
    id: str
    """Empty where the call began before."""
    name: str
    arguments: str
    arguments_offset: int
    """UTF-8 bytes of the call's arguments before these."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Bytes of the log that are of one kind."""

    start: int
    channel: Channel
    call: int
    opens: tuple[str, str] | None
    opened: int
    """Where it ends, if it opens a call."""
    text: int
    """UTF-8 bytes of text before it."""
    reasoning: int
    """UTF-8 bytes of reasoning before it."""
    arguments: int
    """UTF-8 bytes of its call's arguments before it."""


class Runs:
    """The kinds of a log's bytes; what no run covers is text."""

    __slots__ = ("_arguments", "_runs", "_starts")

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._starts: list[int] = []
        self._arguments: dict[int, int] = {}

    def add(self, piece: Piece, start: int, size: int) -> None:
        """Notes that `size` bytes from `start` on, the log's end, are this piece."""
        last = self._runs[-1] if self._runs else None
        if piece.channel is Channel.CALL and piece.opens is None:
            before = self._arguments.get(piece.call, 0)
            self._arguments[piece.call] = before + size
        else:
            before = 0
        if last is None:
            if piece.channel is Channel.TEXT:
                return
            last = _Run(0, Channel.TEXT, 0, None, 0, 0, 0, 0)
        elif (
            last.opens is None
            and piece.opens is None
            and (last.channel, last.call) == (piece.channel, piece.call)
        ):
            return
        text, reasoning = self._at(last, start)
        run = _Run(
            start, piece.channel, piece.call, piece.opens, start + size, text, reasoning, before
        )
        self._runs.append(run)
        self._starts.append(start)

    def offsets(self, place: int) -> tuple[int, int]:
        """Returns the bytes of text and of reasoning before a place of the log."""
        number = bisect_right(self._starts, place) - 1
        return self._at(self._runs[number], place) if number >= 0 else (max(place, 0), 0)

    def _parts(self, start: int, end: int) -> Iterator[tuple[_Run | None, int, int]]:
        """Yields the runs of a part of the log, and from where to where each goes; None: text."""
        number = bisect_right(self._starts, start) - 1
        while start < end:
            following = number + 1
            stop = self._starts[following] if following < len(self._starts) else end
            yield self._runs[number] if number >= 0 else None, start, min(stop, end)
            start, number = stop, following

    def read(
        self, start: int, end: int, raw: bytes | bytearray
    ) -> tuple[str, str, list[CallDelta]]:
        """Returns the text, the reasoning and the calls of a part of the log.

        `raw` are the part's bytes. A call begins in the part with its beginning's last byte.
        """
        text, reasoning, calls = bytearray(), bytearray(), dict[int, CallDelta]()
        for run, begins, stops in self._parts(start, end):
            part = raw[begins - start : stops - start]
            if run is None or run.channel is Channel.TEXT:
                text += part
            elif run.channel is Channel.REASONING:
                reasoning += part
            elif run.opens is None:
                call = calls.get(run.call)
                if call is None:
                    before = run.arguments + begins - run.start
                    call = calls[run.call] = CallDelta(run.call, "", "", "", before)
                call.arguments += part.decode()
            elif stops == run.opened:
                calls[run.call] = CallDelta(run.call, *run.opens, "", 0)
        return text.decode(), reasoning.decode(), list(calls.values())

    def drop(self, place: int) -> None:
        """Forgets what is before a place of the log."""
        number = bisect_right(self._starts, place) - 1
        if number > 0:
            del self._runs[:number], self._starts[:number]

    def _at(self, run: _Run, place: int) -> tuple[int, int]:
        size = place - run.start
        return (
            run.text + (size if run.channel is Channel.TEXT else 0),
            run.reasoning + (size if run.channel is Channel.REASONING else 0),
        )
