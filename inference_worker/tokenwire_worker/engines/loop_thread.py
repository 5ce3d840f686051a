"""A thread with an event loop of its own, for engines that are asyncio objects."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import uvloop
from tokenwire_service.signals import FROM_TERMINAL
from tokenwire_service.tasks import Scope


class LoopThread:
    """Runs from its making until `close`. What has no comment of its own is called on its loop."""

    def __init__(self) -> None:
        self.scope = Scope("engine")
        """Owner of the tasks of the loop."""
        self._loop = uvloop.new_event_loop()
        # A daemon, so that a process that ends before the engine is closed is not held up by it.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Has the loop call a function soon. From any thread."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def run(self, work: Coroutine[Any, Any, Any], timeout_s: float | None = None) -> Any:
        """Runs a coroutine on the loop and returns what it returns. From any other thread.

        Raises:
            TimeoutError: it takes longer; it goes on.
            Exception: what it raises.
        """
        result: Future[Any] = Future()

        async def once() -> None:
            try:
                result.set_result(await work)
            except BaseException as error:
                result.set_exception(error)
                if not isinstance(error, Exception):
                    raise

        self.call(lambda: self.scope.start(once()))
        return result.result(timeout_s)

    def soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls a function in the loop's next turn."""
        self._loop.call_soon(function, *arguments)

    def later(self, wait_s: float, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls a function after a time."""
        self._loop.call_later(wait_s, function, *arguments)

    def close(self, timeout_s: float | None = None) -> None:
        """Cancels the tasks, and ends the loop and the thread. From any other thread."""
        self.call(lambda: self.scope.start(self._end()))
        self._thread.join(timeout_s)

    async def _end(self) -> None:
        # The loop is stopped from outside of the tasks, of which this is one.
        self._loop.call_soon(self._loop.stop)

    def _run(self) -> None:
        # What is spawned from this thread inherits the mask: Ctrl-C reaches a terminal's whole
        # group of processes, and is to drain the worker and not to end its engine.
        signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self.scope.__aexit__(None, None, None))
        finally:
            self._loop.close()
