"""What a worker may send of one generation, and the numbers that generations have."""

from __future__ import annotations

from itertools import islice

import pytest
from tokenwire_frontend.core.call_order import HANDLES, CallOrder, Handles
from tokenwire_frontend.core.logprobs import TokenLogprob

ACCEPT = ("accept",)
END = ("end", 0, None)
COMPLETE = ("complete",)


def tokens(*ids: int, sequence: int = 0, logprobs: tuple[int, ...] = ()):
    return ("tokens", sequence, list(ids), [TokenLogprob(each, -1.0) for each in logprobs])


def prompt(*ids: int, offset: int = 0, alternatives: int = 0):
    others = ((7, -2.0),) * alternatives
    return ("prompt", offset, [TokenLogprob(each, -1.0, others) for each in ids])


def fault(
    events, sequences: int = 1, *, logprobs: bool = False, prompt_tokens: int = 0
) -> str | None:
    """Returns what is wrong with the last of the events; those before it are right."""
    order = CallOrder(
        sequences,
        vocabulary_size=100,
        logprobs=logprobs,
        most_tokens=1000,
        top_logprobs=2,
        prompt_tokens=prompt_tokens,
        prompt_logprobs=1,
    )
    *right, last = events
    for name, *arguments in right:
        assert getattr(order, name)(*arguments) is None
    return getattr(order, last[0])(*last[1:])


@pytest.mark.parametrize(
    "events",
    [
        [ACCEPT, END, COMPLETE],
        [ACCEPT, tokens(5), tokens(99, 0), END, COMPLETE],
        [ACCEPT, tokens(5), ("end", 0, 99), COMPLETE],
    ],
)
def test_what_is_right(events):
    assert fault(events) is None


def test_sequences_end_one_by_one():
    events = [ACCEPT, tokens(5, sequence=1), ("end", 1, None), tokens(6), END, COMPLETE]
    assert fault(events, sequences=2) is None


def test_log_probabilities_are_those_of_the_tokens():
    assert fault([ACCEPT, tokens(5, 6, logprobs=(5, 6))], logprobs=True) is None


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([ACCEPT, ACCEPT], "accepted twice"),
        ([tokens(5)], "tokens before it was accepted"),
        ([END], "before it was accepted"),
        ([COMPLETE], "before it was accepted"),
        ([ACCEPT, tokens()], "without tokens"),
        ([ACCEPT, tokens(5, 100)], "token id 100 of a vocabulary of 100"),
        ([ACCEPT, tokens(2**32 - 1)], "vocabulary"),
        ([ACCEPT, tokens(5, sequence=1)], "sequence 1, which is not open"),
        ([ACCEPT, END, tokens(5)], "sequence 0, which is not open"),
        ([ACCEPT, END, END], "sequence 0, which is not open"),
        ([ACCEPT, ("end", 7, None)], "sequence 7, which is not open"),
        ([ACCEPT, ("end", 0, 100)], "stop token 100"),
        ([ACCEPT, COMPLETE], "while sequence 0 was open"),
        ([ACCEPT, tokens(*[5] * 1001)], "more tokens than were asked for"),
        ([ACCEPT, tokens(*[5] * 1000), tokens(5)], "more tokens than were asked for"),
    ],
)
def test_what_is_wrong(events, words):
    assert words in fault(events)


@pytest.mark.parametrize("logprobs", [(), (5,), (5, 7), (6, 5), (5, 6, 7)])
def test_log_probabilities_of_other_tokens_are_wrong(logprobs):
    assert "log probabilities" in fault([ACCEPT, tokens(5, 6, logprobs=logprobs)], logprobs=True)


def test_more_alternatives_than_were_asked_for_are_wrong():
    def token(alternatives: int):
        others = tuple((each, -2.0) for each in range(alternatives))
        return ("tokens", 0, [5], [TokenLogprob(5, -1.0, others)])

    assert fault([ACCEPT, token(2)], logprobs=True) is None
    assert "alternatives" in fault([ACCEPT, token(3)], logprobs=True)


PROMPT = [ACCEPT, prompt(5, 6), prompt(7, offset=2, alternatives=1)]


@pytest.mark.parametrize(
    "events",
    [
        [*PROMPT, tokens(5), END, COMPLETE],
        [ACCEPT, prompt(5), END, COMPLETE],  # it was ended before the engine had read the prompt
    ],
)
def test_log_probabilities_of_a_prompt_come_in_order_before_any_token(events):
    assert fault(events, prompt_tokens=3) is None


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([prompt(5)], "before it was accepted"),
        ([ACCEPT, prompt()], "not those of the next tokens"),
        ([ACCEPT, prompt(5, offset=1)], "not those of the next tokens"),
        ([*PROMPT, prompt(7, offset=3)], "not those of the next tokens"),
        ([ACCEPT, prompt(100)], "beyond a vocabulary of 100"),
        ([ACCEPT, prompt(5, alternatives=2)], "more alternatives"),
        ([ACCEPT, tokens(5)], "before the log probabilities of its prompt"),
        ([ACCEPT, prompt(5), tokens(5)], "before the log probabilities of its prompt"),
    ],
)
def test_log_probabilities_of_a_prompt_that_are_wrong(events, words):
    assert words in fault(events, prompt_tokens=3)


def test_log_probabilities_of_a_prompt_that_nobody_asked_for_are_wrong():
    assert "of its prompt" in fault([ACCEPT, prompt(5)])


def test_an_event_that_is_wrong_changes_nothing():
    order = CallOrder(1, 100, logprobs=False, most_tokens=10)
    order.accept()
    assert order.end(0, 100)
    assert order.end(0, 2) is None


# --- handles -------------------------------------------------------------------------------------


def test_handles_go_round_within_32_bits_and_pass_over_those_that_are_live():
    handles = Handles(HANDLES - 2)
    live = {1, 3}
    taken = [handles.take(live) for _ in range(4)]
    assert taken == [HANDLES - 1, HANDLES, 2, 4]
    assert HANDLES == 2**32 - 1


def test_no_handle_is_taken_up_again_soon():
    handles = Handles()
    taken = list(islice(iter(lambda: handles.take(()), None), 1000))
    assert len(set(taken)) == 1000
