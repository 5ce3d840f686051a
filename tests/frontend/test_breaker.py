"""What keeps failures from multiplying: a breaker for each worker, a budget of moves."""

from __future__ import annotations

from tokenwire_frontend.core.breaker import FAILURES, OPEN_FIRST_S, Breaker, MoveBudget


def test_a_breaker_opens_after_failures_in_a_row_and_closes_with_a_success():
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed(0.0)
    assert breaker.allows(0.0)
    breaker.succeeded()
    for _ in range(FAILURES):
        assert breaker.allows(1.0)
        breaker.failed(1.0)
    assert not breaker.allows(1.0)
    at_s = 1.0 + OPEN_FIRST_S
    assert breaker.allows(at_s)
    breaker.sent(at_s)
    assert not breaker.allows(at_s)  # one trial at a time
    breaker.failed(at_s)
    assert not breaker.allows(at_s + OPEN_FIRST_S)  # twice as long now
    at_s += 2 * OPEN_FIRST_S
    assert breaker.allows(at_s)
    breaker.sent(at_s)
    breaker.succeeded()
    assert breaker.allows(at_s)


def test_failures_of_one_moment_open_a_breaker_once():
    breaker = Breaker()
    for _ in range(FAILURES * 8):
        breaker.failed(0.0)
    assert breaker.allows(OPEN_FIRST_S)


def test_a_budget_lets_everything_move_once_and_then_a_share():
    budget = MoveBudget(4, 0.0)
    assert [budget.take(0.0) for _ in range(5)] == [True] * 4 + [False]
    for _ in range(5):
        budget.earn()
    assert [budget.take(0.0) for _ in range(2)] == [True, False]
    assert budget.take(15.0)
