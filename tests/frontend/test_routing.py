"""The policies that look at load alone, and what they know of a worker."""

from __future__ import annotations

from collections import Counter

import pytest
from tokenwire_frontend.core.routing.candidate import Candidate
from tokenwire_frontend.core.routing.least_loaded import LeastLoaded
from tokenwire_frontend.core.routing.round_robin import RoundRobin
from tokenwire_frontend.core.routing.router import Cause, Policy, RoutedPrompt

ANY = RoutedPrompt([1])
NEXT_TURN = RoutedPrompt([1], preferred="a")


def worker(name: str, running: int = 0, waiting: int = 0, unreported: int = 0, limit: int = 8):
    return Candidate(name, running, waiting, unreported, limit)


def test_running_waiting_and_unreported_count_alike():
    router = LeastLoaded()
    for busy in (worker("a", running=1), worker("a", waiting=1), worker("a", unreported=1)):
        assert router.choose(ANY, [busy, worker("b")]).index == 1


def test_a_larger_worker_takes_more():
    choice = LeastLoaded().choose(ANY, [worker("a", 4, limit=8), worker("b", 6, limit=32)])
    assert choice.index == 1


def test_equals_take_turns():
    router = LeastLoaded()
    workers = [worker("a"), worker("b"), worker("c", running=3)]
    taken = Counter(router.choose(ANY, workers).index for _ in range(10))
    assert taken == {0: 5, 1: 5}


def test_round_robin_takes_turns_whatever_the_load():
    router = RoundRobin()
    workers = [worker("a", 8, 9), worker("b"), worker("c")]
    assert [router.choose(ANY, workers).index for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_round_robin_leaves_out_workers_whose_queue_is_full():
    router = RoundRobin()
    full = Candidate("a", 8, 4, 0, 8, waiting_limit=4)
    assert [router.choose(ANY, [worker("b"), full]).index for _ in range(3)] == [0, 0, 0]
    assert router.choose(ANY, [full]).index == 0


def test_the_reason_names_the_policy_and_the_load():
    choice = LeastLoaded().choose(ANY, [worker("a", running=4)])
    assert choice.reason == "least_loaded load=0.500 of 1"
    assert (choice.policy, choice.cause) == (Policy.LEAST_LOADED, Cause.LEAST_LOADED)
    assert choice.reused_tokens is None


@pytest.mark.parametrize(
    ("running", "waiting", "other", "taken"),
    [
        (0, 0, 0, True),
        # It runs the request at once.
        (7, 0, 0, True),
        # The request would wait there, and not at the other.
        (8, 0, 0, False),
        (8, 0, 6, False),
        (8, 2, 8, True),
        # The other is less busy by more than a quarter.
        (8, 3, 8, False),
    ],
)
def test_a_preferred_worker_is_taken_unless_it_is_much_busier(running, waiting, other, taken):
    workers = [worker("b", other), worker("a", running, waiting)]
    choice = LeastLoaded().choose(NEXT_TURN, workers)
    assert choice.index == taken
    assert choice.reason.startswith("conversation" if taken else "least_loaded")


def test_a_preferred_worker_that_is_full_or_gone_is_not_taken():
    full = Candidate("a", 8, 4, 0, 8, waiting_limit=4)
    others = [worker("b", 8, 4)]
    assert LeastLoaded().choose(NEXT_TURN, [*others, full]).index == 0
    assert LeastLoaded().choose(NEXT_TURN, others).index == 0


@pytest.mark.parametrize(
    ("running", "waiting", "unreported", "is_full"),
    [
        (8, 4, 0, True),
        (8, 3, 0, False),
        (8, 3, 1, True),
        (8, 0, 4, True),
        (0, 0, 4, False),
        (0, 0, 11, False),
        (0, 0, 12, True),
        (5, 0, 6, False),
        (5, 0, 7, True),
        # The engine may run less than it could, for want of memory.
        (5, 4, 0, True),
        (5, 4, 2, True),
        # Those that have ended since made room.
        (8, 4, -1, False),
        (8, 9, -2, True),
    ],
)
def test_a_queue_is_full_by_the_last_report_and_what_came_since(
    running, waiting, unreported, is_full
):
    assert Candidate("a", running, waiting, unreported, 8, waiting_limit=4).full is is_full


def test_a_worker_without_a_known_limit_is_never_full():
    assert not Candidate("a", 8, 100, 100, 8).full
