"""Every task of a service has an owner, and none fails in silence.

    Supervisor   owns the tasks that live as long as the process: links, watchers, feeds, readers
    Scope        owns the tasks of one call, and ends with it

No task is started any other way; a test enforces it. An exception of a task is logged with what the
task concerned, and what depended on it is told, so that it can end with a defined status. It never
reaches another task: unlike in asyncio.TaskGroup, siblings go on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import structlog

EX_SOFTWARE = 70
"""Exit code of a process that can't go on (sysexits.h): start it again."""

RESTART_FIRST_S = 0.2
RESTART_MOST_S = 5.0
"""Bounds of the wait before a task that failed runs again; it doubles from one failure to the
next."""

SETTLED_S = 10.0
"""A task that ran for so long had recovered: its next failure is its first."""

OnFault = Callable[[Exception], None]
"""Told of a task's exception, on the event loop; ends what depended on the task."""

log = structlog.get_logger()


class StrayCancellationError(Exception):
    """A task met a cancellation that was not its own, such as that of a call which it read."""


class Supervisor:
    """The long-lived tasks of a process; an asynchronous context manager that ends them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with the name of the task, once one has failed that the process can't do
        without; the process is to exit with EX_SOFTWARE."""

    def keep(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        *,
        on_fault: OnFault | None = None,
        **concerning: object,
    ) -> asyncio.Task[None]:
        """Runs the work until it returns; where it raises, runs it again after a wait.

        Args:
            name: what the task is called in the log.
            work: makes one run of the task.
            on_fault: told of each exception before the wait.
            concerning: what the task is about, for the log, such as a worker's address.

        Returns:
            The task, which may be cancelled by itself.
        """
        return self._own(name, self._kept(name, work, on_fault, concerning))

    def require(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        *,
        on_fault: OnFault | None = None,
        **concerning: object,
    ) -> asyncio.Task[None]:
        """Runs the work until it returns; where it raises, `failed` is done.

        The arguments are those of `keep`.
        """

        async def once() -> None:
            try:
                await _run(work())
            except Exception as error:  # noqa: BLE001 - the owner of the failure
                _tell(name, concerning, on_fault, error)
                if not self.failed.done():
                    self.failed.set_result(name)

        return self._own(name, once())

    async def close(self) -> None:
        """Cancels every task and waits until all have ended."""
        await _end(self._tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _own(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @staticmethod
    async def _kept(
        name: str,
        work: Callable[[], Awaitable[None]],
        on_fault: OnFault | None,
        concerning: dict[str, object],
    ) -> None:
        wait_s = RESTART_FIRST_S
        while True:
            began_s = time.monotonic()
            try:
                await _run(work())
            except Exception as error:  # noqa: BLE001 - the owner of the failure
                _tell(name, concerning, on_fault, error)
            else:
                return
            if time.monotonic() - began_s >= SETTLED_S:
                wait_s = RESTART_FIRST_S
            # Jitter, so that many processes that met the same fault do not come back together.
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
            wait_s = min(wait_s * 2, RESTART_MOST_S)


class Scope:
    """The tasks of one call; an asynchronous context manager whose end cancels what still runs."""

    def __init__(self, name: str) -> None:
        """Starts nothing yet; `name` is what its tasks are called in the log."""
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self,
        work: Coroutine[Any, Any, None],
        *,
        on_fault: OnFault | None = None,
        **concerning: object,
    ) -> asyncio.Task[None]:
        """Starts a task of this call; the arguments are those of `Supervisor.keep`.

        The log line has the trace id of the span that is current here.
        """

        async def once() -> None:
            try:
                await _run(work)
            except Exception as error:  # noqa: BLE001 - the owner of the failure
                _tell(self._name, concerning, on_fault, error)

        task = asyncio.get_running_loop().create_task(once(), name=self._name)
        # A task that is cancelled before its first turn never awaits its work.
        task.add_done_callback(lambda _: work.close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancels what still runs and waits until all of it has ended."""
        await _end(self._tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


async def first_of(*futures: asyncio.Future[Any]) -> None:
    """Waits until one of them is done; cancels none."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _run(work: Awaitable[None]) -> None:
    """Awaits the work; a cancellation that nobody asked of this task is a fault like any other.

    Reading from a gRPC call that has been cancelled raises CancelledError, for one: unless it is
    told apart, the reader ends in silence.
    """
    try:
        await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise StrayCancellationError("something that it awaited was cancelled") from error


def _tell(
    name: str, concerning: dict[str, object], on_fault: OnFault | None, error: Exception
) -> None:
    log.error("task_fault", task=name, **concerning, exc_info=error)
    if on_fault is None:
        return
    try:
        on_fault(error)
    except Exception:
        log.exception("task_fault", task=f"{name}: on_fault", **concerning)


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels the tasks and waits for them, however often this task itself is cancelled."""
    cancelled = False
    while tasks:
        for task in tasks:
            task.cancel()
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
