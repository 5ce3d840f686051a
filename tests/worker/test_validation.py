"""Every field of a request: what is refused, what it is called, and what the refusal says."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from tokenwire_worker.core import validation
from tokenwire_worker.core.guide_validation import nesting
from tokenwire_worker.core.request import GenerationRequest, TokenIds
from tokenwire_worker.engines.port import Ability, EngineInfo, FreePrefix, Guide, Sampling

ABLE = EngineInfo(
    engine="able",
    engine_version="1",
    context_tokens=100,
    prompt_tokens=80,
    vocabulary_size=50,
    eos_token_ids=(2, 3),
    running_sequences=8,
    kv_block_tokens=16,
    kv_blocks=10,
    abilities=frozenset(Ability),
    top_logprobs=5,
    lora_adapters=("french", "legal"),
)
UNABLE = replace(ABLE, engine="plain", abilities=frozenset(), lora_adapters=(), top_logprobs=0)


def request(**fields: Any) -> GenerationRequest:
    sampling = {
        name: fields.pop(name) for name in list(fields) if name in Sampling.__dataclass_fields__
    }
    if "output_so_far" in fields:
        fields["output_so_far"] = TokenIds.of(fields["output_so_far"])
    prompt = TokenIds.of(fields.pop("prompt", [1, 2, 3]))
    return GenerationRequest(prompt, sampling=Sampling(**sampling), **fields)


def faults(info: EngineInfo = ABLE, **fields: Any) -> dict[str, str]:
    found = validation.violations(request(**fields), info)
    return {fault.field: fault.description for fault in found}


def guide(form: Ability, text: str = "", options: tuple[str, ...] = ()) -> Guide:
    return Guide(form, text, options)


def test_a_request_with_everything_is_accepted():
    assert (
        faults(
            prompt=[0, 49] * 40,
            request_id="r" * 128,
            temperature=100.0,
            top_p=1.0,
            top_k=2**32 - 1,
            min_p=1.0,
            repetition_penalty=1e-6,
            presence_penalty=-2.0,
            frequency_penalty=2.0,
            seed=2**64 - 1,
            max_tokens=2**32 - 1,
            min_tokens=20,
            stop_token_ids=tuple(range(50)),
            ignore_eos=True,
            sequence_count=8,
            logprobs=True,
            top_logprobs=5,
            logit_bias=tuple((each, (-100.0, 100.0)[each % 2]) for each in range(50)),
            banned_sequences=((49,) * 256,) * 256,
            prompt_logprobs=5,
            lora_adapter="legal",
            cache_salt="s" * 256,
            priority=-100,
            time_budget_s=-1.0,
            traceparent="not a traceparent",
        )
        == {}
    )


@pytest.mark.parametrize(
    ("field", "fields", "says"),
    [
        ("prompt_token_ids", {"prompt": []}, "at least one"),
        ("prompt_token_ids", {"prompt": [1] * 81}, "81 tokens; this worker takes .* at most 80"),
        ("prompt_token_ids[2]", {"prompt": [1, 2, 50]}, "50 is not a token id; .* 0 to 49"),
        ("output_so_far", {"output_so_far": [1] * 98}, "98 tokens; .* has room for 97"),
        ("output_so_far[1]", {"output_so_far": [1, 50]}, "50 is not a token id"),
        ("output_so_far[1]", {"output_so_far": [1, 2, 2]}, "2 ends the sequence"),
        (
            "output_so_far[2]",
            {"output_so_far": [1, 2, 9, 7], "stop_token_ids": [9], "min_tokens": 3},
            "9 ends the sequence",
        ),
        ("sequence_count", {"output_so_far": [1], "sequence_count": 2}, "2 sequences; 1 with"),
        ("sampling.temperature", {"temperature": -0.1}, "-0.1 is not within 0 to 100"),
        ("sampling.temperature", {"temperature": 100.5}, "100.5 is not within 0 to 100"),
        ("sampling.temperature", {"temperature": math.nan}, "nan"),
        ("sampling.temperature", {"temperature": math.inf}, "inf"),
        ("sampling.top_p", {"top_p": 0.0}, "0 is not above 0"),
        ("sampling.top_p", {"top_p": 1.01}, "1.01"),
        ("sampling.top_p", {"top_p": math.nan}, "nan"),
        ("sampling.min_p", {"min_p": -0.5}, "-0.5"),
        ("sampling.min_p", {"min_p": 1.5}, "1.5"),
        ("sampling.min_p", {"min_p": math.nan}, "nan"),
        ("sampling.repetition_penalty", {"repetition_penalty": 0.0}, "0 is not above 0"),
        ("sampling.repetition_penalty", {"repetition_penalty": math.inf}, "inf"),
        ("sampling.repetition_penalty", {"repetition_penalty": math.nan}, "nan"),
        ("sampling.presence_penalty", {"presence_penalty": 2.5}, "2.5 is not within -2 to 2"),
        ("sampling.presence_penalty", {"presence_penalty": math.nan}, "nan"),
        ("sampling.frequency_penalty", {"frequency_penalty": -2.5}, "-2.5"),
        ("sampling.frequency_penalty", {"frequency_penalty": math.inf}, "inf"),
        ("stopping.stop_token_ids[1]", {"stop_token_ids": (4, 50)}, "50 is not a token id"),
        ("stopping.stop_token_ids", {"stop_token_ids": (1,) * 257}, "257 ids; at most 256"),
        ("stopping.min_tokens", {"max_tokens": 5, "min_tokens": 6}, "6 is more than the 5"),
        ("stopping.min_tokens", {"prompt": [1] * 70, "min_tokens": 31}, "31 is more than the 30"),
        ("sequence_count", {"sequence_count": 9}, "9 sequences; at most 8"),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 6}, "6 alternatives; at most 5"),
        ("top_logprobs", {"top_logprobs": 1}, "needs logprobs"),
        ("sampling.logit_bias[1].token_id", {"logit_bias": [(7, 1.0), (50, 1.0)]}, "50 is no"),
        ("sampling.logit_bias[1].token_id", {"logit_bias": [(7, 1.0), (7, 2.0)]}, "came before"),
        ("sampling.logit_bias[0].bias", {"logit_bias": [(7, 100.5)]}, "-100 to 100"),
        ("sampling.logit_bias[0].bias", {"logit_bias": [(7, math.nan)]}, "nan"),
        ("sampling.banned_sequences", {"banned_sequences": [(1,)] * 257}, "more than 256"),
        ("sampling.banned_sequences[1].ids", {"banned_sequences": [(1,), ()]}, "empty"),
        (
            "sampling.banned_sequences[0].ids",
            {"banned_sequences": [(1,) * 257]},
            "more than 256 ids",
        ),
        ("sampling.banned_sequences[0].ids[1]", {"banned_sequences": [(1, 50)]}, "50 is no"),
        ("prompt_logprobs", {"prompt_logprobs": 6}, "6 alternatives; at most 5"),
        ("lora_adapter", {"lora_adapter": "klingon"}, "'klingon' is not here; .* french, legal"),
        ("cache_salt", {"cache_salt": "s" * 257}, "257 characters; at most 256"),
        ("request_id", {"request_id": "r" * 129}, "129 characters; at most 128"),
        ("priority", {"priority": 101}, "101 is not within -100 to 100"),
        ("priority", {"priority": -101}, "-101"),
        ("time_budget", {"time_budget_s": math.nan}, "not a valid duration"),
    ],
)
def test_a_field_at_fault_is_named_with_its_value_and_bound(field, fields, says):
    found = faults(**fields)
    assert list(found) == [f"request.{field}"]
    assert re.search(says, found[f"request.{field}"])


@pytest.mark.parametrize(
    ("form", "text", "options", "field", "says"),
    [
        (Ability.GUIDED_JSON_SCHEMA, " ", (), "guide.json_schema", "empty"),
        (Ability.GUIDED_REGEX, "", (), "guide.regex", "empty"),
        (Ability.GUIDED_GRAMMAR, "\n", (), "guide.grammar", "empty"),
        (Ability.GUIDED_REGEX, "é" * 32769, (), "guide.regex", "65538 bytes; at most 65536"),
        (Ability.GUIDED_JSON_SCHEMA, "[" * 65, (), "guide.json_schema", "nest 65 deep; .* 64"),
        (Ability.GUIDED_GRAMMAR, "(" * 65, (), "guide.grammar", "nest 65 deep"),
        (Ability.GUIDED_CHOICE, "", (), "guide.choice.options", "at least one"),
        (Ability.GUIDED_CHOICE, "", ("a", ""), r"guide.choice.options[1]", "empty"),
        (Ability.GUIDED_CHOICE, "", ("a",) * 257, "guide.choice.options", "257 options; .* 256"),
        (Ability.GUIDED_CHOICE, "", ("a", "b\0"), r"guide.choice.options[1]", r"U\+0000"),
        (Ability.GUIDED_CHOICE, "", ("a" * 65537,), "guide.choice.options", "65537 bytes in all"),
    ],
)
def test_a_guide_at_fault_is_named_by_its_form(form, text, options, field, says):
    found = faults(guide=guide(form, text, options))
    assert list(found) == [f"request.{field}"]
    assert re.search(says, found[f"request.{field}"])


@pytest.mark.parametrize(
    ("begin", "end", "field", "says"),
    [
        ("b" * 65, "e", "begin", "65 characters; at most 64$"),
        ("", "e" * 65, "end", "65 characters; at most 64$"),
        ("", "", "end", "empty"),
        ("b\0", "e", "begin", r"U\+0000"),
        ("b", "\0", "end", r"U\+0000"),
    ],
)
def test_a_free_prefix_at_fault_is_named(begin, end, field, says):
    held = replace(guide(Ability.GUIDED_REGEX, "a"), free_prefix=FreePrefix(begin, end))
    found = faults(guide=held)
    assert list(found) == [f"request.guide.free_prefix.{field}"]
    assert re.search(says, found[f"request.guide.free_prefix.{field}"])


def test_a_regular_expression_may_be_a_space():
    assert not faults(guide=guide(Ability.GUIDED_REGEX, " "))


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("logprobs", {"logprobs": True}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 1}),
        ("sampling.min_p", {"min_p": 0.1}),
        ("sampling.logit_bias", {"logit_bias": [(7, 1.0)]}),
        ("sampling.banned_sequences", {"banned_sequences": [(7,)]}),
        ("prompt_logprobs", {"prompt_logprobs": 0}),
        ("lora_adapter", {"lora_adapter": "legal"}),
        ("cache_salt", {"cache_salt": "pepper"}),
        ("guide.json_schema", {"guide": guide(Ability.GUIDED_JSON_SCHEMA, "{}")}),
        ("guide.json_object", {"guide": guide(Ability.GUIDED_JSON_OBJECT)}),
        ("guide.regex", {"guide": guide(Ability.GUIDED_REGEX, "a")}),
        ("guide.grammar", {"guide": guide(Ability.GUIDED_GRAMMAR, "root ::= 'a'")}),
        ("guide.choice", {"guide": guide(Ability.GUIDED_CHOICE, options=("a",))}),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_name(field, fields):
    found = faults(UNABLE, **fields)
    assert found[f"request.{field}"] == "the engine of this worker, plain, does not support it"


def test_every_fault_is_told_at_once():
    found = faults(prompt=[], temperature=-1.0, priority=500, sequence_count=1000)
    assert set(found) == {
        "request.prompt_token_ids",
        "request.sampling.temperature",
        "request.priority",
        "request.sequence_count",
    }


def test_an_engine_bounds_temperature_and_stop_ids_further():
    info = replace(ABLE, highest_temperature=2.0, stop_token_ids=4)
    found = faults(info, temperature=2.5, stop_token_ids=(1, 2, 3, 4, 5))
    assert found["request.sampling.temperature"] == "2.5 is not within 0 to 2"
    assert found["request.stopping.stop_token_ids"] == "5 ids; at most 4"


def test_biases_are_counted():
    info = replace(ABLE, vocabulary_size=1000)
    assert faults(info, logit_bias=[(each, 1.0) for each in range(300)]) == {}
    found = faults(info, logit_bias=[(each, 1.0) for each in range(301)])
    assert found == {"request.sampling.logit_bias": "more than 300 tokens"}


def test_an_engine_bounds_banned_sequences_further():
    info = replace(ABLE, banned_sequences=3, banned_ids=4)
    assert faults(info, banned_sequences=[(1, 2), (3,), (4,)]) == {}
    many = faults(info, banned_sequences=[(1,)] * 4)
    assert many == {"request.sampling.banned_sequences": "more than 3 sequences"}
    long = faults(info, banned_sequences=[(1, 2, 3), (4, 5)])
    assert long == {"request.sampling.banned_sequences": "5 ids in all; at most 4"}


def test_a_prompt_has_so_many_log_probabilities_at_most():
    info = replace(ABLE, context_tokens=10**6, prompt_tokens=10**6)
    assert faults(info, prompt=[1] * 2**18, prompt_logprobs=1) == {}
    found = faults(info, prompt=[1] * (2**18 + 1), prompt_logprobs=1)
    assert "524290" in found["request.prompt_logprobs"]
    assert faults(info, prompt=[1] * (2**18 + 1), prompt_logprobs=0) == {}


def test_a_guide_decides_its_own_end():
    regex = guide(Ability.GUIDED_REGEX, "[a-z]+")
    assert list(faults(guide=regex, min_tokens=1)) == ["request.stopping.min_tokens"]
    assert list(faults(guide=regex, ignore_eos=True)) == ["request.stopping.ignore_eos"]
    assert faults(guide=regex, ignore_eos=True, stop_token_ids=(7,)) == {}


def test_a_prompt_must_leave_room_for_one_token():
    info = replace(ABLE, prompt_tokens=100)
    assert validation.prompt_token_limit(info) == 99
    assert faults(info, prompt=[1] * 99) == {}
    assert "at most 99" in faults(info, prompt=[1] * 100)["request.prompt_token_ids"]


def test_nesting_counts_open_brackets_of_any_kind():
    assert nesting("no brackets") == 0
    assert nesting("([{}])[]") == 3
    assert nesting(")))(") == 1


# --- what a request becomes ----------------------------------------------------------------------


def test_unset_fields_are_neutral():
    generation = validation.complete(request(), ABLE)
    assert generation.max_tokens == 97, "what is left of the context"
    assert generation.sequence_count == 1
    assert generation.stop_token_ids == (2, 3), "the model's own"
    assert generation.trace_headers == ()


@pytest.mark.parametrize(("asked", "given"), [(5, 5), (97, 97), (98, 97), (2**32 - 1, 97)])
def test_max_tokens_ends_with_the_context(asked, given):
    assert validation.complete(request(max_tokens=asked), ABLE).max_tokens == given


@pytest.mark.parametrize(
    ("output", "max_tokens", "min_tokens", "left", "least"),
    [
        (range(10, 15), 8, 0, 3, 0),
        (range(10, 15), 8, 7, 3, 2),
        (range(10, 15), 8, 5, 3, 0),
        (range(10, 15), 5, 5, 0, 0),
        (range(10, 15), 3, 0, 0, 0),
        (range(10, 15), 0, 0, 92, 0),
        ([9] * 97, 0, 0, 0, 0),
    ],
)
def test_output_so_far_is_a_part_of_the_prompt_and_of_what_is_counted(
    output, max_tokens, min_tokens, left, least
):
    asked = request(output_so_far=list(output), max_tokens=max_tokens, min_tokens=min_tokens)
    assert validation.violations(asked, ABLE) == []
    generation = validation.complete(asked, ABLE)
    assert list(generation.prompt) == [1, 2, 3, *output]
    assert generation.carried_tokens == len(output)
    assert (generation.max_tokens, generation.min_tokens) == (left, least)


def test_what_is_too_long_for_a_prompt_is_not_carried():
    asked = request(output_so_far=[9] * 78)
    ((field, why),) = validation.not_carried(validation.complete(asked, ABLE), ABLE)
    assert (field, why) == (
        "output_so_far",
        "81 tokens with the prompt; the engine reads at most 80",
    )


@pytest.mark.parametrize(
    ("ignore", "stops", "all_stops"),
    [
        (False, (), (2, 3)),
        (False, (7, 2, 7), (7, 2, 3)),
        (True, (), ()),
        (True, (7, 2), (7, 2)),
    ],
)
def test_stop_ids_are_the_models_and_the_callers(ignore, stops, all_stops):
    generation = validation.complete(request(ignore_eos=ignore, stop_token_ids=stops), ABLE)
    assert generation.stop_token_ids == all_stops


def test_the_trace_context_goes_on_to_the_engine():
    generation = validation.complete(request(traceparent="00-a", tracestate="b=c"), ABLE)
    assert generation.trace_headers == (("traceparent", "00-a"), ("tracestate", "b=c"))
