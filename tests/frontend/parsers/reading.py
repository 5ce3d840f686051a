"""How tests feed a parser, and put its events together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tokenwire_frontend.core.channels import Channel
from tokenwire_frontend.core.parsers import (
    REASONING_FORMATS,
    TOOL_FORMATS,
    Arguments,
    CallBegin,
    CallEnd,
    Event,
    OutputFormat,
    OutputParser,
    Reasoning,
    Text,
)
from tokenwire_frontend.core.stop_matcher import SpecialTokens

from tests.frontend.parsers.outputs import Output

TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "units": {"enum": ["c", "f"]},
            "places": {"type": "array", "items": {"type": "string"}},
            "options": {"type": "object"},
            "exact": {"type": "boolean"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    },
    "now": {"type": "object", "properties": {}},
}


def formats(output: Output, special_tokens: dict[int, str] | None = None) -> OutputFormat:
    tools = TOOL_FORMATS[output.format]
    reasoning = REASONING_FORMATS[output.thinks] if output.thinks else None
    return OutputFormat(tools, reasoning, special_tokens or {})


def parser(output: Output, output_format: OutputFormat) -> OutputParser:
    return OutputParser(output_format, "call_{}".format, TOOLS, in_reasoning=output.in_reasoning)


def special_tokens(output_format: OutputFormat) -> dict[int, str]:
    """All of the formats' markers that look like special tokens."""
    markers = sorted(
        {each for each in output_format.markers() if each[0] in "<[" and each[-1] in ">]"}
    )
    return {100 + number: each for number, each in enumerate(markers)}


def pieces(
    output_format: OutputFormat, special: dict[int, str], raw: str, size: Callable[[], int]
) -> Iterator[str]:
    """What a detokenizer gives: text in pieces of some sizes, and marks for special tokens."""
    for place, part in enumerate(SpecialTokens(special).split(raw)):
        if place % 2:
            yield output_format.symbols[part]
            continue
        start = 0
        while start < len(part):
            end = start + size()
            yield part[start:end]
            start = end


def feed(output_parser: OutputParser, parts: Iterable[str]) -> list[Event]:
    events: list[Event] = []
    for part in parts:
        channel = output_parser.passes(part)
        if channel is None:
            events += output_parser.push(part)
        else:
            events.append((Text if channel is Channel.TEXT else Reasoning)(part, part))
    return events + output_parser.finish()


@dataclass
class Call:
    id: str
    name: str
    arguments: str = ""
    complete: bool | None = None


@dataclass
class Found:
    """Events put together; each step of `order` is text, reasoning or a call."""

    order: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(value for kind, value in self.order if kind == "text")

    @property
    def reasoning(self) -> str:
        return "".join(value for kind, value in self.order if kind == "reasoning")

    @property
    def calls(self) -> list[Call]:
        return [value for kind, value in self.order if kind == "call"]


def put_together(events: Iterable[Event]) -> Found:
    found = Found()
    for event in events:
        match event:
            case Text(text=text) | Reasoning(text=text):
                kind = type(event).__name__.lower()
                if text and found.order and found.order[-1][0] == kind:
                    found.order[-1] = (kind, found.order[-1][1] + text)
                elif text:
                    found.order.append((kind, text))
            case CallBegin(index=index, id=call_id, name=name):
                assert index == len(found.calls)
                found.order.append(("call", Call(call_id, name)))
            case Arguments(index=index, text=text):
                assert index == len(found.calls) - 1
                assert found.calls[-1].complete is None
                found.calls[-1].arguments += text
            case CallEnd(index=index, complete=complete):
                assert index == len(found.calls) - 1
                found.calls[-1].complete = complete
    for each in found.calls:
        assert each.complete is not None
        if each.complete:
            assert isinstance(json.loads(each.arguments), dict)
    return found


def raw_of(events: Iterable[Event]) -> str:
    return "".join(event.raw for event in events)
