"""Who goes to the engine next, and who is turned away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenwire_worker.core.admission import SLACK_ENTRIES, Admission, Place


def keys(places: list[Place]) -> list[int]:
    """The requests whose places they are."""
    return [place.key for place in places]


def test_what_finds_a_place_starts_at_once():
    admission = Admission(running_limit=2, waiting_limit=10)
    assert admission.offer(1, 1, 0)
    assert admission.offer(2, 1, 0)
    assert admission.offer(3, 1, 0)
    assert keys(admission.take()) == [1, 2]
    assert (admission.running, admission.waiting) == (2, 1)


def test_higher_priority_goes_first_and_equals_in_order_of_arrival():
    admission = Admission(running_limit=1, waiting_limit=10)
    admission.offer(0, 1, 0)
    running = admission.take()
    assert keys(running) == [0]
    for key, priority in [(1, 0), (2, 5), (3, -1), (4, 5), (5, 0)]:
        admission.offer(key, 1, priority)
    while admission.waiting:
        running[-1].give_back(0)
        running += admission.take()
    assert keys(running) == [0, 2, 4, 1, 5, 3]


def test_a_full_queue_refuses_and_room_takes_again():
    admission = Admission(running_limit=1, waiting_limit=2)
    assert admission.offer(0, 1, 0)
    (first,) = admission.take()
    assert [bool(admission.offer(key, 1, 100)) for key in range(1, 4)] == [True, True, False]
    assert admission.full
    first.close()
    assert keys(admission.take()) == [1]
    assert admission.offer(4, 1, 0)


def test_without_a_queue_only_a_free_place_admits():
    admission = Admission(running_limit=1, waiting_limit=0)
    first = admission.offer(1, 1, 0)
    assert admission.take() == [first]
    assert not admission.offer(2, 1, 0)
    first.close()
    assert admission.offer(3, 1, 0)


def test_a_large_request_is_not_overtaken():
    admission = Admission(running_limit=4, waiting_limit=10)
    first = admission.offer(1, 3, 0)
    assert admission.take() == [first]
    admission.offer(2, 3, 0)
    admission.offer(3, 1, 0)
    assert admission.take() == [], "the one that would fit waits behind the one that does not"
    for sequence in range(3):
        first.give_back(sequence)
    assert keys(admission.take()) == [2, 3]


def test_a_request_larger_than_the_engine_runs_alone():
    admission = Admission(running_limit=2, waiting_limit=10)
    admission.offer(1, 5, 0)
    admission.offer(2, 1, 0)
    (first,) = admission.take()
    assert first.in_engine == set(range(5))
    for sequence in range(4):
        first.give_back(sequence)
    assert keys(admission.take()) == [2]


def test_a_withdrawn_request_is_gone():
    admission = Admission(running_limit=1, waiting_limit=2)
    running = admission.offer(1, 1, 0)
    admission.take()
    second = admission.offer(2, 1, 9)
    admission.offer(3, 1, 0)
    second.leave_queue()
    second.leave_queue()
    running.leave_queue()
    assert admission.running == 1, "it runs already"
    assert admission.waiting == 1
    running.close()
    assert keys(admission.take()) == [3]


@pytest.mark.parametrize("taken", [False, True])
def test_a_place_is_given_back_once(taken):
    admission = Admission(running_limit=4, waiting_limit=4)
    place = admission.offer(1, 3, 0)
    if taken:
        admission.take()
        place.give_back(1)
        place.give_back(1)
        place.give_back(7)
        assert admission.running == 2
    for _ in range(2):
        place.close()
        assert (admission.running, admission.waiting) == (0, 0)
    place.give_back(0)
    assert admission.running == 0
    assert admission.take() == [], "what was closed while it waited is not handed out"


def test_requests_that_give_up_behind_one_that_waits_leave_nothing():
    admission = Admission(running_limit=1, waiting_limit=4)
    admission.offer(1, 1, 0)
    admission.take()
    admission.offer(2, 1, 0)
    for key in range(3, 10_000):
        admission.offer(key, 1, 0).close()
    assert len(admission._heap) <= 2 * admission.waiting + SLACK_ENTRIES


@given(
    st.integers(1, 6),
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(1, 4), st.integers(-2, 2), st.booleans()), max_size=40),
)
def test_bounds_hold_whatever_comes(running_limit, waiting_limit, offers):
    admission = Admission(running_limit, waiting_limit)
    running: list[Place] = []
    accepted: set[int] = set()
    for key, (sequences, priority, release) in enumerate(offers):
        if release and running:
            accepted.discard(running[0].key)
            running.pop(0).close()
        if admission.offer(key, sequences, priority):
            accepted.add(key)
        running += admission.take()
        assert admission.waiting <= waiting_limit
        assert admission.running == sum(place.sequences for place in running)
        assert admission.running <= running_limit or len(running) == 1
    while running:
        accepted.discard(running[0].key)
        running.pop(0).close()
        running += admission.take()
    assert not accepted, "nothing that was accepted is left behind"
    assert admission.waiting == 0
    assert admission.running == 0


@pytest.mark.parametrize("priority", [-100, 0, 100])
def test_offer_keeps_no_state_of_what_it_refused(priority):
    admission = Admission(running_limit=1, waiting_limit=0)
    first = admission.offer(1, 1, 0)
    admission.take()
    assert not admission.offer(2, 1, priority)
    first.close()
    assert admission.take() == []
