"""Harmony, which gpt-oss writes: messages, each with a header that names a role and a channel.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary
    to=functions.NAME <|constrain|>json<|message|>{...}<|call|>

The prompt ends with `<|start|>assistant`, so the output begins within a header. A message to
`functions.NAME` is a call; of others, the channel `analysis` and messages to built-in tools are
reasoning, and `final` and `commentary` are text.
"""

from __future__ import annotations

import re

from tokenwire_frontend.core.parsers.literals import JSON
from tokenwire_frontend.core.parsers.stream import Broken, Steps, Stream, finder, plain_name

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
HARMONY_MARKERS = (_START, _CHANNEL, _MESSAGE, "<|constrain|>", *_ENDS)

IN_REASONING = f"{_CHANNEL}analysis{_MESSAGE}"
"""The end of a prompt after which reasoning follows."""

AFTER_REASONING = _ENDS[0]

HEADER_LIMIT = 512
"""Characters of a header: a role, a channel, a recipient of NAME_LIMIT and a content type."""

_RECIPIENT = re.compile(r"\bto=([^\s<\ud800-\udfff]+)")
_FUNCTIONS = "functions."


def read_messages(
    stream: Stream, *, calls: bool, thoughts: bool, in_reasoning: bool
) -> Steps[None]:
    """Reads all of an output.

    Args:
        stream: the output.
        calls: whether calls are given out as such, and not as text.
        thoughts: whether reasoning is.
        in_reasoning: whether the prompt ends after the header of a message with reasoning.
    """
    begins = (stream.form(_START), stream.form(_CHANNEL))
    ends = tuple(map(stream.form, _ENDS))
    if in_reasoning:
        mark = yield from _read_body(stream, (*begins, *ends), thought=thoughts)
    else:
        mark = yield from stream.ahead((*begins, stream.form(_MESSAGE), "to="))
    while True:
        try:
            if mark is None or mark in ends:
                mark = yield from _read_body(stream, (*begins, *ends), thought=False)
                if mark is None:
                    return
                continue
            header = mark
            if mark != stream.form(_MESSAGE):
                header += (yield from stream.until((stream.form(_MESSAGE),), HEADER_LIMIT))[0]
            mark = yield from _read_message(stream, header, calls=calls, thoughts=thoughts)
        except Broken:
            stream.end(complete=False)
            stream.give_back()
            mark = None


def _read_message(stream: Stream, header: str, *, calls: bool, thoughts: bool) -> Steps[str | None]:
    """Reads a message's content, and returns what ends it; None where nothing did."""
    found = _RECIPIENT.search(header)
    recipient = found[1] if found is not None else ""
    ends = (stream.form(_START), *map(stream.form, _ENDS))
    if calls and recipient.startswith(_FUNCTIONS):
        name = recipient.removeprefix(_FUNCTIONS)
        if not plain_name(name) or (yield from stream.peek_after_space()) != "{":
            raise Broken
        yield from stream.space()
        stream.begin(name)
        yield from stream.value(JSON, argument=True)
        stream.end()
        return (yield from stream.ahead(ends))
    channel = header.partition(stream.form(_CHANNEL))[2].lstrip()
    built_in = recipient != "" and not recipient.startswith(_FUNCTIONS)
    thought = thoughts and (channel.startswith("analysis") or built_in)
    return (yield from _read_body(stream, (stream.form(_CHANNEL), *ends), thought=thought))


def _read_body(stream: Stream, marks: tuple[str, ...], *, thought: bool) -> Steps[str | None]:
    """Reads text or reasoning up to a mark, and returns it; None at the output's end."""
    give = stream.reasoning if thought else stream.text
    find = finder(marks, "")
    while True:
        found = find.search(stream.buffer, stream.at)
        if found is not None:
            give(found.start() - stream.at)
            return stream.read(len(found[0]))
        end = len(stream.buffer)
        certain = end if stream.ended else find.certain(stream.buffer, stream.at)
        give(certain - stream.at)
        if stream.ended:
            return None
        yield
