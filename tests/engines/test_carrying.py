"""Going on after output that a generation has already: as if there had been no break.

An engine says of each request whether it does so exactly. What it says that it can is compared
here with the ids that come without a break.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from tokenwire_worker.core import validation
from tokenwire_worker.core.request import GenerationRequest, TokenIds
from tokenwire_worker.engines.carrying import begun_bans
from tokenwire_worker.engines.port import Ability, Finish, Generation, Guide, Sampling

from tests.engines.recorder import GREEDY, Ran, Recorder

TOKENS = 40
PLACES = (1, 7, 24, 32, TOKENS - 1)
"""Of the break, in tokens of the output; the prompt's 40 tokens and 24 more fill two KV blocks."""

SAMPLINGS = {
    "seed": Sampling(temperature=1.5, seed=5),
    "repetition_penalty": Sampling(temperature=0.0, repetition_penalty=1.3),
    "presence_penalty": Sampling(temperature=0.0, presence_penalty=1.0),
    "frequency_penalty": Sampling(temperature=0.0, frequency_penalty=1.0),
    "logit_bias": Sampling(temperature=0.0, logit_bias=((100, 5.0), (200, -100.0))),
}

CARRIED = {
    "openvino": {"repetition_penalty"},
    "simulated": {"seed"},
    "tensorrt_llm": {"repetition_penalty", "presence_penalty", "frequency_penalty"},
    "vllm": {"repetition_penalty", "logit_bias"},
}
"""Of each engine, fields of Sampling with which it goes on exactly; docs/engines/README.md."""


def asked(seed: int = 0, **fields: Any) -> GenerationRequest:
    prompt = random.Random(seed).choices(range(8, 4000), k=40)
    made = {"max_tokens": TOKENS, "sampling": GREEDY, "ignore_eos": True, **fields}
    return GenerationRequest(TokenIds.of(prompt), **made)


def complete(recorder: Recorder, request: GenerationRequest, output: list[int]) -> Generation:
    """What the worker makes of a request that has output already."""
    request = replace(request, output_so_far=TokenIds.of(output))
    assert validation.violations(request, recorder.engine.info) == []
    return validation.complete(request, recorder.engine.info)


def whole(recorder: Recorder, request: GenerationRequest) -> Ran:
    """What comes of a request without a break."""
    return recorder.run(complete(recorder, request, []))[0]


def parts_after_breaks(
    recorder: Recorder, request: GenerationRequest, ids: list[int]
) -> list[tuple[int, Generation]]:
    """What is left of a generation at each place of a break."""
    places = [at for at in PLACES if at < len(ids)]
    return [(at, complete(recorder, request, ids[:at])) for at in places]


def test_greedy_ids_and_their_log_probabilities_go_on(recorder):
    logprobs = Ability.LOGPROBS in recorder.engine.info.abilities
    request = asked(logprobs=logprobs)
    ran = whole(recorder, request)
    for at, rest in parts_after_breaks(recorder, request, ran.ids):
        assert recorder.engine.not_carried(rest) in ([], ())
        (went_on,) = recorder.run(rest)
        assert (went_on.ids, went_on.finish) == (ran.ids[at:], Finish.LENGTH), at
        values = [each.logprob for each in ran.logprobs[at:]]
        assert [each.logprob for each in went_on.logprobs] == pytest.approx(values, abs=1e-3)


def test_many_that_go_on_together_and_beside_others(recorder):
    requests = [asked(seed) for seed in range(6)]
    ids = [whole(recorder, request).ids for request in requests]
    rests = [
        (own[at:], rest)
        for request, own in zip(requests, ids, strict=True)
        for at, rest in parts_after_breaks(recorder, request, own)
    ]
    beside = [complete(recorder, asked(seed), []) for seed in range(100, 116)]
    mixed = [each for pair in zip(rests, [*beside, *beside], strict=False) for each in pair]
    ran = recorder.run(*[each[1] if isinstance(each, tuple) else each for each in mixed])
    for each, came in zip(mixed, ran, strict=True):
        if isinstance(each, tuple):
            assert came.ids == each[0]


