"""Tokenising and rendering in the test's own event loop, where a test is not about the processes.

A frontend starts two processes for each model that it meets, at a third of a second of CPU time
each. The jobs, and what becomes of them, are the same.
"""

from __future__ import annotations

import asyncio
import marshal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from tokenwire_frontend.models import tokenizer_pool
from tokenwire_frontend.models.process import HEADER, Jobs, result
from tokenwire_frontend.models.text_process import TextProcess, TimeLimit


class TextHere(TextProcess):
    """In the place of a process: each job is done, whole, in the loop's next turn."""

    async def start(self) -> None:
        self._jobs = Jobs()
        self.alive = True

    def run(self, job: bytes, limit: TimeLimit) -> asyncio.Future[tuple[str, Any]]:
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        loop.call_soon(self._do, job)
        return self._answer

    def _do(self, job: bytes) -> None:
        name, *arguments = marshal.loads(job)
        done = result(lambda: getattr(self._jobs, name)(*arguments))
        answer = marshal.dumps((*done, tuple(self._jobs.cache_counts())))
        self.data_received(HEADER.pack(len(answer)) + answer)

    def kill(self) -> None:
        if self.alive:
            self.alive = False
            asyncio.get_running_loop().call_soon(self.connection_lost, None)


@contextmanager
def texts_here() -> Iterator[None]:
    """Lets the pools that start inside do without processes."""
    with mock.patch.object(tokenizer_pool, "TextProcess", TextHere):
        yield
