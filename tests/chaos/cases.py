"""What is asked for, of either engine, and the answers that it has when nothing else goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tokenwire import _requests
from tokenwire.channel_arguments import REQUEST_BYTES
from tokenwire.frontend.v1 import generation_pb2 as pb

from tests.chaos.answers import Told

WORDS = (
    *("Paris", "story", "once", "number", "green", "two", "lamp", "the", "capital", "of"),
    *("seven", "river", "tell", "me", "why"),
)
TOOLS = [
    {
        "name": f"get_{what}",
        "description": f"Get the {what} in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    }
    for what in ("weather", "time")
]
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "digits": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 9, "maxItems": 20},
    },
    "required": ["colour", "digits"],
    "additionalProperties": False,
}
CITIES = ("Paris", "Oslo", "Rome", "Madrid")


@dataclass(frozen=True)
class Case:
    """One request, as the client's arguments."""

    kind: str
    prompt: str | None
    chat: list[dict[str, Any]] | None
    options: Mapping[str, Any]

    @property
    def sequences(self) -> int:
        """How many it asks for."""
        count: int = self.options.get("n", 1)
        return count

    def generation(self, request_id: str) -> pb.Generation:
        """Returns it as the contract's message."""
        options: Any = {**self.options, "request_id": request_id}
        return _requests.generation(self.prompt, self.chat, options, REQUEST_BYTES)


@dataclass(frozen=True)
class Known:
    """A case with its answer."""

    case: Case
    expected: Sequence[Told]


Ask = Callable[[Case], Awaitable[list[Told]]]
"""Asks for a case and returns its answer."""


async def known_cases(engine: str, count: int, seed: str, ask: Ask) -> list[Known]:
    """Returns about so many cases with their answers, which are asked for one after the other."""
    source = Random(f"{seed}/cases")
    made = _simulated(source) if engine == "simulated" else _openvino(source)
    known = []
    for _ in range(count):
        case = next(made)
        if case.kind == "stop":
            case = _stopping(case, await ask(case), source)
        known.append(Known(case, await ask(case)))
        await asyncio.sleep(0)
    return known


def _stopping(case: Case, answers: Sequence[Told], source: Random) -> Case:
    """Returns the case with a stop string from the middle of its text."""
    text = answers[0].text
    place = source.randrange(len(text) // 4, max(3 * len(text) // 4, len(text) // 4 + 1))
    stop = text[place : place + source.randrange(2, 8)]
    options = dict(case.options)
    if stop and "\ufffd" not in stop:  # a part of a character is not searched for
        options["stop"] = [stop]
    return Case(case.kind, case.prompt, case.chat, options)


def _words(source: Random) -> str:
    return " ".join(source.choice(WORDS) for _ in range(source.randrange(3, 40)))


def _length(source: Random) -> int:
    """Returns a limit of tokens: most answers are short, some long."""
    return source.choice((8, 40, 80, 80, 160, 160, 320))


def _simulated(source: Random) -> Iterator[Case]:
    while True:
        greedy = {"temperature": 0.0}
        seeded = {"temperature": 0.9, "top_p": 0.95, "seed": source.randrange(2**32)}
        yield Case("greedy", _words(source), None, {**greedy, "max_tokens": _length(source)})
        yield Case("seeded", _words(source), None, {**seeded, "max_tokens": _length(source)})
        yield Case("stop", _words(source), None, {**greedy, "max_tokens": 160})
        many = {**seeded, "n": source.randrange(2, 5), "max_tokens": _length(source) // 2}
        yield Case("n > 1", _words(source), None, many)
        chat = [{"role": "user", "content": _words(source)}]
        yield Case("chat", None, chat, {**greedy, "max_tokens": _length(source)})


def _openvino(source: Random) -> Iterator[Case]:
    while True:
        yield from _openvino_texts(source)
        yield from _openvino_chats(source)


def _openvino_texts(source: Random) -> Iterator[Case]:
    greedy = {"temperature": 0.0, "ignore_eos": True}
    seeded = {"temperature": 0.9, "seed": source.randrange(2**32), "ignore_eos": True}
    length = min(_length(source), 160)
    yield Case("greedy", _words(source), None, {**greedy, "max_tokens": length})
    yield Case("seeded", _words(source), None, {**seeded, "max_tokens": length})
    yield Case("stop", _words(source), None, {**greedy, "max_tokens": 120})
    yield Case("n > 1", _words(source), None, {**greedy, "n": 2, "max_tokens": length // 2})
    logprobs = {**greedy, "logprobs": True, "max_tokens": length}
    yield Case("logprobs", _words(source), None, logprobs)
    penalty = {**greedy, "frequency_penalty": 0.5, "max_tokens": length}
    yield Case("penalty", _words(source), None, penalty)
    guide = source.choice(
        (
            {"json_schema": json.dumps(SCHEMA)},
            {"regex": "[a-z ]{20,60}\\."},
            {"choice": ["the green lamp", "the green river", "the blue lamp"]},
        )
    )
    yield Case("guided", _words(source), None, {"temperature": 0.0, "max_tokens": 100, **guide})


def _openvino_chats(source: Random) -> Iterator[Case]:
    greedy = {"temperature": 0.0, "max_tokens": 160}
    question = f"What is the {source.choice(('weather', 'time'))} in {source.choice(CITIES)}?"
    asked = [{"role": "user", "content": question}]
    yield Case("tools", None, asked, {**greedy, "tools": TOOLS})
    story = [{"role": "user", "content": f"Tell me a story about {source.choice(WORDS)}."}]
    yield Case("chat", None, story, greedy)
    total = f"What is {source.randrange(100, 999)} + {source.randrange(100, 999)}?"
    thinking = {**greedy, "template_arguments": {"enable_thinking": True}}
    yield Case("reasoning", None, [{"role": "user", "content": total}], thinking)
