"""The order of a queue: priorities, shares by tokens and weight, and whose place is given away."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tokenwire_frontend.core.fair_queue import Claim, FairQueue
from tokenwire_frontend.core.pace import FEWEST, Duration, Pace

ROOMY = 10**9


def queue(limit: int = 1000, bytes_limit: int = ROOMY) -> FairQueue[Claim]:
    return FairQueue(limit, bytes_limit)


def claim(tenant: str = "a", lane: str = "1", tokens: float = 100.0, **fields: Any) -> Claim:
    return Claim(tenant=tenant, lane=lane, tokens=tokens, **fields)


def served(waiting: FairQueue[Claim], count: int | None = None) -> list[str]:
    """Takes requests in turn; returns their tenants."""
    return [str(waiting.pop().tenant) for _ in range(len(waiting) if count is None else count)]


def test_tenants_get_tokens_by_their_weights_whatever_their_requests_are():
    waiting = queue()
    for _ in range(200):
        waiting.offer(claim("heavy", tokens=100, weight=3.0))
        waiting.offer(claim("large", tokens=400))
        waiting.offer(claim("small", tokens=50))
    tokens: Counter[str] = Counter()
    for _ in range(150):
        each = waiting.pop()
        tokens[str(each.tenant)] += int(each.tokens)
    assert abs(tokens["heavy"] - 3 * tokens["small"]) <= 400
    assert abs(tokens["large"] - tokens["small"]) <= 400


def test_one_request_at_a_time_gains_nothing():
    """It is always the only one of its tenant, and comes as soon as the one before is served."""
    waiting = queue()
    for tenant in "bcd":
        for _ in range(40):
            waiting.offer(claim(tenant))
    waiting.offer(claim("sly"))
    count = 0
    for _ in range(80):
        if waiting.pop().tenant == "sly":
            count += 1
            waiting.offer(claim("sly"))
    assert 19 <= count <= 21


def test_what_was_not_used_counts_for_the_next_turn():
    waiting = queue()
    for _ in range(8):
        waiting.offer(claim("a"))
        waiting.offer(claim("b"))
    first = waiting.pop()
    assert first.tenant == "a"
    assert first.flow is not None
    first.flow.had -= 100
    assert served(waiting, 3) == ["a", "b", "a"]


def test_lanes_of_a_tenant_take_turns_and_do_not_make_its_share_larger():
    waiting = queue()
    for number in range(12):
        waiting.offer(claim("many", lane=str(number % 3)))
    for _ in range(4):
        waiting.offer(claim("one"))
    order = [waiting.pop() for _ in range(8)]
    assert Counter(each.tenant for each in order) == {"many": 4, "one": 4}
    assert {each.lane for each in order[:6] if each.tenant == "many"} == {"0", "1", "2"}


def test_priority_comes_first_and_what_continues_is_first_in_its_lane():
    waiting = queue()
    named = {
        "low": claim("b", priority=-1),
        "first": claim(),
        "second": claim(),
        "goes on": claim(continues=True),
        "goes on too": claim(continues=True),
        "high": claim("c", priority=9),
    }
    for each in named.values():
        waiting.offer(each)
    order = [waiting.pop() for _ in named]
    names = {id(each): name for name, each in named.items()}
    assert [names[id(each)] for each in order] == [
        "high", "goes on", "goes on too", "first", "second", "low",
    ]  # fmt: skip


def test_in_a_full_queue_the_place_of_whoever_has_most_is_given_away():
    waiting = queue(limit=6)
    for number in range(6):
        assert waiting.offer(claim("flood", lane=str(number // 4))) is None
    assert not waiting.takes(claim("flood", lane="0"))
    assert waiting.offer(claim("flood", lane="2")).lane == "0"  # type: ignore[union-attr]
    for _ in range(3):
        assert waiting.offer(claim("b")).tenant == "flood"  # type: ignore[union-attr]
    assert not waiting.takes(claim("b"))
    assert not waiting.takes(claim("flood", lane="3"))
    assert waiting.takes(claim("b", weight=2.0))
    assert waiting.offer(claim("c", priority=1)).priority == 0  # type: ignore[union-attr]
    assert not waiting.takes(claim("d", priority=-1))


def test_a_full_queue_gives_a_new_request_of_a_caller_away_for_one_that_continues():
    waiting = queue(limit=2)
    waiting.offer(claim(continues=True))
    new = claim()
    waiting.offer(new)
    assert waiting.offer(claim(continues=True)) is new
    assert not waiting.takes(claim(continues=True))


def test_bytes_are_bounded_too():
    waiting = queue(bytes_limit=1000)
    assert not waiting.takes(claim(size_bytes=1001))
    waiting.offer(claim("a", size_bytes=600))
    waiting.offer(claim("a", size_bytes=300))
    assert not waiting.takes(claim("b", size_bytes=500)), "nobody leaves in vain"
    assert waiting.offer(claim("b", size_bytes=400)).size_bytes == 300  # type: ignore[union-attr]
    assert waiting.bytes == 1000
    served(waiting)
    assert (len(waiting), waiting.bytes) == (0, 0)


def test_what_goes_before_a_new_request_is_its_own_and_as_much_of_the_others():
    waiting = queue()
    for _ in range(100):
        waiting.offer(claim("flood"))
    for _ in range(2):
        waiting.offer(claim("b", priority=5))
    assert waiting.ahead(claim("c")) == 2 + 1
    assert waiting.ahead(claim("c", weight=2.0)) == 2 + 0.5
    assert waiting.ahead(claim("flood")) == 2 + 100
    assert waiting.ahead(claim("flood", lane="2")) == 2 + 1
    assert waiting.ahead(claim("c", priority=5)) == 1
    assert waiting.ahead(claim("c", priority=9)) == 0


def test_the_memory_of_who_had_what_is_bounded(monkeypatch):
    monkeypatch.setattr("tokenwire_frontend.core.fair_queue.FLOWS", 8)
    waiting = queue()
    waiting.offer(claim("stays", tokens=1e9))
    waiting.offer(claim("stays", tokens=1e9))
    served(waiting, 1)
    for number in range(100):
        waiting.offer(claim(str(number)))
        assert served(waiting, 1) == [str(number)]
    assert len(waiting._tenants._flows) <= 9
    assert served(waiting) == ["stays"]


def test_the_pace_is_that_of_the_time_in_which_there_was_a_queue():
    pace = Pace()
    pace.begin(100.0)
    for number in range(FEWEST):
        assert pace.rate(100.0 + number) is None
        pace.note(100.5 + number / 2)
    rate = pace.rate(100.0 + FEWEST / 2)
    assert rate is not None
    assert 1.9 < rate < 2.1
    pace.begin(500.0)
    assert pace.rate(500.0) == rate
    assert pace.rate(540.0) < rate / 10, "a queue that stands still has no pace"


def test_a_generation_takes_the_time_of_its_likely_output():
    duration = Duration()
    assert duration.expected_s(100) == 0
    for _ in range(100):
        duration.note(50, 5.0)
    assert round(duration.expected_s(10_000), 3) == 5.0
    assert round(duration.expected_s(10), 3) == 1.0
