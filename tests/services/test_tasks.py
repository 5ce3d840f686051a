"""The owners of tasks: no failure is silent, none reaches another task, none is left running."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from tokenwire_service import tasks
from tokenwire_service.tasks import Scope, StrayCancellationError, Supervisor

from tests.services.processes import ROOT

STARTERS = {"create_task", "ensure_future", "TaskGroup", "run_coroutine_threadsafe"}
"""What starts a task that nobody may own."""

OWNED = Path("service/tokenwire_service/tasks.py")


def starters(source: str) -> Iterator[int]:
    """Yields the lines that name what starts a task."""
    for node in ast.walk(ast.parse(source)):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        imported = isinstance(node, ast.alias) and node.name in STARTERS
        if name in STARTERS or imported:
            yield getattr(node, "lineno", 0)


def test_every_task_of_a_service_has_an_owner():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("frontend", "service", "inference_worker")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.relative_to(ROOT) != OWNED
        for line in starters(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "asyncio.create_task(f())",
        "loop.create_task(f())",
        "start = self._loop.create_task",
        "from asyncio import ensure_future",
        "async def f():\n    async with asyncio.TaskGroup() as group: pass",
    ],
)
def test_every_way_to_start_one_is_seen(source):
    assert list(starters(source))


@pytest.fixture
def lines():
    """The log lines of the test."""
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture
def at_once(monkeypatch):
    """Lets tasks that failed run again without a wait."""
    monkeypatch.setattr(tasks, "RESTART_FIRST_S", 0.0)


class Work:
    """Runs that end as they are told: an exception is raised, None goes on for ever."""

    def __init__(self, *ends: BaseException | str | None) -> None:
        self._ends = iter(ends)
        self.running = 0
        self.waiting = asyncio.Event()

    async def run(self) -> None:
        self.running += 1
        try:
            end = next(self._ends)
            if isinstance(end, BaseException):
                raise end
            if end is None:
                self.waiting.set()
                await asyncio.Event().wait()
        finally:
            self.running -= 1


# --- the process's tasks -------------------------------------------------------------------------


async def test_a_kept_task_tells_of_its_failure_and_runs_again(lines, at_once):
    told: list[Exception] = []
    fault = ValueError("odd frame")
    work = Work(fault, None)
    async with Supervisor() as supervisor:
        supervisor.keep("link", work.run, on_fault=told.append, worker="10.0.0.1:50071")
        await work.waiting.wait()
        assert not supervisor.failed.done()
    assert told == [fault]
    (line,) = lines
    assert (line["event"], line["task"], line["log_level"]) == ("task_fault", "link", "error")
    assert line["worker"] == "10.0.0.1:50071"
    assert line["exc_info"] is fault
    assert work.running == 0


async def test_a_kept_task_that_returns_is_over(lines):
    async with Supervisor() as supervisor:
        await supervisor.keep("once", Work("end").run)
    assert lines == []


async def test_the_wait_doubles_up_to_its_bound_and_begins_anew_once_settled(lines, monkeypatch):
    waits: list[float] = []
    clock = 0.0
    settled = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 9:
            settled.set()
            await asyncio.Event().wait()

    async def work() -> None:
        nonlocal clock
        clock += tasks.SETTLED_S if len(waits) == 7 else 0.0
        raise OSError

    monkeypatch.setattr(tasks.asyncio, "sleep", sleep)
    monkeypatch.setattr(tasks.time, "monotonic", lambda: clock)
    monkeypatch.setattr(tasks.random, "uniform", lambda _low, high: high)
    async with Supervisor() as supervisor:
        supervisor.keep("flaky", work)
        await settled.wait()
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.2, 0.4]


async def test_a_required_task_that_fails_is_the_end_of_the_process(lines):
    told: list[Exception] = []
    other = Work(None)
    async with Supervisor() as supervisor:
        supervisor.keep("other", other.run)
        supervisor.require("health", Work(KeyError("x")).run, on_fault=told.append)
        assert await supervisor.failed == "health"
        assert other.running == 1, "its siblings go on until the process has drained"
    assert [type(error) for error in told] == [KeyError]
    assert other.running == 0


async def test_a_second_required_task_that_fails_does_no_harm(lines):
    async with Supervisor() as supervisor:
        first = supervisor.require("first", Work(ValueError()).run)
        second = supervisor.require("second", Work(ValueError()).run)
        await asyncio.wait([first, second])
        assert supervisor.failed.result() == "first"


@pytest.mark.parametrize("own", ["keep", "require"])
async def test_somebody_elses_cancellation_is_a_fault(lines, at_once, own):
    """What a task awaits may be cancelled, such as the call that it reads."""
    told: list[Exception] = []
    work = Work(asyncio.CancelledError(), None)
    async with Supervisor() as supervisor:
        getattr(supervisor, own)("reader", work.run, on_fault=told.append)
        await (work.waiting.wait() if own == "keep" else supervisor.failed)
    assert [type(error) for error in told] == [StrayCancellationError]


@pytest.mark.parametrize("own", ["keep", "require"])
async def test_a_task_that_is_cancelled_by_itself_ends_in_peace(lines, own):
    work = Work(None)
    async with Supervisor() as supervisor:
        task = getattr(supervisor, own)("reader", work.run)
        await work.waiting.wait()
        task.cancel()
        await asyncio.wait([task])
        assert work.running == 0
        assert not supervisor.failed.done()
    assert lines == []


async def test_a_fault_handler_that_fails_does_not_end_the_task(lines, at_once):
    def on_fault(_error: Exception) -> None:
        raise RuntimeError("the handler")

    work = Work(ValueError(), None)
    async with Supervisor() as supervisor:
        supervisor.keep("link", work.run, on_fault=on_fault)
        await work.waiting.wait()
    assert [line["task"] for line in lines] == ["link", "link: on_fault"]


# --- the tasks of one call -----------------------------------------------------------------------


async def test_a_failure_in_a_scope_leaves_its_siblings(lines):
    told: list[Exception] = []
    sibling = Work(None)
    async with Scope("session") as scope:
        scope.start(sibling.run())
        failed = scope.start(Work(ValueError("odd")).run(), on_fault=told.append, id=7)
        await failed
        await sibling.waiting.wait()
        assert sibling.running == 1
    assert [str(error) for error in told] == ["odd"]
    assert [(line["task"], line["id"]) for line in lines] == [("session", 7)]
    assert sibling.running == 0


async def test_a_scope_that_ends_waits_for_what_its_tasks_still_do():
    tidied: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            tidied.append("done")

    async with Scope("session") as scope:
        scope.start(work())
        await asyncio.sleep(0)
    assert tidied == ["done"]


async def test_a_task_that_never_had_a_turn_is_closed_without_a_warning():
    async with Scope("session") as scope:
        scope.start(Work(None).run())  # pytest makes an error of "was never awaited"


async def test_a_scope_ends_its_tasks_though_it_is_cancelled_while_it_does():
    """The second cancel of a call must not leave the first one's work behind."""
    ending, go_on, work = asyncio.Event(), asyncio.Event(), Work(None)

    async def slow() -> None:
        try:
            await work.run()
        finally:
            ending.set()
            await go_on.wait()

    async def call() -> None:
        async with Scope("session") as scope:
            scope.start(slow())
            await asyncio.Event().wait()

    async with Scope("test") as test:
        task = test.start(call())
        await work.waiting.wait()
        task.cancel()
        await ending.wait()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert work.running == 0


async def test_an_exception_of_the_block_comes_out_of_a_scope():
    async def call() -> None:
        async with Scope("session") as scope:
            scope.start(Work(None).run())
            raise LookupError

    with pytest.raises(LookupError):
        await call()
