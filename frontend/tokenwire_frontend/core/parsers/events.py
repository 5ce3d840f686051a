"""What a parser finds in a sequence's output.

Each event has the raw output that it came from. Joined over all events, in their order, the raw
output is everything that was pushed, special tokens with their own text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """Text for the user; empty where only markers came."""

    text: str
    raw: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the model's reasoning."""

    text: str
    raw: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A tool call whose name is known."""

    index: int
    """Which call of the sequence, from 0."""
    id: str
    name: str
    raw: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """The next part of a call's arguments as JSON text.

    It is empty where only markers came, or the beginning of an escape sequence or of a word.
    The parts of a complete call, joined, are one JSON object.
    """

    index: int
    text: str
    raw: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The end of a call."""

    index: int
    complete: bool
    """False: the output ended within the call, or went on with something else than a call."""
    raw: str


Event = Text | Reasoning | CallBegin | Arguments | CallEnd
