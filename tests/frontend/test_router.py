"""The least loaded worker, for its size, takes the request."""

from __future__ import annotations

from collections import Counter

from tokenwire_frontend.core.router import Candidate, LeastLoaded


def worker(name: str, running: int = 0, waiting: int = 0, unreported: int = 0, limit: int = 8):
    return Candidate(name, running, waiting, unreported, limit)


def test_running_waiting_and_unreported_count_alike():
    router = LeastLoaded()
    for busy in (worker("a", running=1), worker("a", waiting=1), worker("a", unreported=1)):
        assert router.choose([1], [busy, worker("b")]).index == 1


def test_a_larger_worker_takes_more():
    choice = LeastLoaded().choose([1], [worker("a", 4, limit=8), worker("b", 6, limit=32)])
    assert choice.index == 1


def test_equals_take_turns():
    router = LeastLoaded()
    workers = [worker("a"), worker("b"), worker("c", running=3)]
    taken = Counter(router.choose([1], workers).index for _ in range(10))
    assert taken == {0: 5, 1: 5}


def test_the_reason_names_the_policy_and_the_load():
    choice = LeastLoaded().choose([1], [worker("a", running=4)])
    assert choice.reason == "least_loaded load=0.500 of 1"
