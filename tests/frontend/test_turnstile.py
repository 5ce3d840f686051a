"""Streams that write in turns."""

from __future__ import annotations

import asyncio

import pytest
from tokenwire_frontend import poller
from tokenwire_frontend.edge.turnstile import BEHIND_STREAMS, TURN_STREAMS, Turnstile


async def test_a_turn_lets_so_many_through_and_the_rest_later_in_order():
    turnstile = Turnstile()
    streams = [asyncio.Event() for _ in range(3 * TURN_STREAMS + 1)]
    for each in streams:
        turnstile.pass_through(each)
    through = [sum(each.is_set() for each in streams)]
    while through[-1] < len(streams):
        await asyncio.sleep(0)
        through.append(sum(each.is_set() for each in streams))
        assert all(each.is_set() for each in streams[: through[-1]])
    assert through == [TURN_STREAMS, 2 * TURN_STREAMS, 3 * TURN_STREAMS, len(streams)]


async def test_a_few_go_at_once_whatever_was_before():
    turnstile = Turnstile()
    for _ in range(3):
        streams = [asyncio.Event() for _ in range(TURN_STREAMS)]
        for each in streams:
            turnstile.pass_through(each)
        assert all(each.is_set() for each in streams)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_what_comes_later_waits_behind_those_that_wait():
    turnstile = Turnstile()
    early = [asyncio.Event() for _ in range(2 * TURN_STREAMS)]
    for each in early:
        turnstile.pass_through(each)
    late = asyncio.Event()
    turnstile.pass_through(late)
    await asyncio.sleep(0)
    assert all(each.is_set() for each in early)
    assert not late.is_set()
    await asyncio.sleep(0)
    assert late.is_set()


@pytest.mark.parametrize(("waiting", "giving_way"), [(0, True), (1, True), (1, False)])
async def test_grpcs_thread_runs_where_the_loop_is_behind(monkeypatch, waiting, giving_way):
    yields = []
    monkeypatch.setattr(poller, "_giving_way", [1] if giving_way else [])
    monkeypatch.setattr(poller.os, "sched_yield", lambda: yields.append(True))
    turnstile = Turnstile()
    for _ in range(TURN_STREAMS + BEHIND_STREAMS + waiting):
        turnstile.pass_through(asyncio.Event())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(yields) == (waiting if giving_way else 0)
