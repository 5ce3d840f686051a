"""Every field of a Generation as vLLM's parameters, and vLLM's results as the port's."""

import dataclasses

import pytest
from tokenwire_worker.engines.guides.prepare import grammar_text
from tokenwire_worker.engines.port import (
    Ability,
    Alternative,
    Generation,
    Guide,
    KvCleared,
    KvRemoved,
    KvStored,
    Sampling,
    TokenLogprob,
)

from tests.engines.vllm import stand_in as vllm


@pytest.fixture(scope="module")
def adapter():
    with vllm.installed():
        from tokenwire_worker.engines.vllm import kv_events, params

        params.translate = kv_events.translate
        yield params


def params(adapter, sequence=0, guide_stops=(2,), **fields):
    generation = Generation(**{"prompt": [5], "max_tokens": 7, **fields})
    return adapter.sampling_params(generation, sequence, guide_stops)


def test_every_field_arrives(adapter):
    sampling = Sampling(0.5, 0.9, 40, 0.1, 1.2, 0.3, -0.4, 11)
    made = params(
        adapter, sampling=sampling, min_tokens=3, stop_token_ids=(1, 9), logprobs=True,
        top_logprobs=4,
    )  # fmt: skip
    assert (made.temperature, made.top_p, made.top_k, made.min_p) == (0.5, 0.9, 40, 0.1)
    assert (made.repetition_penalty, made.presence_penalty) == (1.2, 0.3)
    assert (made.frequency_penalty, made.seed) == (-0.4, 11)
    # Its own count is of the tokens before a stop, ours counts the stop.
    assert (made.max_tokens, made.min_tokens) == (7, 2)
    assert [params(adapter, min_tokens=each).min_tokens for each in (0, 1, 2)] == [0, 0, 1]
    assert made.stop_token_ids == [1, 9]
    assert made.logprobs == 4
    assert made.n == 1


def test_no_field_of_the_port_is_left_out():
    """A field that is added to the port has to be given to vLLM, or refused, before this passes."""
    assert {field.name for field in dataclasses.fields(Generation)} == {
        *("prompt", "max_tokens", "sampling", "min_tokens", "stop_token_ids", "sequence_count"),
        *("logprobs", "top_logprobs", "prompt_logprobs", "guide", "lora_adapter", "cache_salt"),
        *("priority", "trace_headers", "carried_tokens", "prefill_only", "transfer_handle"),
    }
    assert {field.name for field in dataclasses.fields(Sampling)} == {
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"),
        *("frequency_penalty", "seed", "logit_bias", "banned_sequences"),
    }


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_biases_and_banned_sequences_arrive_in_vllms_form(adapter, temperature):
    sampling = Sampling(
        temperature=temperature,
        logit_bias=((7, -100.0), (9, 1.5)),
        banned_sequences=((5,), (6, 7)),
    )
    made = params(adapter, sampling=sampling)
    assert made.logit_bias == {7: -100.0, 9: 1.5}
    assert made._bad_words_token_ids == [[5], [6, 7]]
    plain = params(adapter)
    assert (plain.logit_bias, plain._bad_words_token_ids) == (None, None)


def test_the_prompt_is_scored_for_the_first_sequence_alone(adapter):
    assert params(adapter).prompt_logprobs is None
    assert [params(adapter, each, prompt_logprobs=0).prompt_logprobs for each in (0, 1)] == [
        0,
        None,
    ]
    assert params(adapter, prompt_logprobs=3).prompt_logprobs == 3


@pytest.mark.parametrize("alternatives", [0, 2])
def test_a_prompts_log_probabilities_are_the_ports(adapter, alternatives):
    generation = Generation([5, 6, 7], 1, prompt_logprobs=alternatives)
    flat = vllm.FlatLogprobs([], [], [], [], [], [])
    for run in ([], [(6, -1.0), (8, -0.5), (6, -1.0)], [(7, -2.0), (4, -0.1), (3, -0.2)]):
        flat.start_indices.append(len(flat.token_ids))
        flat.token_ids += [token for token, _ in run[: 1 + alternatives]]
        flat.logprobs += [value for _, value in run[: 1 + alternatives]]
        flat.end_indices.append(len(flat.token_ids))
    found = list(adapter.prompt_logprobs(generation, flat).part(0, 9))
    assert [(each.token_id, each.logprob) for each in found] == [(5, 0.0), (6, -1.0), (7, -2.0)]
    likeliest = [[each.token_id for each in token.alternatives] for token in found]
    assert likeliest == ([[], [8, 6], [4, 3]] if alternatives else [[], [], []])
    flat.token_ids.pop()
    flat.logprobs.pop()
    with pytest.raises(ValueError, match="other log probabilities of the prompt"):
        adapter.prompt_logprobs(generation, flat)


def test_ids_only_and_only_what_is_new(adapter):
    made = params(adapter)
    assert made.detokenize is False
    assert made.output_kind is vllm.RequestOutputKind.DELTA
    assert made.stop in (None, [])


def test_stops_are_the_ports_alone(adapter):
    """vLLM would add the tokenizer's and the generation config's ids unless EOS is ignored."""
    assert params(adapter, stop_token_ids=(4,)).ignore_eos is True
    assert params(adapter).stop_token_ids == []


