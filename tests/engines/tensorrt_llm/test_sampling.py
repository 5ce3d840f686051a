"""Generations as SamplingParams, of the stand-in that checks names and ranges as the real one."""

import dataclasses

import pytest
from tokenwire_worker.engines.guides.prepare import grammar_text
from tokenwire_worker.engines.port import Ability, Generation, Guide, Sampling

from tests.engines.tensorrt_llm.conftest import EOS, VOCABULARY

GREEDY = Sampling(temperature=0.0)
BY_ITSELF = {"guided_decoding", "seed"}


@pytest.fixture
def sampling(installed):
    from tokenwire_worker.engines.tensorrt_llm import sampling

    return sampling


@pytest.fixture
def params(sampling):
    """Makes the SamplingParams of one sequence, and shows what is not the class's default."""
    from tensorrt_llm import SamplingParams

    def make(generation, sequence=0, backend="xgrammar"):
        fixed = sampling.Fixed(EOS, EOS[0], {}, backend, VOCABULARY, kv_retention=False)
        ends = sampling.stops(generation, EOS)
        made = sampling.sampling_params(generation, sequence, ends, fixed)
        plain = SamplingParams(end_id=0)
        names = [field.name for field in dataclasses.fields(made)]
        return {
            name: getattr(made, name)
            for name in names
            if getattr(made, name) != getattr(plain, name) or name == "end_id"
        }

    return make


def generation(**fields):
    return Generation(**{"prompt": [1, 2], "max_tokens": 10, "sampling": GREEDY, **fields})


ALWAYS = {"pad_id": 6, "max_tokens": 10, "include_stop_str_in_output": True, "detokenize": False}


def test_greedy_is_said_outright(params):
    assert params(generation()) == {**ALWAYS, "end_id": -1, "top_k": 1}


def test_the_default_is_not_greedy(params):
    made = params(generation(sampling=Sampling(seed=5)))
    chosen = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 5}
    assert made == {**ALWAYS, "end_id": -1, **chosen}


def test_every_field_of_sampling_is_mapped(params):
    made = params(generation(sampling=Sampling(0.5, 0.9, 40, 0.1, 1.2, 0.3, -0.4, 7)), sequence=2)
    assert made == {
        **ALWAYS,
        "end_id": -1,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": -0.4,
        "prompt_ignore_length": 2,
        "seed": 9,
    }


def test_penalties_of_the_output_count_what_it_had_already_and_none_of_the_prompt(params):
    penalised = Sampling(temperature=0.0, frequency_penalty=1.0)
    made = params(generation(prompt=[1, 2, 3, 8, 9], carried_tokens=2, sampling=penalised))
    assert made["prompt_ignore_length"] == 3


def test_greedy_has_its_penalties(params):
    made = params(generation(sampling=Sampling(temperature=0.0, presence_penalty=1.0)))
    assert made["presence_penalty"] == 1.0
    assert made["top_k"] == 1
    assert "seed" not in made


def test_without_a_seed_each_request_has_one_of_its_own(params):
    drawn = {params(generation(sampling=Sampling()))["seed"] for _ in range(20)}
    assert len(drawn) == 20
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_the_greatest_seed_and_token_number_are_taken(params):
    made = params(generation(sampling=Sampling(seed=2**64 - 1, top_k=2**32 - 1)), sequence=1)
    assert 0 <= made["seed"] < 2**63
    assert made["top_k"] == 0, "all of them, in an int32"


def test_each_request_has_params_of_its_own(sampling, installed):
    fixed = sampling.Fixed(EOS, EOS[0], {}, "", VOCABULARY, kv_retention=False)
    asked = generation(stop_token_ids=EOS)
    ends = sampling.stops(asked, EOS)
    first, second = (sampling.sampling_params(asked, 0, ends, fixed) for _ in range(2))
    assert first is not second
    assert first.stop_token_ids is not second.stop_token_ids


# --- where a sequence ends -----------------------------------------------------------------------


