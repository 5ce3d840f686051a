"""A worker's state, by events and by a clock that leaves out what this process missed itself."""

from __future__ import annotations

import pytest
from tokenwire_frontend.core.link_state import (
    TICK_S,
    AwakeClock,
    LinkState,
    LinkStatus,
    Liveness,
    Vital,
)

ALIVE, SUSPECTED, GONE = Vital.ALIVE, Vital.SUSPECT, Vital.LOST


@pytest.mark.parametrize(
    ("ticks_s", "counted_s"),
    [
        ([], 0.0),
        ([7.0], 0.0),
        ([7.0, 7.25, 7.5], 0.5),
        ([7.0, 7.4, 7.6], 0.6),
        ([7.0, 17.0], 0.5),
        ([7.0, 7.25, 600.0, 600.25], 1.0),
    ],
)
def test_a_tick_counts_two_at_most_however_late_it_is(ticks_s, counted_s):
    clock = AwakeClock()
    for tick_s in ticks_s:
        clock.tick(tick_s)
    assert clock.now_s == pytest.approx(counted_s)


@pytest.mark.parametrize(
    ("silent_s", "vital"),
    [(0, ALIVE), (2.99, ALIVE), (3, SUSPECTED), (7.99, SUSPECTED), (8, GONE), (100, GONE)],
)
def test_silence_makes_suspect_and_lost(silent_s, vital):
    clock = AwakeClock()
    liveness = Liveness(clock, suspect_s=3, lost_s=8)
    clock.now_s += silent_s
    assert liveness.vital is vital
    liveness.hear()
    assert liveness.vital is ALIVE


def test_a_frontend_that_was_held_up_blames_nobody():
    clock = AwakeClock()
    clock.tick(0.0)
    liveness = Liveness(clock, suspect_s=3, lost_s=8)
    clock.tick(60.0)
    assert liveness.vital is ALIVE
    now_s = 60.0
    while liveness.vital is ALIVE:
        now_s += TICK_S
        clock.tick(now_s)
    assert 62.0 <= now_s <= 63.0


CONNECTING, READY, SUSPECT = LinkState.CONNECTING, LinkState.READY, LinkState.SUSPECT
DRAINING, REFUSED, LOST = LinkState.DRAINING, LinkState.REFUSED, LinkState.LOST


def state_after(*events: str | float) -> LinkState:
    """Returns the state after events; a number is seconds of silence, after which one looks."""
    clock, status = AwakeClock(), LinkStatus()
    liveness = Liveness(clock, suspect_s=3, lost_s=8)
    for event in events:
        if event == "serve":
            liveness.hear()
            status.serve()
        elif event == "hear":
            liveness.hear()
            status.judge(liveness)
        elif event == "drain":
            status.drain()
        elif isinstance(event, str):
            getattr(status, event)("a reason")
        else:
            clock.now_s += event
            status.judge(liveness)
    return status.state


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], CONNECTING),
        (["serve"], READY),
        (["serve", 3], SUSPECT),
        (["serve", 3, "hear"], READY),
        (["serve", 3, 4, "hear"], READY),
        (["serve", 3, 5], LOST),
        (["serve", 8], LOST),
        (["serve", "drain"], DRAINING),
        (["serve", "drain", 3], DRAINING),
        (["serve", 3, "drain", "hear"], DRAINING),
        (["serve", "drain", 8], LOST),
        (["serve", "fail"], CONNECTING),
        (["serve", 8, "fail"], LOST),
        (["serve", 8, "drain"], LOST),
        (["serve", 8, "hear"], LOST),
        (["serve", 8, "fail", "serve"], READY),
        (["serve", 8, "refuse"], REFUSED),
        (["serve", 8, "refuse", "fail"], CONNECTING),
        (["refuse", 100], REFUSED),
        (["fail", 100], CONNECTING),
        (["refuse", "drain"], REFUSED),
    ],
)
def test_states(events, state):
    assert state_after(*events) is state


def test_only_a_change_is_told():
    status = LinkStatus()
    assert status.fail("refused connection")
    assert not status.fail("refused connection")
    assert status.fail("no route")
    assert status.serve()
    assert not status.serve()
    assert status.reason == ""
