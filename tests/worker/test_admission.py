"""Who goes to the engine next, and who is turned away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenwire_worker.core.admission import Admission


def test_what_finds_a_place_starts_at_once():
    admission = Admission(running_limit=2, waiting_limit=10)
    assert admission.offer(1, 1, 0)
    assert admission.offer(2, 1, 0)
    assert admission.offer(3, 1, 0)
    assert admission.take() == [1, 2]
    assert (admission.running, admission.waiting) == (2, 1)


def test_higher_priority_goes_first_and_equals_in_order_of_arrival():
    admission = Admission(running_limit=1, waiting_limit=10)
    admission.offer(0, 1, 0)
    assert admission.take() == [0]
    for key, priority in [(1, 0), (2, 5), (3, -1), (4, 5), (5, 0)]:
        admission.offer(key, 1, priority)
    order = []
    while admission.waiting:
        admission.release()
        order += admission.take()
    assert order == [2, 4, 1, 5, 3]


def test_a_full_queue_refuses_and_room_takes_again():
    admission = Admission(running_limit=1, waiting_limit=2)
    assert [admission.offer(key, 1, 0) for key in range(1)] == [True]
    admission.take()
    assert [admission.offer(key, 1, 100) for key in range(1, 4)] == [True, True, False]
    assert admission.full
    admission.release()
    assert admission.take() == [1]
    assert admission.offer(4, 1, 0)


def test_without_a_queue_only_a_free_place_admits():
    admission = Admission(running_limit=1, waiting_limit=0)
    assert admission.offer(1, 1, 0)
    assert admission.take() == [1]
    assert not admission.offer(2, 1, 0)
    admission.release()
    assert admission.offer(3, 1, 0)


def test_a_large_request_is_not_overtaken():
    admission = Admission(running_limit=4, waiting_limit=10)
    admission.offer(1, 3, 0)
    assert admission.take() == [1]
    admission.offer(2, 3, 0)
    admission.offer(3, 1, 0)
    assert admission.take() == [], "the one that would fit waits behind the one that does not"
    admission.release(3)
    assert admission.take() == [2, 3]


def test_a_request_larger_than_the_engine_runs_alone():
    admission = Admission(running_limit=2, waiting_limit=10)
    admission.offer(1, 5, 0)
    admission.offer(2, 1, 0)
    assert admission.take() == [1]
    admission.release(4)
    assert admission.take() == [2]


def test_a_withdrawn_request_is_gone():
    admission = Admission(running_limit=1, waiting_limit=2)
    admission.offer(1, 1, 0)
    admission.take()
    admission.offer(2, 1, 9)
    admission.offer(3, 1, 0)
    assert admission.withdraw(2)
    assert not admission.withdraw(2)
    assert not admission.withdraw(1), "it runs already"
    assert admission.waiting == 1
    admission.release()
    assert admission.take() == [3]


@given(
    st.integers(1, 6),
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(1, 4), st.integers(-2, 2), st.booleans()), max_size=40),
)
def test_bounds_hold_whatever_comes(running_limit, waiting_limit, offers):
    admission = Admission(running_limit, waiting_limit)
    sizes: dict[int, int] = {}
    running: list[int] = []
    accepted: set[int] = set()
    for key, (sequences, priority, release) in enumerate(offers):
        if release and running:
            admission.release(sizes[running.pop(0)])
        sizes[key] = sequences
        if admission.offer(key, sequences, priority):
            accepted.add(key)
        running += admission.take()
        assert admission.waiting <= waiting_limit
        assert admission.running == sum(sizes[each] for each in running)
        assert admission.running <= running_limit or len(running) == 1
    while running:
        admission.release(sizes[running.pop(0)])
        started = admission.take()
        running += started
        accepted.difference_update(started)
    assert admission.waiting == 0, "nothing that was accepted is left behind"
    assert admission.running == 0


@pytest.mark.parametrize("priority", [-100, 0, 100])
def test_offer_keeps_no_state_of_what_it_refused(priority):
    admission = Admission(running_limit=1, waiting_limit=0)
    admission.offer(1, 1, 0)
    admission.take()
    assert not admission.offer(2, 1, priority)
    admission.release()
    assert admission.take() == []
