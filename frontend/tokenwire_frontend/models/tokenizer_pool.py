"""The threads that tokenise and render."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tokenwire_frontend import errors

ResultT = TypeVar("ResultT")


class TokenizerPool:
    """The threads that tokenise and render, with a bound on what waits for them.

    Args:
        threads: threads to run.
        waiting_limit: texts at once, running and waiting; the next is refused.
    """

    def __init__(self, threads: int, waiting_limit: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="tokenizer")
        self._waiting_limit = waiting_limit
        self.held = 0
        """Texts now, running and waiting."""

    async def run(self, work: Callable[[], ResultT]) -> ResultT:
        """Runs the work on a thread and returns its result.

        Raises:
            ServiceError: TOKENIZER_BUSY, when too much waits already.
        """
        if self.held >= self._waiting_limit:
            raise errors.tokenizer_busy(self._waiting_limit)
        self.held += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self.held -= 1

    def close(self) -> None:
        """Ends the threads once they have finished what they run."""
        self._executor.shutdown(wait=False, cancel_futures=True)
