"""Who goes to the engine next, and who is turned away."""

from __future__ import annotations

import heapq
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenwire_worker.core.admission import FRESH_S, SLACK_ENTRIES, Admission, Place


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


# --- how long one more would wait ----------------------------------------------------------------


class Clock:
    """A clock that a test sets, in seconds."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Rig:
    """An admission whose clock a test sets."""

    def __init__(self, running_limit: int, waiting_limit: int = 100) -> None:
        self.clock = Clock()
        self.admission = Admission(running_limit, waiting_limit, self.clock)
        self.keys = 0

    def start(self, sequences: int = 1, priority: int = 0) -> Place:
        """Offers a request, and returns its place."""
        self.keys += 1
        place = self.admission.offer(self.keys, sequences, priority)
        assert place is not None
        self.admission.take()
        return place

    def end(self, *places: Place, after_s: float = 0.0) -> None:
        self.clock.now_s += after_s
        for place in places:
            place.close()
        self.admission.take()

    @property
    def wait_s(self) -> float | None:
        return self.admission.wait_s()


def test_there_is_no_wait_while_a_place_is_free():
    rig = Rig(2)
    assert rig.wait_s == 0.0
    first = rig.start()
    assert rig.wait_s == 0.0
    rig.end(first, after_s=100.0)
    rig.start()
    assert rig.wait_s == 0.0


def test_the_wait_is_not_known_before_a_place_was_given_back():
    rig = Rig(1)
    first = rig.start()
    assert rig.wait_s is None
    rig.end(first, after_s=3.0)
    rig.start()
    assert rig.wait_s == pytest.approx(3.0)


def test_the_wait_counts_those_before_it():
    rig = Rig(2)
    running = [rig.start(), rig.start()]
    rig.end(*running, after_s=10.0)
    rig.start(sequences=2)
    assert rig.wait_s == pytest.approx(10.0 / 2)
    rig.start()
    large = rig.start(sequences=2)
    assert rig.wait_s == pytest.approx(10.0 / 2 * 4)
    large.leave_queue()
    assert rig.wait_s == pytest.approx(10.0 / 2 * 2)


def test_what_waits_behind_a_new_one_does_not_count():
    rig = Rig(1)
    rig.end(rig.start(), after_s=10.0)
    rig.start()
    for _ in range(5):
        rig.start(priority=-1)
    assert rig.wait_s == pytest.approx(10.0)
    rig.start(priority=5)
    assert rig.wait_s == pytest.approx(20.0)


def test_some_that_run_on_and_on_do_not_stand_for_the_rest():
    rig = Rig(4)
    for _ in range(40):
        rig.end(rig.start(), after_s=1.0)
    rig.start(sequences=2)
    for _ in range(100):
        short = [rig.start(), rig.start()]
        rig.end(*short, after_s=1.0)
    rig.start(sequences=2)
    assert rig.wait_s == pytest.approx(1 / 2, rel=0.05), "of the two places that change hands"


def test_one_that_has_run_for_long_is_expected_to_go_on():
    rig = Rig(1)
    rig.end(rig.start(), after_s=1.0)
    rig.start()
    rig.clock.now_s += 50.0
    assert rig.wait_s == pytest.approx(50.0)


def test_what_was_long_ago_is_not_believed():
    rig = Rig(1)
    rig.end(rig.start(), after_s=30.0)
    rig.clock.now_s += FRESH_S + 1
    rig.start()
    assert rig.wait_s is None
    rig.end(*rig.admission._inside, after_s=0.1)
    rig.start()
    assert rig.wait_s < 1.0, "the first of another kind outweighs what was before"


@pytest.mark.parametrize("spread", [0.0, 1.0], ids=["alike", "exponential"])
def test_the_wait_that_is_told_is_about_what_comes(spread):
    """Requests come faster than they end; what is told of each is held against what it waits."""
    rig, chance = Rig(8), random.Random(1)
    ends: list[tuple[float, int, Place]] = []
    told: dict[int, tuple[float, float]] = {}
    ratios = []
    arrival_s = rig.clock.now_s
    for key in range(600):
        arrival_s += chance.expovariate(8 / 2.0) if key % 200 < 150 else 3.0
        while ends and ends[0][0] <= arrival_s:
            rig.clock.now_s, _, place = heapq.heappop(ends)
            place.close()
            begin(rig, chance, spread, ends, told, ratios)
        rig.clock.now_s = arrival_s
        if rig.wait_s:
            told[rig.keys + 1] = (rig.wait_s, arrival_s)
        rig.keys += 1
        rig.admission.offer(rig.keys, 1, 0)
        begin(rig, chance, spread, ends, told, ratios)
    assert len(ratios) > 100
    assert 0.75 < math.exp(sum(map(math.log, ratios)) / len(ratios)) < 1.35


def begin(
    rig: Rig,
    chance: random.Random,
    spread: float,
    ends: list[tuple[float, int, Place]],
    told: dict[int, tuple[float, float]],
    ratios: list[float],
) -> None:
    """Begins what there is room for, and notes how right the wait was that it was told."""
    for place in rig.admission.take():
        runs_s = chance.expovariate(1 / 2.0) if spread else 2.0
        heapq.heappush(ends, (rig.clock.now_s + runs_s, place.key, place))
        if place.key in told:
            wait_s, since_s = told[place.key]
            ratios.append(wait_s / max(rig.clock.now_s - since_s, 1e-3))
