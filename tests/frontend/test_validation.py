"""Every bound of a generation: the value at the bound passes, the one beyond is refused by name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tokenwire_frontend.core.model import Ability, ModelLimits
from tokenwire_frontend.core.request import (
    ChatPrompt,
    GenerationRequest,
    Guide,
    Output,
    Sampling,
    Stopping,
    TextPrompt,
    TokenPrompt,
)
from tokenwire_frontend.core.validation import (
    most_prompt_tokens,
    prompt_length_violation,
    violations,
)

LIMITS = ModelLimits(
    context_tokens=100,
    prompt_tokens=80,
    vocabulary_size=50,
    sequence_count=4,
    top_logprobs=5,
    eos_token_ids=(2,),
    abilities=frozenset(Ability),
    lora_adapters=frozenset({"tuned"}),
)
GOOD = GenerationRequest(prompt=TextPrompt("hello"))


def chat(**changes) -> ChatPrompt:
    user = {"role": "user", "content": "hi"}
    return replace(ChatPrompt([user], [], [], True, False, ""), **changes)


def sampling(**values) -> GenerationRequest:
    return replace(GOOD, sampling=Sampling(**values))


def stopping(**values) -> GenerationRequest:
    return replace(GOOD, stopping=Stopping(**values))


def output(**values) -> GenerationRequest:
    return replace(GOOD, output=Output(**values))


def guide(form: Ability, **values) -> GenerationRequest:
    return replace(GOOD, guide=Guide(form, **values))


def message(**values) -> GenerationRequest:
    return replace(GOOD, prompt=chat(messages=[{"role": "user", "content": "hi", **values}]))


AT_THE_BOUND = [
    GOOD,
    replace(GOOD, prompt=TokenPrompt([0, 49])),
    replace(GOOD, prompt=chat()),
    sampling(temperature=0.0),
    sampling(temperature=100.0, top_p=1.0, top_k=0, min_p=1.0, repetition_penalty=0.01),
    sampling(presence_penalty=-2.0, frequency_penalty=2.0),
    sampling(logit_bias=((49, -100.0), *((each, 100.0) for each in range(49)))),
    sampling(banned_words=("x" * 256,) * 64),
    output(prompt_logprobs=5),
    replace(GOOD, truncate_prompt_tokens=80),
    stopping(max_tokens=1, min_tokens=1),
    stopping(stop=("x" * 1024,) * 16, stop_token_ids=(49,) * 64),
    output(logprobs=True, top_logprobs=5),
    guide(Ability.GUIDED_CHOICE, options=("a",) * 256),
    guide(Ability.GUIDED_REGEX, text="é" * 32768),
    guide(Ability.GUIDED_JSON_OBJECT),
    replace(GOOD, sequence_count=4, lora_adapter="tuned", cache_salt="s" * 256, priority=-100),
    replace(GOOD, request_id="Az0._:-" + "x" * 121, time_budget_s=0.001),
]

BEYOND = {
    "prompt": [replace(GOOD, prompt=None)],
    "prompt.text": [replace(GOOD, prompt=TextPrompt(""))],
    "prompt.token_ids.ids": [replace(GOOD, prompt=TokenPrompt([]))],
    "prompt.token_ids.ids[1]": [replace(GOOD, prompt=TokenPrompt([0, 50]))],
    "prompt.add_special_tokens": [replace(GOOD, prompt=TokenPrompt([1]), add_special_tokens=True)],
    "prompt.chat.messages": [
        replace(GOOD, prompt=chat(messages=[])),
        replace(GOOD, prompt=chat(messages=[{"role": "user", "content": "hi"}] * 4097)),
    ],
    "prompt.chat.tools": [
        replace(GOOD, prompt=chat(tools=[{"function": {"name": "f"}}] * 1025)),
    ],
    "prompt.chat.documents": [replace(GOOD, prompt=chat(documents=[{"text": "d"}] * 1025))],
    "prompt.chat.messages[0].role": [message(role=""), message(role="robot")],
    "prompt.chat.messages[0].tool_calls[0].name": [
        message(tool_calls=[{"function": {"name": ""}}])
    ],
    "prompt.chat.tools[0].name": [replace(GOOD, prompt=chat(tools=[{"function": {"name": ""}}]))],
    "prompt.chat.add_generation_prompt": [replace(GOOD, prompt=chat(continue_final_message=True))],
    "sampling.temperature": [
        sampling(temperature=value) for value in (-0.1, 100.1, math.nan, math.inf)
    ],
    "sampling.top_p": [sampling(top_p=value) for value in (0.0, 1.01, -1.0, math.nan)],
    "sampling.min_p": [sampling(min_p=value) for value in (-0.1, 1.1, math.nan)],
    "sampling.repetition_penalty": [
        sampling(repetition_penalty=value) for value in (0.0, -1.0, math.inf)
    ],
    "sampling.presence_penalty": [sampling(presence_penalty=value) for value in (-2.1, 2.1)],
    "sampling.frequency_penalty": [sampling(frequency_penalty=value) for value in (-2.1, 2.1)],
    "sampling.logit_bias[1].token_id": [
        sampling(logit_bias=((7, 1.0), (50, 1.0))),
        sampling(logit_bias=((7, 1.0), (7, 1.0))),
    ],
    "sampling.logit_bias[0].bias": [
        sampling(logit_bias=((7, bias),)) for bias in (-100.1, 100.1, math.nan, math.inf)
    ],
    "sampling.banned_words": [sampling(banned_words=("x",) * 65)],
    "sampling.banned_words[1]": [sampling(banned_words=("x", word)) for word in ("", "y" * 257)],
    "output.prompt_logprobs": [output(prompt_logprobs=6)],
    "prompt.truncate_prompt_tokens": [replace(GOOD, truncate_prompt_tokens=81)],
    "stop.max_tokens": [stopping(max_tokens=0)],
    "stop.min_tokens": [stopping(max_tokens=3, min_tokens=4)],
    "stop.stop": [stopping(stop=("x",) * 17)],
    "stop.stop[1]": [stopping(stop=("x", "")), stopping(stop=("x", "y" * 1025))],
    "stop.stop_token_ids": [stopping(stop_token_ids=(1,) * 65)],
    "stop.stop_token_ids[1]": [stopping(stop_token_ids=(1, 50))],
    "output.top_logprobs": [output(top_logprobs=1), output(logprobs=True, top_logprobs=6)],
    "guided.json_schema": [
        guide(Ability.GUIDED_JSON_SCHEMA),
        guide(Ability.GUIDED_JSON_SCHEMA, text="x" * 65537),
        guide(Ability.GUIDED_JSON_SCHEMA, text="é" * 32769),
    ],
    "guided.choice.options": [
        guide(Ability.GUIDED_CHOICE),
        guide(Ability.GUIDED_CHOICE, options=("a",) * 257),
        guide(Ability.GUIDED_CHOICE, options=("a", "é" * 32768)),
    ],
    "guided.choice.options[1]": [guide(Ability.GUIDED_CHOICE, options=("a", ""))],
    "sequence_count": [replace(GOOD, sequence_count=5)],
    "lora_adapter": [replace(GOOD, lora_adapter="unknown")],
    "cache_salt": [replace(GOOD, cache_salt="s" * 257)],
    "priority": [replace(GOOD, priority=101), replace(GOOD, priority=-101)],
    "request_id": [replace(GOOD, request_id="a b"), replace(GOOD, request_id="x" * 129)],
    "time_budget": [replace(GOOD, time_budget_s=value) for value in (0.0, -1.0, 86401.0)],
}

ASKING = {
    Ability.LOGPROBS: output(logprobs=True),
    Ability.TOP_LOGPROBS: output(logprobs=True, top_logprobs=1),
    Ability.GUIDED_JSON_SCHEMA: guide(Ability.GUIDED_JSON_SCHEMA, text="{}"),
    Ability.GUIDED_JSON_OBJECT: guide(Ability.GUIDED_JSON_OBJECT),
    Ability.GUIDED_REGEX: guide(Ability.GUIDED_REGEX, text="a"),
    Ability.GUIDED_GRAMMAR: guide(Ability.GUIDED_GRAMMAR, text="root ::= 'a'"),
    Ability.GUIDED_CHOICE: guide(Ability.GUIDED_CHOICE, options=("a",)),
    Ability.LORA: replace(GOOD, lora_adapter="tuned"),
    Ability.CACHE_SALT: replace(GOOD, cache_salt="salt"),
    Ability.MIN_P: sampling(min_p=0.1),
    Ability.LOGIT_BIAS: sampling(logit_bias=((7, 1.0),)),
    Ability.BANNED_WORDS: sampling(banned_words=("a",)),
    Ability.PROMPT_LOGPROBS: output(prompt_logprobs=0),
}


@pytest.mark.parametrize("request_", AT_THE_BOUND)
def test_a_request_at_its_bounds_passes(request_):
    assert violations(request_, LIMITS) == []


@pytest.mark.parametrize(
    ("field", "request_"), [(field, each) for field, all_ in BEYOND.items() for each in all_]
)
def test_a_request_beyond_a_bound_is_refused_by_that_field_alone(field, request_):
    assert [violation.field for violation in violations(request_, LIMITS)] == [field]


def test_every_ability_has_a_request_that_asks_for_it():
    # A free prefix is asked for by the model's own template, and tested with held calls.
    assert set(ASKING) == set(Ability) - {Ability.FREE_PREFIX}


@pytest.mark.parametrize("ability", list(ASKING))
def test_what_the_engine_cannot_do_is_refused_by_name(ability):
    request = ASKING[ability]
    assert violations(request, LIMITS) == []
    unable = replace(LIMITS, abilities=frozenset(Ability) - {ability}, lora_adapters=())
    assert [violation.field for violation in violations(request, unable)] == [ability.value]


def test_more_biases_than_may_be_are_one_violation():
    request = sampling(logit_bias=tuple((each, 1.0) for each in range(301)))
    found = violations(request, replace(LIMITS, vocabulary_size=400))
    assert [each.field for each in found] == ["sampling.logit_bias"]


def test_all_violations_are_told_at_once():
    request = replace(sampling(temperature=-1.0, top_p=2.0), priority=1000)
    fields = [violation.field for violation in violations(request, LIMITS)]
    assert fields == ["sampling.temperature", "sampling.top_p", "priority"]


@pytest.mark.parametrize(
    ("tokens", "stop", "field", "numbers"),
    [
        (0, Stopping(), "prompt", []),
        (81, Stopping(), "prompt", ["81", "80"]),
        (80, Stopping(max_tokens=21), "stop.max_tokens", ["21", "80", "20", "100"]),
        (80, Stopping(min_tokens=21), "stop.min_tokens", ["21", "20"]),
    ],
)
def test_the_prompts_length_is_refused_with_both_numbers(tokens, stop, field, numbers):
    violation = prompt_length_violation(tokens, replace(GOOD, stopping=stop), LIMITS)
    assert violation is not None
    assert violation.field == field
    assert all(number in violation.description for number in numbers)


def test_a_prompt_that_fits_passes():
    request = stopping(max_tokens=20)
    assert prompt_length_violation(80, request, LIMITS) is None


def test_a_prompt_that_fills_the_context_leaves_no_room():
    limits = replace(LIMITS, prompt_tokens=100)
    violation = prompt_length_violation(100, GOOD, limits)
    assert violation is not None
    assert violation.field == "prompt"


@pytest.mark.parametrize(("tokens", "passes"), [(2**18, True), (2**18 + 1, False)])
def test_a_prompt_has_so_many_log_probabilities_at_most(tokens, passes):
    limits = replace(LIMITS, prompt_tokens=2**20, context_tokens=2**20)
    violation = prompt_length_violation(tokens, output(prompt_logprobs=1), limits)
    assert (violation is None) == passes
    assert violation is None or violation.field == "output.prompt_logprobs"


def test_a_prompt_that_is_to_be_truncated_may_be_longer_but_not_without_bound():
    truncated = replace(GOOD, truncate_prompt_tokens=1)
    assert most_prompt_tokens(GOOD, LIMITS) == 80
    assert most_prompt_tokens(truncated, LIMITS) == 262_144
    assert most_prompt_tokens(truncated, replace(LIMITS, prompt_tokens=10**6)) == 10**6
