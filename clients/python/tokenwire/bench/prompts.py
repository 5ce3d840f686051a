"""Prompts of wanted lengths: shared prefixes, conversations of several turns, chats with tools.

The same seed gives the same lengths and the same choice of prefixes. The words come from the seed,
the run's nonce and the phase, so that no cache knows them from earlier.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

from tokenwire.bench.arrivals import TraceEntry
from tokenwire.bench.lengths import distribution
from tokenwire.bench.plan import Flow, Phase
from tokenwire.bench.reading import Reading
from tokenwire.bench.vocabulary import ANCHOR, Vocabulary
from tokenwire.frontend.v1 import generation_pb2, options_pb2, prompt_pb2

BLOCK = 32
"""Words that are put together in advance, so that a prompt of 100,000 tokens takes 1 ms and not 30
in which the process reads nothing. The first words of a prompt are always drawn one by one."""

BLOCKS = 1024

TOOLS: list[dict[str, Any]] = [
    {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
        },
    },
    {
        "name": "search",
        "description": "Search the web.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
    },
]
"""What --tools offers the model."""


class Prompts:
    """Makes the conversations of one flow."""

    def __init__(self, flow: Flow, phase: Phase, vocabulary: Vocabulary) -> None:
        self.flow = flow
        self.model = phase.model
        self.limit = phase.prompt_limit
        self.anchor_tokens = vocabulary.anchor_tokens
        self.input = distribution(flow.input)
        self.output = distribution(flow.output)
        self.turns = distribution(flow.turns)
        self.think_s = distribution(flow.think_s)
        self.tools = [
            prompt_pb2.Tool(**{**each, "parameters": json.dumps(each["parameters"])})
            for each in (TOOLS if flow.tools else [])
        ]
        self._seed = phase.seed
        self._source = f"{phase.seed}/{phase.nonce}/{phase.name}/{phase.round}"
        self._units: Sequence[str | int] = (
            vocabulary.ids if flow.prompt == "ids" else vocabulary.words
        )
        random = Random(self._source)  # noqa: S311 - repeatable, not secret; as below
        self._blocks = [self._join(random.choices(self._units, k=BLOCK)) for _ in range(BLOCKS)]
        self._prefix = cache(self._make_prefix)

    def conversation(self, number: int, entry: TraceEntry | None = None) -> Conversation:
        """Returns the conversation of a number, the same in every load process."""
        lengths = Random(f"{self._seed}/{self.flow.name}/{number}")  # noqa: S311
        words = Random(f"{self._source}/{self.flow.name}/{number}")  # noqa: S311
        return Conversation(self, lengths, words, entry)

    def shared(self, lengths: Random) -> list[str] | list[int]:
        """Returns the prefix with which a conversation begins, if it begins with one."""
        flow = self.flow
        if not flow.prefixes or lengths.random() >= flow.prefix_share:
            return []
        return self._prefix(lengths.randrange(flow.prefixes))

    def pieces(self, random: Random, count: int) -> list[str] | list[int]:
        """Returns words that are `count` tokens: texts to join with spaces, or ids."""
        head = (count - 1) % BLOCK + 1 if count > 0 else 0
        pieces = random.choices(self._units, k=head)
        for block in random.choices(self._blocks, k=(count - head) // BLOCK):
            pieces += block
        return pieces  # type: ignore[return-value]

    def _make_prefix(self, number: int) -> list[str] | list[int]:
        random = Random(f"{self._source}/prefix/{number}")  # noqa: S311
        return self.pieces(random, self.flow.prefix_tokens)

    def _join(self, units: list[str | int]) -> list[str] | list[int]:
        if self.flow.prompt == "ids":
            return units  # type: ignore[return-value]
        return [" ".join(units)]  # type: ignore[arg-type]


class Conversation:
    """The requests of one conversation, one after the other."""

    def __init__(
        self, prompts: Prompts, lengths: Random, words: Random, entry: TraceEntry | None
    ) -> None:
        self._prompts = prompts
        self._lengths = lengths
        self._words = words
        self._entry = entry
        # A trace's text is sent as it is, also where made prompts are token ids.
        has_text = entry is not None and entry.text is not None
        self._kind = "text" if has_text and prompts.flow.prompt == "ids" else prompts.flow.prompt
        self._turns = prompts.turns.count(lengths)
        self._tokens = 0
        self._text = ""
        self._ids: list[int] = []
        self._messages: list[prompt_pb2.ChatMessage] = []
        self.output = 0
        """Tokens that the next request asks for."""
        self._begin()

    @property
    def goes_on(self) -> bool:
        """Whether a turn follows the next request, for which its answer is wanted."""
        return self._turns > 1

    def request(self) -> generation_pb2.Generation:
        """Returns the next request."""
        flow = self._prompts.flow
        prompt = prompt_pb2.Prompt()
        if self._kind == "ids":
            prompt.token_ids.ids.extend(self._ids)
        elif self._kind == "chat":
            prompt.chat.CopyFrom(
                prompt_pb2.Chat(messages=self._messages, tools=self._prompts.tools)
            )
        else:
            prompt.text = self._text
        stop = options_pb2.StopConditions(max_tokens=self.output)
        if not flow.let_stop:
            stop.min_tokens, stop.ignore_eos = self.output, True
        return generation_pb2.Generation(
            model=self._prompts.model,
            prompt=prompt,
            sampling=options_pb2.SamplingOptions(temperature=flow.temperature),
            stop=stop,
        )

    def answered(self, reading: Reading) -> float | None:
        """Takes the answer; returns the seconds until the next turn, or None after the last."""
        self._turns -= 1
        if self._turns <= 0:
            return None
        self._tokens += reading.tokens
        count = self._next_lengths(self._lengths)
        if count < 1:
            return None
        pieces = self._prompts.pieces(self._words, count)
        if self._kind == "ids":
            self._ids += reading.token_ids
            self._ids += pieces  # type: ignore[arg-type]
        elif self._kind == "chat":
            self._say(prompt_pb2.ROLE_ASSISTANT, reading.text)
            self._say(prompt_pb2.ROLE_USER, " ".join(map(str, pieces)))
        else:
            self._text = " ".join([self._text + reading.text, *map(str, pieces)])
        return self._prompts.think_s.draw(self._lengths)

    def _begin(self) -> None:
        flow = self._prompts.flow
        shared = self._prompts.shared(self._lengths)
        self._tokens = flow.prefix_tokens if shared else 0
        count = self._next_lengths(self._lengths)
        if self._entry is not None and self._entry.text is not None:
            self._text = self._entry.text
            self._say(prompt_pb2.ROLE_USER, self._text)
            return
        if self._kind == "text":
            count -= self._prompts.anchor_tokens
        pieces = self._prompts.pieces(self._words, max(0, count))
        if self._kind == "ids":
            self._ids = [*shared, *pieces]
        elif self._kind == "chat":
            if shared:
                self._say(prompt_pb2.ROLE_SYSTEM, " ".join(map(str, shared)))
            self._say(prompt_pb2.ROLE_USER, " ".join(map(str, pieces)))
        else:
            self._text = " ".join([ANCHOR, *map(str, shared), *map(str, pieces)])

    def _next_lengths(self, lengths: Random) -> int:
        """Draws the next turn's lengths; returns the prompt's new tokens, below 1 if none fit."""
        count, self.output = self._prompts.input.count(lengths), self._prompts.output.count(lengths)
        if self._entry is not None:
            count = self._entry.input_tokens or count
            self.output = self._entry.output_tokens or self.output
        limit = self._prompts.limit
        if limit:
            self.output = min(self.output, max(1, limit - self._tokens - 1))
            count = min(count, limit - self._tokens - self.output)
        self._tokens += max(0, count)
        return count

    def _say(self, role: prompt_pb2.Role.ValueType, content: str) -> None:
        self._messages.append(prompt_pb2.ChatMessage(role=role, content=content))
