"""Prefix routing: the worker that holds most, unless it has too much to do."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from tokenwire_frontend.core.routing.candidate import Candidate
from tokenwire_frontend.core.routing.prefix import PrefixRouter
from tokenwire_frontend.core.routing.router import Cause, RoutedPrompt
from tokenwire_frontend.core.routing.shares import REMEMBERED, SPARE, Shares

SIZE = 16


def router() -> PrefixRouter:
    return PrefixRouter(2**20)


def workers(count: int, **fields: int) -> list[Candidate]:
    fields = {"running_sequences": 0, "waiting_requests": 0, "running_limit": 64} | fields
    return [
        Candidate(f"w{place}:1", unreported_requests=0, block_tokens=SIZE, kv_blocks=1000, **fields)
        for place in range(count)
    ]


def ids(tokens: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(1000) for _ in range(tokens)]


def prompt(tokens: int = 64, seed: int = 1, **fields: str) -> RoutedPrompt:
    return RoutedPrompt(ids(tokens, seed), "demo", **fields)


def test_a_chat_goes_where_its_last_turn_went():
    policy, four = router(), workers(4)
    for chat in range(8):
        turns = ids(40, chat)
        first = policy.choose(RoutedPrompt(turns), four)
        assert first.cause is Cause.HASH
        assert first.reused_tokens == 0
        for turn in range(2, 5):
            turns = turns + ids(40, 100 * chat + turn)
            choice = policy.choose(RoutedPrompt(turns), four)
            assert (choice.index, choice.cause) == (first.index, Cause.HELD)
            assert choice.reused_tokens == (turn - 1) * 40 // SIZE * SIZE


def test_expected_reuse_leaves_a_token_to_compute():
    policy, two = router(), workers(2)
    policy.choose(prompt(64), two)
    assert policy.choose(prompt(64), two).reused_tokens == 48


def test_a_new_prompt_goes_to_the_same_worker_from_every_frontend():
    chosen = [
        [router().choose(prompt(64, seed), workers(8)).index for seed in range(40)]
        for _ in range(2)
    ]
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == 8


def test_a_worker_that_leaves_moves_only_its_own_prompts():
    eight = workers(8)
    for seed in range(40):
        before = router().choose(prompt(64, seed), eight).index
        after = router().choose(prompt(64, seed), eight[:7]).index
        assert after == before or before == 7


@pytest.mark.parametrize("fields", [{"lora_adapter": "pirate"}, {"cache_salt": "salt"}])
def test_adapters_and_salts_are_prompts_of_their_own(fields):
    policy, two = router(), workers(2)
    policy.choose(prompt(64), two)
    other = policy.choose(prompt(64, **fields), two)
    assert other.reused_tokens == 0
    again = policy.choose(prompt(64, **fields), two)
    assert (again.index, again.reused_tokens) == (other.index, 48)


def test_a_holder_that_would_let_it_wait_is_passed_by_unless_all_are_busy():
    policy, two = router(), workers(2, running_limit=8)
    holder = policy.choose(prompt(), two).index
    two[holder].running_sequences = 7
    assert policy.choose(prompt(), two).index == holder  # it runs at once
    two[holder].running_sequences = 8
    choice = policy.choose(prompt(), two)
    assert (choice.index, choice.cause, choice.reused_tokens) == (1 - holder, Cause.SPREAD, 0)
    both = workers(2, running_sequences=8, waiting_requests=16, running_limit=8)
    assert policy.choose(prompt(seed=2), both).cause is Cause.HASH


def test_a_full_holder_is_passed_by():
    policy, two = router(), workers(2, running_limit=8, waiting_limit=4)
    holder = policy.choose(prompt(), two).index
    for each in two:
        each.running_sequences, each.waiting_requests = 8, 3
    two[holder].waiting_requests = 4
    assert policy.choose(prompt(), two).index == 1 - holder


def test_where_all_are_full_the_least_loaded_is_taken():
    full = workers(3, running_sequences=8, running_limit=8, waiting_limit=4, waiting_requests=9)
    full[1].waiting_requests = 5
    choice = router().choose(prompt(), full)
    assert (choice.index, choice.cause) == (1, Cause.LEAST_LOADED)


def test_a_prompt_that_nobody_holds_goes_past_the_busier_workers():
    four = workers(4, running_sequences=6)
    four[2].running_sequences = 0
    assert {router().choose(prompt(seed=seed), four).index for seed in range(20)} == {2}


def test_one_hot_prompt_spreads_over_all_workers():
    policy, four = router(), workers(4)
    taken = Counter(policy.choose(prompt(), four).index for _ in range(400))
    assert max(taken.values()) <= 1.25 * 100
    late = [policy.choose(prompt(), four) for _ in range(100)]
    assert {choice.reused_tokens for choice in late} == {48}


def test_a_hot_prompt_leaves_the_prompts_of_its_worker_where_they_are():
    policy, four = router(), workers(4)
    draw = random.Random(3)
    places: dict[int, set[int]] = {}
    for _ in range(1000):
        seed = 0 if draw.random() < 0.5 else draw.randrange(1, 20)
        places.setdefault(seed, set()).add(policy.choose(prompt(64, seed), four).index)
    cold = [len(places[seed]) for seed in range(1, 20)]
    assert sum(cold) / len(cold) < 1.5
    assert len(places[0]) > 1


def test_the_turn_before_decides_while_its_worker_has_room():
    policy, four = router(), workers(4, running_limit=8)
    turn = prompt(preferred="w3:1")
    choice = policy.choose(turn, four)
    assert (choice.index, choice.cause) == (3, Cause.CONVERSATION)
    four[3].running_sequences = 8
    assert policy.choose(turn, four).index != 3
    assert policy.choose(turn, four[:2]).index in (0, 1)


def test_a_single_worker_gets_it_without_work():
    policy = router()
    choice = policy.choose(prompt(100_000), workers(1))
    assert (choice.index, choice.cause, choice.reused_tokens) == (0, Cause.ONLY, None)
    assert len(policy.index) == 0


def test_a_worker_that_is_gone_holds_nothing_when_it_is_back():
    policy, two = router(), workers(2)
    holder = policy.choose(prompt(), two).index
    policy.forget(two[holder].name)
    assert policy.choose(prompt(), two).reused_tokens == 0


def test_workers_that_tell_no_block_size_share_by_hash_and_load():
    silent = [Candidate(f"w{place}:1", 0, 0, 0, 8) for place in range(3)]
    policy = router()
    chosen = [policy.choose(prompt(64, seed), silent) for seed in range(60)]
    assert {choice.reused_tokens for choice in chosen} == {None}
    assert max(Counter(choice.index for choice in chosen).values()) <= 20 + SPARE


def test_a_larger_worker_has_a_larger_share():
    policy, two = router(), workers(2)
    two[1].running_limit = 3 * two[0].running_limit
    taken = Counter(policy.choose(prompt(64, seed), two).index for seed in range(400))
    assert taken[1] == pytest.approx(300, rel=0.15)


def test_a_new_worker_begins_with_its_share():
    shares, three = Shares(), workers(3)
    shares.excess(three[:2])
    for turn in range(1000):
        shares.add(three[turn % 2].name, 2)
    assert shares.excess(three)[2] == pytest.approx(0)
    assert max(map(abs, shares.excess(three))) < 0.1


def test_counts_fade():
    shares, two = Shares(), workers(2)
    shares.excess(two)
    for _ in range(1000):
        shares.add(two[0].name, 2)
    assert shares.excess(two)[0] > 1
    for _ in range(100 * REMEMBERED):
        shares.add(two[1].name, 2)
    for turn in range(20 * REMEMBERED):
        shares.add(two[turn % 2].name, 2)
    assert max(map(abs, shares.excess(two))) < 0.1
