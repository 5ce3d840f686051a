"""The figures of `tokenwire evaluate`: what they are of any distributions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenwire.evaluation import EvaluationError, compare, divergence, summarise, windows
from tokenwire.types import Alternative, TokenLogprob

VOCABULARY = 40


@st.composite
def distributions(draw):
    weights = draw(st.lists(st.floats(1e-4, 1), min_size=VOCABULARY, max_size=VOCABULARY))
    # Most of the weight on few tokens, as a model has it.
    weights = [each**4 for each in weights]
    return [each / sum(weights) for each in weights]


def place(shares, token_id):
    ranked = sorted(range(VOCABULARY), key=lambda each: -shares[each])[:20]
    told = [Alternative(each, math.log(shares[each])) for each in ranked]
    return TokenLogprob(token_id, math.log(shares[token_id]), told)


def exact(target, baseline):
    return sum(p * math.log(p / q) for q, p in zip(target, baseline, strict=True))


@given(distributions(), distributions(), st.integers(0, VOCABULARY - 1))
def test_the_divergence_is_never_above_that_of_the_whole_distributions(one, other, token_id):
    found = divergence(place(one, token_id), place(other, token_id))
    assert 0 <= found <= exact(one, other) + 1e-4


@given(distributions(), st.integers(0, VOCABULARY - 1))
def test_a_distribution_does_not_diverge_from_itself(shares, token_id):
    assert divergence(place(shares, token_id), place(shares, token_id)) == 0


def test_the_divergence_is_the_whole_one_where_both_tell_the_same_tokens():
    baseline = [0.6, 0.3, 0.1] + [0.0] * 3
    target = [0.5, 0.25, 0.25] + [0.0] * 3

    def told(shares):
        few = [Alternative(each, math.log(shares[each])) for each in range(3)]
        return TokenLogprob(0, math.log(shares[0]), few)

    assert divergence(told(target), told(baseline)) == pytest.approx(
        exact(target[:3], baseline[:3]), abs=1e-5
    )


@given(st.integers(0, 3), st.integers(1, 50), st.integers(5, 12))
def test_windows_have_every_token_of_the_text_once_behind_the_prefix(before, tokens, size):
    prefix, ids = [9] * before, list(range(100, 100 + tokens))
    found = list(windows(prefix, ids, size))
    assert all(each[:before] == prefix and 1 < len(each) <= size for each in found)
    told = [token_id for each in found for token_id in each[before:]]
    # A rest of a single token has nothing before it to be scored by.
    assert told == ids or (not before and told == ids[:-1])


def scored(target_logprob, baseline_logprob, tokens=10):
    first = TokenLogprob(1, 0.0, [])

    def side(logprob):
        return [first, *[TokenLogprob(2, logprob, [Alternative(2, logprob)])] * tokens]

    return compare(side(target_logprob), side(baseline_logprob))


def test_a_rise_is_told_from_the_noise_of_the_windows():
    found = summarise([scored(-1.01 - noise, -1.0) for noise in (-0.02, -0.01, 0.01, 0.02)])
    assert found.perplexity_rise == pytest.approx(math.expm1(0.01))
    assert found.perplexity_rise_noise == pytest.approx(2 * 0.01826 / 2 * math.exp(0.01), rel=1e-3)
    assert summarise([scored(-1.01, -1.0)] * 3).perplexity_rise_noise is None


def test_windows_of_different_lengths_count_by_their_tokens():
    found = summarise([scored(-2.0, -1.0, tokens=30), scored(-1.0, -1.0, tokens=10)])
    assert found.target_perplexity == pytest.approx(math.exp(1.75))
    assert (found.tokens, found.windows) == (40, 2)


@pytest.mark.parametrize(
    ("target", "baseline", "says"),
    [
        ([TokenLogprob(1, 0.0, [])], [TokenLogprob(2, 0.0, [])], "different tokens"),
        ([TokenLogprob(1, 0.0, [])] * 2, [TokenLogprob(1, 0.0, [])] * 2, "without alternatives"),
    ],
)
def test_what_cannot_be_compared_is_refused(target, baseline, says):
    with pytest.raises(EvaluationError, match=says):
        compare(target, baseline)


def test_a_text_without_tokens_has_no_figures():
    with pytest.raises(EvaluationError, match="too few tokens"):
        summarise([])