def test_the_models_ends_are_end_id_and_stop_words(params):
    made = params(generation(stop_token_ids=(9, *EOS)))
    assert made["end_id"] == EOS[0]
    assert made["stop_token_ids"] == [9, EOS[1]]
    assert "ignore_eos" not in made, "which would drop stop words too"


def test_ends_that_are_ignored_are_no_stops(params):
    made = params(generation(stop_token_ids=(9,)))
    assert (made["end_id"], made["stop_token_ids"]) == (-1, [9])
    assert "stop_token_ids" not in params(generation())


def test_log_probabilities_make_every_stop_a_word(params):
    made = params(generation(stop_token_ids=EOS, logprobs=True))
    assert (made["end_id"], made["stop_token_ids"]) == (-1, list(EOS))


def test_with_min_tokens_the_engine_stops_at_nothing(sampling, params):
    asked = generation(stop_token_ids=EOS, min_tokens=4)
    made = params(asked)
    assert made["end_id"] == -1
    assert not {"stop_token_ids", "min_tokens"} & set(made)
    assert sampling.stops(asked, EOS) == sampling.Stops(-1, (), frozenset(EOS), 3)


def test_a_minimum_of_one_token_is_none(sampling):
    one = sampling.stops(generation(stop_token_ids=EOS, min_tokens=1), EOS)
    assert one == sampling.stops(generation(stop_token_ids=EOS), EOS)


def test_a_guide_ends_at_the_models_ends_in_any_case(params):
    guide = Guide(Ability.GUIDED_REGEX, "a")
    made = params(generation(stop_token_ids=(9,), guide=guide))
    assert (made["end_id"], made["stop_token_ids"]) == (EOS[0], [9, EOS[1]])


# --- log probabilities and guides ----------------------------------------------------------------


@pytest.mark.parametrize(("top", "asked"), [(0, 1), (1, 1), (5, 5)])
def test_log_probabilities_are_asked_for_by_their_number(params, top, asked):
    assert params(generation(logprobs=True, top_logprobs=top))["logprobs"] == asked


@pytest.mark.parametrize(
    ("guide", "backend", "field", "value"),
    [
        *(
            (guide, "xgrammar", "grammar", grammar_text(guide))
            for guide in (
                Guide(Ability.GUIDED_JSON_SCHEMA, '{"type": "null"}'),
                Guide(Ability.GUIDED_JSON_OBJECT),
                Guide(Ability.GUIDED_REGEX, "a+"),
                Guide(Ability.GUIDED_GRAMMAR, 'root ::= "a"'),
                Guide(Ability.GUIDED_CHOICE, options=("yes", 'say "no"\n')),
            )
        ),
        (
            Guide(Ability.GUIDED_JSON_SCHEMA, '{"type": "null"}'),
            "llguidance",
            "json",
            '{"type": "null"}',
        ),
        (Guide(Ability.GUIDED_JSON_OBJECT), "llguidance", "json_object", True),
        (Guide(Ability.GUIDED_REGEX, "a+"), "llguidance", "regex", "a+"),
        (
            Guide(Ability.GUIDED_CHOICE, options=("a.b", "(c) d")),
            "llguidance",
            "regex",
            r"a\.b|\(c\) d",
        ),
    ],
)
def test_guides(params, guide, backend, field, value):
    made = params(generation(guide=guide), backend=backend)["guided_decoding"]
    given = {each.name: getattr(made, each.name) for each in dataclasses.fields(made)}
    assert {name: held for name, held in given.items() if held} == {field: value}


# --- what stays cached ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("priority", "kept"), [(-100, 0), (-50, 17), (1, 36), (50, 67), (100, 100)]
)
def test_priorities_say_how_long_a_prompt_stays_cached(sampling, priority, kept):
    config = sampling.retention(priority)
    (whole,) = config.token_range_retention_configs
    assert (whole.token_start, whole.token_end, whole.priority) == (0, None, kept)
    assert config.decode_retention_priority == 35
