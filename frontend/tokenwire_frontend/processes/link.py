"""Questions and answers between the supervising process and one that serves, both ways.

They travel over a socket pair as marshalled tuples of plain types, each after its size: both ends
are this program, started together. A question is (number, topic, arguments), an answer (number,
(value,)), or (number, ()) where there is none because of a fault.
"""

from __future__ import annotations

import asyncio
import marshal
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Self

from tokenwire_service.tasks import Scope

ANSWER_S = 1.0
"""Time that a process has to answer: one that takes longer is left out."""

UNREAD_BYTES = 1024 * 1024
"""Of what the other end has yet to read; it is asked no more then. An answer about 100 generations
has about 30 KB, one with metrics about 50 KB."""

_SIZE = struct.Struct("<I")

Answers = Mapping[str, Callable[..., Awaitable[Any]]]
"""What this end answers, by topic."""


class SilentError(Exception):
    """The other end does not answer."""


class Link:
    """One end.

    Args:
        reader: of the socket.
        writer: of the socket.
        answers: coroutines that answer, by topic.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: Answers
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answers = answers
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    async def over(cls, ours: socket.socket, answers: Answers) -> Self:
        """Returns the end that has this socket."""
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(reader, writer, answers)

    async def run(self) -> None:
        """Reads until the other end is closed or gone."""
        try:
            async with Scope("process_link") as scope:
                while (message := await self._read()) is not None:
                    if len(message) == 3:
                        scope.start(self._answer(*message), topic=message[1])
                    else:
                        self._answered(*message)
        finally:
            self._writer.close()
            for waiting in list(self._waiting.values()):
                if not waiting.done():
                    waiting.set_exception(SilentError())

    def ask(self, topic: str, *arguments: Any) -> asyncio.Future[Any]:
        """Asks; returns what will be the answer. It fails with SilentError where there is none.

        Whoever waits no longer cancels it.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            self._send((number, topic, arguments))
        except SilentError as error:
            answer.set_exception(error)
        else:
            self._waiting[number] = answer
            answer.add_done_callback(lambda _: self._waiting.pop(number))
        return answer

    async def _read(self) -> tuple[Any, ...] | None:
        try:
            header = await self._reader.readexactly(_SIZE.size)
            body = await self._reader.readexactly(_SIZE.unpack(header)[0])
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        message: tuple[Any, ...] = marshal.loads(body)  # noqa: S302 - this program wrote it
        return message

    def _answered(self, number: int, answer: tuple[Any, ...]) -> None:
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            if answer:
                waiting.set_result(answer[0])
            else:
                waiting.set_exception(SilentError())

    async def _answer(self, number: int, topic: str, arguments: tuple[Any, ...]) -> None:
        answer: tuple[Any, ...] = ()
        try:
            answer = (await self._answers[topic](*arguments),)
        finally:
            with suppress(SilentError):
                self._send((number, answer))

    def _send(self, message: tuple[Any, ...]) -> None:
        transport = self._writer.transport
        if transport.is_closing() or transport.get_write_buffer_size() > UNREAD_BYTES:
            raise SilentError
        body = marshal.dumps(message)
        self._writer.write(_SIZE.pack(len(body)) + body)
