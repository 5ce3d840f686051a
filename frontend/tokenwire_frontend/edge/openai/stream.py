"""A streamed answer: server-sent events, one write for what is new in a turn of the event loop.

A client that reads slowly holds up its own writes alone: what comes meanwhile stays in the logs of
its generations, and joins the next chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from tokenwire_service.errors import ServiceError

from tokenwire_frontend.core.events import Completion
from tokenwire_frontend.core.log import Delta
from tokenwire_frontend.core.prompt_log import PromptPart
from tokenwire_frontend.edge.openai.call import Call
from tokenwire_frontend.edge.openai.generations import TAKEN_BYTES, Asks, check_end, opened
from tokenwire_frontend.edge.turnstile import Turnstile
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.reader import Reader

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
"""The last has nginx pass on what it gets at once."""


class Chunks(Protocol):
    """Makes the events of one answer. Choices are numbered through all prompts."""

    def opening(self) -> bytes:
        """Returns what comes once workers have taken the request."""

    def text(self, choice: int, text: str) -> bytes:
        """Returns the event of new text and nothing else: the hot path."""

    def delta(self, choice: int, delta: Delta) -> bytes:
        """Returns the events of what is new of a sequence; may be empty."""

    def prompt(self, choice: int, part: PromptPart) -> bytes:
        """Returns the event of log probabilities of a prompt."""

    def closing(self, completions: Sequence[Completion]) -> bytes:
        """Returns what comes after all sequences have ended."""

    def failure(self, error: ServiceError) -> bytes:
        """Returns what comes in the place of the rest."""


async def answer(
    call: Call, generator: Generator, turnstile: Turnstile, asks: Asks, chunks: Chunks
) -> web.StreamResponse:
    """Writes a streamed answer; what fails after its beginning is its last event.

    Raises:
        ServiceError: the request was refused before anything was written.
        ConnectionError: the client has gone.
    """
    response = web.StreamResponse(headers={**HEADERS, **call.headers})
    if call.last:
        response.force_close()
    writing = _Writing(turnstile, asks, chunks)
    left: ConnectionError | None = None
    try:
        async with opened(generator, asks, writing.readers):
            try:
                writer = await response.prepare(call.request)
                assert writer is not None  # noqa: S101 - for the type checker: only a HEAD has none
                await writing.run(writer)
            except ConnectionError as error:
                left = error  # kept from the generation, which is not at fault
    except Exception as error:
        if not response.prepared:
            raise
        await response.write(chunks.failure(call.refusal(error)))
    if left is not None:
        raise left
    await response.write_eof()
    return response


class _Writing:
    """The readers of one answer, and what is written of them."""

    def __init__(self, turnstile: Turnstile, asks: Asks, chunks: Chunks) -> None:
        self._turnstile = turnstile
        self._chunks = chunks
        self._sequences = asks.first.sequence_count
        self._ready = asyncio.Event()
        self._woken: list[int] = []
        """Places of the readers with news."""
        self.readers = [Reader(partial(self._wake, place)) for place in range(len(asks.each))]
        self._completions: dict[int, Completion] = {}

    def _wake(self, place: int) -> None:
        self._woken.append(place)
        self._turnstile.pass_through(self._ready)

    async def run(self, writer: AbstractStreamWriter) -> None:
        """Writes until all generations have ended.

        Raises:
            ServiceError: one failed.
        """
        await writer.write(self._chunks.opening())
        for reader in self.readers:
            reader.begin()
        while len(self._completions) < len(self.readers):
            await self._ready.wait()
            self._ready.clear()
            woken, self._woken = self._woken, []
            for place in woken:
                data = self._next(place)
                if data:
                    await writer.write(data)
        completions = [self._completions[place] for place in range(len(self.readers))]
        await writer.write(self._chunks.closing(completions))

    def _next(self, place: int) -> bytes:
        """Returns what is new of one generation."""
        reader, chunks = self.readers[place], self._chunks
        first = place * self._sequences
        plain = reader.take_plain(TAKEN_BYTES)
        if plain is not None:
            text = plain[3]
            return chunks.text(first, text.decode()) if text else b""
        news = reader.take(TAKEN_BYTES)
        parts = [] if news.prompt is None else [chunks.prompt(first, news.prompt)]
        for delta in news.deltas:
            check_end(delta.end.finish if delta.end else None)
            parts.append(chunks.delta(first + delta.sequence, delta))
        if news.failure is not None:
            raise news.failure
        if news.completion is not None:
            self._completions[place] = news.completion
        return b"".join(parts)