def test_a_stop_token_ends_it_where_it_would_have(recorder):
    ids = whole(recorder, asked()).ids
    stop = next(each for each in ids[10:] if ids.index(each) >= 10)
    request = asked(stop_token_ids=(stop,))
    for at, rest in parts_after_breaks(recorder, request, ids[: ids.index(stop)]):
        (ran,) = recorder.run(rest)
        assert (ran.ids, ran.finish) == (ids[at : ids.index(stop) + 1], Finish.STOP)


def test_min_tokens_counts_what_came_before(recorder):
    ids = whole(recorder, asked()).ids
    stop = next(each for each in ids[10:] if ids.index(each) >= 10)
    number = ids.index(stop) + 1
    for least, at in ((number, 5), (number, number - 1), (number + 1, 5), (number + 1, number - 1)):
        request = asked(stop_token_ids=(stop,), min_tokens=least)
        without, (ran,) = (
            whole(recorder, request),
            recorder.run(complete(recorder, request, ids[:at])),
        )
        assert (ran.ids, ran.finish) == (without.ids[at:], without.finish), (least, at)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_it_goes_on_exactly_or_says_that_it_does_not(recorder, name):
    info = recorder.engine.info
    request = asked(3, sampling=SAMPLINGS[name])
    if validation.violations(request, info):
        pytest.skip(f"{info.engine} does not offer {name} here")
    ran = whole(recorder, request)
    for at, rest in parts_after_breaks(recorder, request, ran.ids):
        found = list(recorder.engine.not_carried(rest))
        assert found == ([] if name in CARRIED[info.engine] else [f"sampling.{name}"])
        if not found:
            assert recorder.run(rest)[0].ids == ran.ids[at:], at


def test_any_numbers_will_do_without_a_seed(recorder):
    rest = complete(recorder, asked(sampling=Sampling(temperature=1.0)), [9, 10])
    assert list(recorder.engine.not_carried(rest)) == []
    assert len(recorder.run(rest)[0].ids) == TOKENS - 2


def test_a_form_is_not_gone_on_with(recorder):
    if Ability.GUIDED_REGEX not in recorder.engine.info.abilities:
        pytest.skip(f"{recorder.engine.info.engine} has no guides")
    request = asked(guide=Guide(Ability.GUIDED_REGEX, "a+"), ignore_eos=False)
    assert list(recorder.engine.not_carried(complete(recorder, request, [9]))) == ["guide"]


# --- OpenVINO as it is set up --------------------------------------------------------------------

TIE = 0.05
"""Two tokens of which the log probabilities differ by less may change places with the batch, where
the engine does not compute exactly."""


def test_openvino_goes_on_as_well_as_it_repeats_without_the_exact_profile(started):
    recorder = started("--openvino.kv-blocks", "1024", "--context-tokens", "2048")
    compared = equal = 0
    for seed in range(4):
        request = asked(seed, logprobs=True)
        ran = whole(recorder, request)
        places, rests = zip(*parts_after_breaks(recorder, request, ran.ids), strict=True)
        for at, went_on in zip(places, recorder.run(*rests), strict=True):
            pairs = zip(ran.logprobs[at:], went_on.logprobs, strict=True)
            first = next((pair for pair in pairs if pair[0].token_id != pair[1].token_id), None)
            compared, equal = compared + 1, equal + (first is None)
            if first is not None:
                assert first[0].logprob == pytest.approx(first[1].logprob, abs=TIE), at
    assert equal > 0.7 * compared


# --- banned sequences ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "banned", "begun"),
    [
        ([5, 6], [(6, 7)], [0]),
        ([5, 6], [(5, 6, 7), (6,), (7, 8)], [0]),
        ([6], [(5, 6, 7)], []),  # the 5 is the prompt's
        ([5, 6], [(5, 6)], []),
        ([7, 5], [(6, 7), (5, 7, 9)], [1]),
    ],
)
def test_a_banned_sequence_that_the_output_has_begun(output, banned, begun):
    sampling = Sampling(banned_sequences=tuple(banned))
    made = Generation([4, 5, *output], 9, sampling, carried_tokens=len(output))
    assert begun_bans(made) == [f"sampling.banned_sequences[{at}]" for at in begun]
