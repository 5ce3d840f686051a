"""Whole answers: what a generation has come to, once it has ended.

It is taken in parts, and its log probabilities are written as JSON part by part: those of some
thousand tokens with alternatives take half a second, in which others have their turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tokenwire_frontend import errors
from tokenwire_frontend.core.channels import CallDelta
from tokenwire_frontend.core.events import Completion, Delivery, News
from tokenwire_frontend.core.log import Delta, End
from tokenwire_frontend.edge.openai.generations import TAKEN_BYTES, Asks, check_end, opened
from tokenwire_frontend.edge.openai.logprobs import Columns, Scorer
from tokenwire_frontend.generation.answer import ANSWER_BYTES_LIMIT
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.reader import Reader

REQUEST_BYTES_LIMIT = 8 * ANSWER_BYTES_LIMIT
"""Of all prompts of a request together, as the contract would have them on the wire. As JSON, log
probabilities take three times as much."""


class Sequence:
    """One sequence of an answer.

    Args:
        scorer: writes its log probabilities; None: they are not asked for.
    """

    def __init__(self, scorer: Scorer | None) -> None:
        self.text = self.reasoning = ""
        self.calls: list[CallDelta] = []
        """Each with all of its arguments."""
        self.end: End | None = None
        self.logprobs = None if scorer is None else Columns(scorer)

    def add(self, delta: Delta) -> None:
        """Adds what is new."""
        self.text += delta.text
        self.reasoning += delta.reasoning
        for call in delta.calls:
            if call.id:
                self.calls.append(call)
            else:
                self.calls[call.index].arguments += call.arguments
        if self.logprobs is not None and delta.logprobs:
            self.logprobs.add(delta.logprobs, delta.token_bytes)
        self.end = delta.end or self.end


@dataclass(slots=True)
class Answer:
    """What one prompt was answered with."""

    sequences: list[Sequence]
    completion: Completion


async def answered(
    generator: Generator, asks: Asks, scorer: Callable[[], Scorer] | None = None
) -> list[Answer]:
    """Returns the answer of each prompt, once all have ended.

    Args:
        generator: the generations of this process.
        asks: what is asked.
        scorer: makes what writes a sequence's log probabilities; None: they are not asked for.

    Raises:
        ServiceError: one could not be served, or not to its end.
    """
    limit = min(ANSWER_BYTES_LIMIT, REQUEST_BYTES_LIMIT // len(asks.each))
    ready = [asyncio.Event() for _ in asks.each]
    readers = [Reader(each.set, Delivery(only_end=True)) for each in ready]
    async with opened(generator, asks, readers, answer_bytes_limit=limit):
        for reader in readers:
            reader.begin()
        answers = []
        for each, reader in zip(ready, readers, strict=True):
            await each.wait()
            count = asks.first.sequence_count
            sequences = [Sequence(None if scorer is None else scorer()) for _ in range(count)]
            answers.append(Answer(sequences, await _taken(reader, sequences, limit)))
    return answers


async def _taken(reader: Reader, sequences: list[Sequence], limit_bytes: int) -> Completion:
    """Takes all of a generation that has ended."""
    left_bytes = limit_bytes
    while True:
        news = reader.take(TAKEN_BYTES)
        if news.failure is not None:
            raise news.failure
        left_bytes -= news.wire_bytes
        if left_bytes < 0:
            raise errors.answer_too_large(limit_bytes)
        _add(news, sequences)
        if news.completion is not None:
            return news.completion
        await asyncio.sleep(0)


def _add(news: News, sequences: list[Sequence]) -> None:
    part = news.prompt
    if part is not None:
        for each in sequences:
            if each.logprobs is not None:
                begins = part.token_offset == 0
                each.logprobs.add(part.logprobs, part.token_bytes, begins=begins)
    for delta in news.deltas:
        check_end(delta.end.finish if delta.end else None)
        sequences[delta.sequence].add(delta)
