"""What passes between the process that supervises and one that serves."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from tokenwire_frontend.processes import link as links
from tokenwire_frontend.processes import serving
from tokenwire_frontend.processes.group import own_addresses
from tokenwire_frontend.processes.link import Link, SilentError
from tokenwire_frontend.processes.serving import ServingProcess
from tokenwire_service.tasks import Supervisor


@asynccontextmanager
async def two_ends(one: links.Answers, other: links.Answers) -> AsyncIterator[tuple[Link, Link]]:
    async with Supervisor() as supervisor:
        ends = []
        for end, answers in zip(socket.socketpair(), (one, other), strict=True):
            end.setblocking(False)
            ends.append(await Link.over(end, answers))
            supervisor.keep("end", ends[-1].run)
        yield ends[0], ends[1]


async def test_each_end_asks_the_other_while_it_answers():
    async def half(number: int) -> Any:
        return number if number < 2 else await one.ask("half", number // 2)

    async with two_ends({"half": half}, {"half": lambda n: other.ask("half", n)}) as (one, other):
        async with asyncio.timeout(5):
            assert await one.ask("half", 64) == 1


async def test_a_fault_is_logged_and_is_no_answer():
    async def fail() -> None:
        raise ZeroDivisionError

    with structlog.testing.capture_logs() as lines:
        async with two_ends({}, {"fail": fail}) as (one, _):
            with pytest.raises(SilentError):
                await one.ask("fail")
            with pytest.raises(SilentError):
                await one.ask("what it does not know")
    assert {line["event"] for line in lines} == {"task_fault"}
    assert len(lines) == 2


async def test_nobody_waits_for_an_end_that_is_gone():
    never = asyncio.Event()
    async with two_ends({}, {"wait": never.wait}) as (one, other):
        waiting = one.ask("wait")
        await asyncio.sleep(0)
        other._writer.close()
        with pytest.raises(SilentError):
            await waiting
        with pytest.raises(SilentError):
            await one.ask("wait")


async def test_an_end_that_does_not_read_is_asked_no_more(monkeypatch):
    monkeypatch.setattr(links, "UNREAD_BYTES", 100_000)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    one = await Link.over(ours, {})
    asked = [one.ask("read", b"x" * 100_000) for _ in range(20)]
    refused = [each.exception() for each in asked if each.done()]
    assert not asked[0].done()
    assert len(refused) > 10
    assert all(isinstance(each, SilentError) for each in refused)
    one._writer.close()
    theirs.close()
    for each in asked:
        each.cancel()


async def test_a_process_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr(serving, "MODULE", "tests.frontend.silent_process")
    monkeypatch.setattr(serving, "BEAT_S", 0.01)
    monkeypatch.setattr(serving, "ANSWER_S", 0.01)
    process = ServingProcess(0, "127.0.0.1:1", "127.0.0.1:0", "", [], {}, b"secret")
    with structlog.testing.capture_logs() as lines:
        assert await process.run(waits=False) == -signal.SIGKILL
    assert [line["event"] for line in lines] == ["process_hung"]
    assert (process.state, process.has_listened) == ("starting", True)


def test_ports_are_counted_up_from_the_first():
    assert own_addresses("[::1]:7000", 3) == ["[::1]:7000", "[::1]:7001", "[::1]:7002"]
    assert own_addresses("127.0.0.1:0", 2) == ["127.0.0.1:0"] * 2
