"""How far one deployment is from another on a text that both of them score.

A window is a run of token ids that both deployments get as a prompt. Each of its tokens but the
first has a log probability and the likeliest alternatives from either side, which `compare` reduces
to sums: nothing of a window is kept but those.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenwire.types import TokenLogprob

ALTERNATIVES = 20
"""Likeliest tokens of each place that are compared one by one; the contract offers no more."""

LEAST_SHARE = 1e-6
"""Least probability of what is outside of the compared tokens: below it the rounding of 20
float32 probabilities is larger."""

LEAST_LOGPROB = -100.0
"""Stands for less, so that a token without any probability does not make every sum infinite."""

LEAST_WINDOWS = 4
"""From fewer no spread can be told."""


class EvaluationError(ValueError):
    """The two deployments did not score the same tokens, or not as asked."""


@dataclass(frozen=True, slots=True)
class WindowScores:
    """Sums over the scored tokens of one window."""

    tokens: int
    target_nats: float
    """Negative log likelihood of the tokens."""
    baseline_nats: float
    agreements: int
    """Tokens at whose place both find the same one the likeliest."""
    divergence_nats: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What all windows together say of a target and its baseline."""

    tokens: int
    windows: int
    target_perplexity: float
    baseline_perplexity: float
    perplexity_rise: float
    """Share by which the target's perplexity is above the baseline's; below 0: it is lower."""
    perplexity_rise_noise: float | None
    """Two standard errors of it, by the spread of the windows; None with fewer than 4."""
    top_1_agreement: float
    """Share of the tokens at whose place both find the same one the likeliest."""
    divergence_nats: float
    """Mean Kullback-Leibler divergence of the target from the baseline, per token."""


def windows(
    prefix: Sequence[int], token_ids: Sequence[int], window_tokens: int
) -> Iterator[list[int]]:
    """Yields the prompts that a text becomes, each with the tokenizer's prefix and of a size.

    Args:
        prefix: what the tokenizer puts before every text, such as a beginning-of-text token.
        token_ids: the text's own.
        window_tokens: most ids of one, the prefix included. A rest of one id alone scores nothing
            and is left out.
    """
    step = window_tokens - len(prefix)
    for start in range(0, len(token_ids), step):
        window = [*prefix, *token_ids[start : start + step]]
        if len(window) > 1:
            yield window


def compare(target: Sequence[TokenLogprob], baseline: Sequence[TokenLogprob]) -> WindowScores:
    """Compares the log probabilities of one window, whose first token has none.

    Raises:
        EvaluationError: the sides scored different tokens, or a place has no alternatives.
    """
    if [each.token_id for each in target] != [each.token_id for each in baseline]:
        raise EvaluationError("the deployments scored different tokens")
    pairs = list(zip(target[1:], baseline[1:], strict=True))
    if not all(ours.alternatives and theirs.alternatives for ours, theirs in pairs):
        raise EvaluationError("a token of the prompt came without alternatives")
    return WindowScores(
        tokens=len(pairs),
        target_nats=-sum(max(ours.logprob, LEAST_LOGPROB) for ours, _ in pairs),
        baseline_nats=-sum(max(theirs.logprob, LEAST_LOGPROB) for _, theirs in pairs),
        agreements=sum(_likeliest(ours) == _likeliest(theirs) for ours, theirs in pairs),
        divergence_nats=math.fsum(divergence(*pair) for pair in pairs),
    )


def divergence(target: TokenLogprob, baseline: TokenLogprob) -> float:
    """Returns the Kullback-Leibler divergence of the target from the baseline at a place, in nats.

    It is taken over the tokens that both sides tell, and one bucket of all others. Putting tokens
    into a bucket never adds to the divergence, so that this is a lower bound of the whole one.
    """
    meant, found = _told(baseline), _told(target)
    shared = meant.keys() & found.keys()
    rest_meant = max(LEAST_SHARE, 1 - math.fsum(math.exp(meant[each]) for each in shared))
    rest_found = max(LEAST_SHARE, 1 - math.fsum(math.exp(found[each]) for each in shared))
    within = math.fsum(math.exp(meant[each]) * (meant[each] - found[each]) for each in shared)
    return max(0.0, within + rest_meant * math.log(rest_meant / rest_found))


def summarise(scores: Sequence[WindowScores]) -> Comparison:
    """Returns what all windows say together.

    Raises:
        EvaluationError: no token was scored.
    """
    tokens = sum(each.tokens for each in scores)
    if not tokens:
        raise EvaluationError("the text has too few tokens: nothing is scored of a single one")
    target = sum(each.target_nats for each in scores) / tokens
    baseline = sum(each.baseline_nats for each in scores) / tokens
    rise = math.expm1(target - baseline)
    return Comparison(
        tokens=tokens,
        windows=len(scores),
        target_perplexity=math.exp(target),
        baseline_perplexity=math.exp(baseline),
        perplexity_rise=rise,
        perplexity_rise_noise=_noise(scores, target - baseline),
        top_1_agreement=sum(each.agreements for each in scores) / tokens,
        divergence_nats=sum(each.divergence_nats for each in scores) / tokens,
    )


def _noise(scores: Sequence[WindowScores], difference: float) -> float | None:
    """Returns two standard errors of the perplexity's rise.

    Tokens of one window depend on each other and windows hardly do, so that windows are what is
    counted, each by its tokens.
    """
    if len(scores) < LEAST_WINDOWS:
        return None
    tokens = statistics.fmean(each.tokens for each in scores)
    residuals = [
        (each.target_nats - each.baseline_nats - difference * each.tokens) / tokens
        for each in scores
    ]
    error = statistics.stdev(residuals, xbar=0.0) / math.sqrt(len(scores))
    return 2 * error * math.exp(difference)


def _told(place: TokenLogprob) -> dict[int, float]:
    told = {each.token_id: max(each.logprob, LEAST_LOGPROB) for each in place.alternatives}
    told[place.token_id] = max(place.logprob, LEAST_LOGPROB)
    return told


def _likeliest(place: TokenLogprob) -> int:
    return place.alternatives[0].token_id
