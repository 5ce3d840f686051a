"""Tokenising and rendering in the test's own event loop, where a test is not about the processes.

A frontend starts two processes for each model that it meets, at a third of a second of CPU time
each. The jobs, and what becomes of them, are the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import marshal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import mock

from tokenwire_frontend.models import tokenizer_pool
from tokenwire_frontend.models.process import HEADER, Jobs, result
from tokenwire_frontend.models.text_process import TextProcess, TimeLimit

MODELS_LIMIT = 8
"""Models that are kept loaded; most tests have the demo model."""


class JobsHere(Jobs):
    """Loads a model once: all that a frontend costs otherwise is a tenth of it."""

    _loaded: ClassVar[dict[str, tuple[Any, dict[str, Any]]]] = {}

    def load(
        self, key: str, files: dict[str, bytes], fast: bool = True, cache_bytes: int = 0
    ) -> dict[str, Any]:
        asked = hashlib.sha256(marshal.dumps((sorted(files.items()), fast))).hexdigest()
        if asked not in self._loaded:
            told = super().load(key, files, fast, cache_bytes)
            while len(self._loaded) >= MODELS_LIMIT:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[asked] = self._models[key], told
        self._models[key], told = self._loaded[asked]
        if (encoder := self._models[key].encoder.fast) is not None:
            encoder.remember(cache_bytes)  # nothing that an earlier test has sent
        return told


class TextHere(TextProcess):
    """In the place of a process: each job is done, whole, in the loop's next turn."""

    async def start(self) -> None:
        self._jobs = JobsHere()
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