def test_greedy_is_temperature_zero_whatever_else_is_asked(adapter):
    made = params(adapter, sampling=Sampling(temperature=0, top_p=0.5, top_k=3, min_p=0.2, seed=5))
    assert made.temperature == 0
    assert (made.top_p, made.top_k, made.min_p, made.seed) == (1.0, 0, 0.0, None)


def test_temperature_below_vllms_least_is_greedy(adapter):
    assert params(adapter, sampling=Sampling(temperature=0.009)).temperature == 0
    assert params(adapter, sampling=Sampling(temperature=0.01)).temperature == 0.01


@pytest.mark.parametrize(
    ("seed", "sequence", "given"),
    [(7, 0, 7), (7, 3, 10), (2**64 - 1, 0, 2**63 - 1), (2**64 - 1, 1, 0), (None, 2, None)],
)
def test_each_sequence_has_its_seed_within_vllms_bounds(adapter, seed, sequence, given):
    assert params(adapter, sequence, sampling=Sampling(seed=seed)).seed == given


@pytest.mark.parametrize(
    "guide",
    [
        Guide(Ability.GUIDED_JSON_SCHEMA, '{"type": "object"}'),
        Guide(Ability.GUIDED_JSON_OBJECT),
        Guide(Ability.GUIDED_REGEX, "a+"),
        Guide(Ability.GUIDED_GRAMMAR, 'root ::= "a"'),
        Guide(Ability.GUIDED_CHOICE, options=('a"\\', "b\n日")),
    ],
)
def test_guides_of_every_form_are_grammars(adapter, guide):
    made = params(adapter, guide=guide)
    assert made.structured_outputs.grammar == grammar_text(guide)
    others = ("json", "json_object", "regex", "choice")
    assert all(getattr(made.structured_outputs, other) is None for other in others)


def test_a_guided_output_ends_even_where_eos_is_ignored(adapter):
    guide = Guide(Ability.GUIDED_JSON_OBJECT)
    assert params(adapter, guide=guide, guide_stops=(2, 3)).stop_token_ids == [2, 3]
    made = params(adapter, guide=guide, stop_token_ids=(9, 2), guide_stops=(2, 3))
    assert made.stop_token_ids == [9, 2, 3]


def test_log_probabilities_are_asked_for_only_where_wanted(adapter):
    assert params(adapter).logprobs is None
    assert params(adapter, top_logprobs=3).logprobs is None
    assert params(adapter, logprobs=True).logprobs == 0


def test_prompt_passes_vllms_preprocessing_by(adapter):
    prompt = adapter.prompt(Generation((1, 2), 1))
    assert prompt == {"type": "token", "prompt_token_ids": [1, 2], "cache_salt": None}
    assert adapter.prompt(Generation((1,), 1, cache_salt="mine"))["cache_salt"] == "mine"


def test_alternatives_are_likeliest_first_each_once(adapter):
    flat = vllm.FlatLogprobs(
        start_indices=[0, 3],
        end_indices=[3, 6],
        token_ids=[8, 5, 8, 7, 6, 4],
        logprobs=[-1.5, -0.5, -1.5, -3.0, -0.1, -0.2],
        ranks=[],
        decoded_tokens=[],
    )
    assert adapter.token_logprobs([8, 7], flat, 2) == [
        TokenLogprob(8, -1.5, (Alternative(5, -0.5), Alternative(8, -1.5))),
        TokenLogprob(7, -3.0, (Alternative(6, -0.1), Alternative(4, -0.2))),
    ]
    assert adapter.token_logprobs([8], flat, 0) == [TokenLogprob(8, -1.5, ())]


def stored(hashes, parent=None, block_size=2, medium="GPU", group=None):
    ids = list(range(block_size * len(hashes)))
    return vllm.BlockStored(hashes, parent, ids, block_size, None, medium, None, group_idx=group)


def test_kv_events_keep_their_order_and_removals_merge(adapter):
    events = [
        stored([1, 2]),
        stored([3], parent=2),
        vllm.BlockRemoved([1], "GPU"),
        vllm.BlockRemoved([2], "GPU"),
        vllm.AllBlocksCleared(),
        vllm.BlockRemoved([4], "GPU"),
    ]
    assert adapter.translate(events, 2) == [
        KvStored(0, [1, 2], [0, 1, 2, 3]),
        KvStored(2, [3], [0, 1]),
        KvRemoved([1, 2]),
        KvCleared(),
        KvRemoved([4]),
    ]


def test_kv_events_of_other_memories_groups_and_sizes_are_left_out(adapter):
    events = [
        stored([1], medium="CPU"),
        stored([1], group=1),
        stored([1], block_size=1),
        vllm.BlockRemoved([1], "CPU"),
        vllm.BlockRemoved([1], "GPU", group_idx=2),
        stored([5], group=0),
    ]
    assert adapter.translate(events, 2) == [KvStored(0, [5], [0, 1])]


def test_hashes_are_the_low_64_bits_in_either_form(adapter):
    low = 0xFEDC_BA98_7654_3210
    whole = b"\x01" * 24 + low.to_bytes(8, "big")
    events = [stored([whole], parent=whole), stored([low], parent=-1)]
    first, second = adapter.translate(events, 2)
    assert (first.parent_hash, list(first.block_hashes)) == (low, [low])
    assert (second.parent_hash, list(second.block_hashes)) == (2**64 - 1, [low])
