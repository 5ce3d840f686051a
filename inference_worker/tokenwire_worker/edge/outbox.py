"""What waits to be sent to one caller, and how much of it may.

gRPC takes what the peer's window has room for, which is at most a few MiB; a write of more waits.
Meanwhile steps merge into the next frame here. So a caller that reads slowly gets fewer, larger
messages; one that sends commands and reads no answers is not read any further; and one that does
not read at all is given up, since its generations would fill the memory with what nobody takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
import structlog
from tokenwire_service.tasks import Scope

from tokenwire_worker import errors
from tokenwire_worker.core.frame import Frame
from tokenwire_worker.engines.port import PromptLogprobs

PART_BYTES = 64 * 1024
"""About the most bytes of one message: far below the 1 MiB that the contract allows, since making
one of this size, with log probabilities, already takes 5 ms of the event loop."""

FULL_BYTES = 4 * 1024 * 1024
"""Unread bytes with which a caller's commands are not read any further: about 900 refusals."""

MOST_UNREAD_BYTES = 16 * 1024 * 1024
"""Unread bytes with which a caller is given up. In memory they take up to seven times as much."""

MOST_UNREAD_PROMPT_BYTES = 64 * 1024 * 1024
"""The same of log probabilities of prompts, which come all at once: with as many unread, the next
generation that brings some fails, and not the caller's stream. In memory they take a third."""

ACCEPTANCE_S = 0.005
"""Time that an acceptance may wait for others, or for the first tokens, to come with: about a step.
A message of its own costs as much as one with a step's tokens."""

UNREAD_S = 20.0
"""Time that one write may wait for a caller to read: it is frozen, and its other streams too."""

LOOK_S = 0.25
"""Between two looks at that. A pause of the worker itself counts as one look."""

log = structlog.get_logger()


class Outbox:
    """Gathers events of generations into frames and writes them, one message at a time."""

    def __init__(
        self,
        write: Callable[[Any], Awaitable[None]],
        messages: Callable[[Frame], Iterable[Any]],
        is_over: Callable[[], bool],
    ) -> None:
        """Starts empty.

        Args:
            write: sends a message; returns once the next can be sent.
            messages: makes the messages that carry a frame.
            is_over: whether nothing more comes than what waits.
        """
        self.frame = Frame()
        """What waits; never kept across an await."""
        self.news = asyncio.Event()
        """Set when there is something to write, or when `is_over` may have changed."""
        self._apart: list[Any] = []
        """Messages of no frame that wait."""
        self._write = write
        self._messages = messages
        self._is_over = is_over
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._written = 0
        self._writing = False
        self._room = asyncio.Event()
        self._acceptances: asyncio.TimerHandle | None = None
        """Has those that wait written."""

    def add_accepted(self, handle: int) -> None:
        """Takes an acceptance into the next frame, which it does not hurry."""
        self.frame.add_accepted(handle)
        if self._acceptances is None:
            loop = asyncio.get_running_loop()
            self._acceptances = loop.call_later(ACCEPTANCE_S, self.news.set)

    def add_prompt_logprobs(self, handle: int, logprobs: PromptLogprobs) -> None:
        """Takes log probabilities of a prompt into the next frame.

        Raises:
            ServiceError: too many wait already.
        """
        if self.frame.prompts_bytes > MOST_UNREAD_PROMPT_BYTES:
            raise errors.prompt_logprobs_unread(MOST_UNREAD_PROMPT_BYTES)
        self.frame.add_prompt_logprobs(handle, logprobs, 0, len(logprobs))
        self.news.set()

    def add_apart(self, message: Any) -> None:
        """Takes a message that no frame carries, to be sent after the next frame."""
        self._apart.append(message)
        self.news.set()

    async def run(self, scope: Scope) -> None:
        """Writes what comes until all is over, by tasks of the scope.

        Raises:
            ServiceError: the caller does not read.
            Exception: what `end_with` was given.
        """
        scope.start(self._write_all(), on_fault=self.end_with)
        scope.start(self._watch())
        await self._ended

    def end_with(self, error: Exception | None) -> None:
        """Has `run` return, or raise the error; only the first time counts."""
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    async def room(self) -> None:
        """Waits while so much is unread that the caller's commands are to wait."""
        while self.frame.size_bytes >= FULL_BYTES:
            self._room.clear()
            await self._room.wait()

    async def _write_all(self) -> None:
        try:
            while not self._is_over() or self.frame.dirty:
                await self.news.wait()
                self.news.clear()
                await self._flush()
        except grpc.aio.InternalError:
            log.info("peer_gone")  # a write failed: the connection is lost
        self.end_with(None)

    async def _flush(self) -> None:
        """Writes all that waits, and what comes meanwhile."""
        while self.frame.dirty:
            frame, self.frame = self.frame, Frame()
            if self._acceptances is not None:
                self._acceptances.cancel()
                self._acceptances = None
            self._room.set()
            for part in frame.parts(PART_BYTES):
                for message in self._messages(part):
                    await self._send(message)
        while self._apart:
            await self._send(self._apart.pop(0))

    async def _send(self, message: Any) -> None:
        self._writing = True
        await self._write(message)
        self._writing = False
        self._written += 1

    async def _watch(self) -> None:
        """Gives up a caller that does not read."""
        looks, written = 0, 0
        while True:
            await asyncio.sleep(LOOK_S)
            looks = looks + 1 if self._writing and self._written == written else 0
            written = self._written
            if self.frame.size_bytes - self.frame.prompts_bytes > MOST_UNREAD_BYTES:
                self.end_with(errors.not_reading(f"more than {MOST_UNREAD_BYTES} bytes wait"))
            elif looks * LOOK_S >= UNREAD_S:
                self.end_with(errors.not_reading(f"nothing was read for {UNREAD_S:g} s"))
