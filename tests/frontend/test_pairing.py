"""Whether prompts are worth fetching, judged from how long they took."""

from __future__ import annotations

from tokenwire_frontend.core.pairing import (
    TRIAL_FIRST_S,
    TRIAL_MOST_S,
    TRIALS,
    WINDOW,
    Handed,
    Pairing,
)

FACTOR = 2.0


def note(pairing: Pairing, fetched_s: float, at_s: float, sent_s: float | None = None) -> bool:
    """Notes a prompt that takes 1 s to compute; returns whether that changed anything."""
    sent_s = at_s if sent_s is None else sent_s
    return pairing.note(Handed(sent_s, 1.0, fetched_s), at_s) is not None


def until_changed(pairing: Pairing, fetched_s: float, at_s: float) -> int:
    """Notes prompts until they change something; returns how many."""
    return next(count for count in range(1, 100) if note(pairing, fetched_s, at_s))


def test_it_takes_many_slow_prompts_to_end_it_and_a_few_fast_ones_to_begin_again():
    pairing = Pairing(FACTOR)
    assert until_changed(pairing, FACTOR + 0.1, 1.0) == WINDOW
    assert not pairing.pays
    assert until_changed(pairing, FACTOR / 2, 2.0) == TRIALS
    assert pairing.pays


def test_what_is_within_the_bound_changes_nothing():
    pairing = Pairing(FACTOR)
    for _ in range(2 * WINDOW):
        assert not note(pairing, FACTOR, 1.0)
    until_changed(pairing, 9.0, 1.0)
    for _ in range(2 * WINDOW):  # nor what is only a little better
        assert not note(pairing, FACTOR * 0.6, 2.0)
    for fetched_s in (9.0, 9.0, *[0.5] * (TRIALS - 1)):
        assert not note(pairing, fetched_s, 2.0)
    assert note(pairing, 0.5, 2.0)  # the last ones count


def test_what_was_sent_before_a_change_is_no_trial():
    pairing = Pairing(FACTOR)
    until_changed(pairing, 9.0, 10.0)
    for _ in range(2 * TRIALS):
        assert not note(pairing, 0.1, 11.0, sent_s=9.0)
    assert until_changed(pairing, 0.1, 11.0) == TRIALS


def test_one_prompt_at_a_time_is_a_trial():
    pairing = Pairing(FACTOR)
    pairing.sent(0.0)
    assert pairing.allows(0.0)
    until_changed(pairing, 9.0, 1.0)
    assert not pairing.allows(1.0)
    assert pairing.allows(1.0 + TRIAL_FIRST_S)
    pairing.sent(1.0 + TRIAL_FIRST_S)
    assert not pairing.allows(1.0 + TRIAL_FIRST_S)
    assert pairing.allows(1.0 + 2 * TRIAL_FIRST_S)


def wait_s(pairing: Pairing) -> float:
    """Ends it once more, and returns how long it is until the first trial."""
    until_changed(pairing, 9.0, 1.0)
    found = next(x for x in range(10_000) if pairing.allows(1.0 + x))
    until_changed(pairing, 0.1, 1.0)
    return float(found)


def test_trials_that_looked_good_and_were_not_become_rarer():
    pairing = Pairing(FACTOR)
    waits = [wait_s(pairing) for _ in range(6)]
    assert waits[:3] == [TRIAL_FIRST_S, 2 * TRIAL_FIRST_S, 4 * TRIAL_FIRST_S]
    assert waits[-1] == TRIAL_MOST_S
    for _ in range(WINDOW):  # it holds
        note(pairing, 0.1, 1.0)
    assert wait_s(pairing) == TRIAL_FIRST_S
