"""What every engine owes the worker, run on each of them."""

from __future__ import annotations

import json
import math
import random
import re
from contextlib import suppress
from typing import Any

import pytest
from tokenwire_service.limits import TRANSFER_HANDLE_BYTES
from tokenwire_worker.engines.port import Ability, Finish, Generation, Guide, Refused, Sampling

from tests.engines.conftest import build
from tests.engines.recorder import GREEDY, Recorder

LONG = 1500
"""Tokens that take the engine long enough to be met in the middle."""


def prompt(seed: int = 0, tokens: int = 40) -> list[int]:
    return random.Random(seed).choices(range(8, 4000), k=tokens)


def generation(seed: int = 0, tokens: int = 40, **fields: Any) -> Generation:
    return Generation(
        **{"prompt": prompt(seed, tokens), "max_tokens": 12, "sampling": GREEDY, **fields}
    )


def guided(tokenizer: Any, recorder: Recorder, guide: Guide, **fields: Any) -> tuple[str, Finish]:
    """Runs a guided generation and returns its text and end."""
    needs(recorder, guide.form)
    eos = recorder.engine.info.eos_token_ids
    made = generation(guide=guide, stop_token_ids=eos, **{"max_tokens": 200, **fields})
    recorder.check(made)
    (ran,) = recorder.run(made)
    text = tokenizer.decode([token for token in ran.ids if token not in eos])
    return text, ran.finish


def needs(recorder: Recorder, ability: Ability) -> None:
    """Skips where an engine does not offer something, or its stand-in could not show it."""
    info = recorder.engine.info
    if ability not in info.abilities:
        pytest.skip(f"{info.engine} does not offer {ability.value} here")


# --- tokens and ends -----------------------------------------------------------------------------


def test_tokens_come_as_deltas_up_to_max_tokens(recorder):
    (ran,) = recorder.run(generation(max_tokens=20))
    assert ran.finish is Finish.LENGTH
    assert len(ran.ids) == 20
    assert len(ran.deltas) > 1, "it streams"
    assert all(0 <= token < recorder.engine.info.vocabulary_size for token in ran.ids)


def test_progress_counts_steps_also_those_that_bring_no_token(recorder):
    before, steps = recorder.engine.progress(), []
    # Many steps of prefill before the first token; a late one of an earlier test may be among them.
    key = recorder.submit(generation(9, tokens=900, max_tokens=1))
    recorder.wait(lambda: steps.append(recorder.engine.progress()) or recorder.of(key)[0].finish)
    assert recorder.engine.progress() - before > 2
    assert steps == sorted(steps)


def test_one_token_is_a_generation(recorder):
    (ran,) = recorder.run(generation(max_tokens=1))
    assert (len(ran.ids), ran.finish) == (1, Finish.LENGTH)


def test_a_stop_token_ends_and_is_the_last(recorder):
    (whole,) = recorder.run(generation())
    stop = whole.ids[4]
    (ran,) = recorder.run(generation(stop_token_ids=(stop,)))
    assert ran.finish is Finish.STOP
    assert ran.ids == whole.ids[: whole.ids.index(stop) + 1]


def test_only_the_stop_ids_given_end_a_sequence(recorder):
    # Held to its own end-of-sequence token again and again, a model that stopped of itself would.
    eos = recorder.engine.info.eos_token_ids[0]
    (ran,) = recorder.run(
        generation(prompt=[eos] * 40, max_tokens=60, sampling=Sampling(temperature=1.5, seed=7))
    )
    assert (len(ran.ids), ran.finish) == (60, Finish.LENGTH)


def test_the_models_end_can_be_passed_over_for_another(recorder):
    eos = recorder.engine.info.eos_token_ids[0]
    chat = [1, 3, *prompt(tokens=3), eos, 4]
    (whole,) = recorder.run(generation(prompt=chat, max_tokens=100))
    assert eos in whole.ids[:-1], "it goes on past the end that the model would make"
    later = whole.ids[whole.ids.index(eos) + 1]
    (ran,) = recorder.run(generation(prompt=chat, max_tokens=100, stop_token_ids=(later,)))
    assert ran.ids == whole.ids[: whole.ids.index(later) + 1]
    assert ran.finish is Finish.STOP


def test_min_tokens_puts_off_a_stop(recorder):
    (whole,) = recorder.run(generation())
    (ran,) = recorder.run(generation(stop_token_ids=(whole.ids[2],), min_tokens=8))
    assert len(ran.ids) >= 8


def test_a_stop_counts_from_the_token_of_number_min_tokens_on(recorder):
    (whole,) = recorder.run(generation())
    stop = next(each for each in whole.ids[2:] if whole.ids.count(each) == 1)
    number = whole.ids.index(stop) + 1
    for min_tokens in (0, 1, number - 1, number):
        (ran,) = recorder.run(generation(stop_token_ids=(stop,), min_tokens=min_tokens))
        assert (ran.ids, ran.finish) == (whole.ids[:number], Finish.STOP), min_tokens
    (ran,) = recorder.run(generation(stop_token_ids=(stop,), min_tokens=number + 1))
    assert len(ran.ids) > number


def test_a_prompt_of_the_whole_context_but_one(recorder):
    info = recorder.engine.info
    tokens = min(info.prompt_tokens, info.context_tokens - 1)
    (ran,) = recorder.run(generation(tokens=tokens, max_tokens=1))
    assert (len(ran.ids), ran.finish) == (1, Finish.LENGTH)


def test_a_generation_is_reported_as_started_once(recorder):
    before = len(recorder.started)
    keys = [recorder.submit(generation(seed)) for seed in range(5)]
    recorder.finish(*keys)
    assert sorted(recorder.started[before:]) == keys


def test_a_repeated_prompt_gives_the_same(recorder):
    first, second = (recorder.run(generation(3, tokens=500))[0].ids for _ in range(2))
    assert first == second


# --- sampling ------------------------------------------------------------------------------------


def test_greedy_ids_do_not_depend_on_the_batch(recorder):
    alone = [recorder.run(generation(seed))[0].ids for seed in range(16)]
    together = [ran.ids for ran in recorder.run(*[generation(seed) for seed in range(16)])]
    assert together == alone


def test_a_seed_repeats_and_others_differ(recorder):
    def sampled(seed: int | None) -> list[int]:
        hot = Sampling(temperature=2.0, seed=seed)
        return recorder.run(generation(sampling=hot, max_tokens=24))[0].ids

    assert sampled(5) == sampled(5)
    assert sampled(5) != sampled(6)
    assert sampled(None) != sampled(None), "without a seed each is another"


def test_sequences_of_one_request_use_consecutive_seeds(recorder):
    hot = Sampling(temperature=2.0, seed=11)
    several = recorder.run(generation(sampling=hot, sequence_count=3, max_tokens=24))
    single = [
        recorder.run(generation(sampling=Sampling(temperature=2.0, seed=seed), max_tokens=24))[0]
        for seed in (11, 12, 13)
    ]
    assert [ran.ids for ran in several] == [ran.ids for ran in single]
    assert len({tuple(ran.ids) for ran in several}) == 3


def test_the_greatest_seed_wraps_around(recorder):
    hot = Sampling(temperature=2.0, seed=2**64 - 1)
    several = recorder.run(generation(sampling=hot, sequence_count=2))
    assert all(ran.finish is Finish.LENGTH for ran in several)


@pytest.mark.parametrize(
    "narrow",
    [
        Sampling(temperature=2.0, top_k=1),
        Sampling(temperature=2.0, top_p=1e-6),
        Sampling(temperature=1e-6),
        Sampling(temperature=1.0, min_p=1.0),
    ],
)
def test_the_narrowest_sampling_is_greedy(recorder, narrow):
    (greedy,) = recorder.run(generation())
    (ran,) = recorder.run(generation(sampling=narrow))
    assert ran.ids == greedy.ids


def test_every_bound_of_sampling_runs(recorder):
    extremes = [
        Sampling(temperature=recorder.engine.info.highest_temperature),
        Sampling(top_k=2**32 - 1),
        Sampling(repetition_penalty=1e-6),
        Sampling(repetition_penalty=1e6),
        Sampling(presence_penalty=-2.0, frequency_penalty=2.0),
        Sampling(presence_penalty=2.0, frequency_penalty=-2.0, temperature=0.0),
        Sampling(min_p=1.0, top_p=1e-30, top_k=1, temperature=1e-30, seed=2**64 - 1),
    ]
    ran = recorder.run(*[generation(sampling=each) for each in extremes])
    assert [len(each.ids) for each in ran] == [12] * len(extremes)


def test_a_penalty_keeps_from_repeating(recorder):
    if "presence_penalty" in recorder.engine.info.unsupported_sampling:
        pytest.skip(f"{recorder.engine.info.engine} refuses penalties")
    harsh = Sampling(temperature=0.0, presence_penalty=2.0, frequency_penalty=2.0)
    fresh, plain = (
        recorder.run(
            *[generation(seed, max_tokens=60, sampling=sampling) for seed in range(4)],
        )
        for sampling in (harsh, GREEDY)
    )
    assert sum(len(set(each.ids)) for each in fresh) > sum(len(set(each.ids)) for each in plain)


def test_logprobs_come_with_each_token(recorder):
    needs(recorder, Ability.LOGPROBS)
    (ran,) = recorder.run(generation(logprobs=True, max_tokens=20))
    assert [each.token_id for each in ran.logprobs] == ran.ids
    assert all(-100 < each.logprob <= 0 for each in ran.logprobs)
    (without,) = recorder.run(generation(max_tokens=20))
    assert without.logprobs == []


def test_a_greedy_token_is_at_least_as_likely_as_chance(recorder):
    needs(recorder, Ability.LOGPROBS)
    (ran,) = recorder.run(generation(logprobs=True))
    chance = -math.log(recorder.engine.info.vocabulary_size)
    assert all(each.logprob > chance for each in ran.logprobs)


# --- many at once --------------------------------------------------------------------------------


def test_more_than_run_at_once_all_finish(recorder):
    count = 300
    ran = recorder.run(*[generation(seed, tokens=8, max_tokens=4) for seed in range(count)])
    assert [len(each.ids) for each in ran] == [4] * count


def test_several_sequences_of_a_long_prompt(recorder):
    hot = Sampling(temperature=2.0, seed=1)
    ran = recorder.run(generation(tokens=400, sequence_count=5, sampling=hot, max_tokens=20))
    assert [len(each.ids) for each in ran] == [20] * 5
    assert len({tuple(each.ids) for each in ran}) == 5


# --- prompts for other engines -------------------------------------------------------------------


def handed_over(recorder: Recorder, seed: int, **fields: Any) -> bytes:
    """Has the prompt of a generation computed alone, and returns its handle."""
    if not recorder.engine.info.transfers:
        pytest.skip(f"{recorder.engine.info.engine} is not set up to hand over prompts here")
    (ran,) = recorder.run(generation(seed, prefill_only=True, **fields))
    assert (ran.ids, ran.finish) == ([], Finish.LENGTH)
    assert 0 < len(ran.transfer_handle) <= TRANSFER_HANDLE_BYTES
    return ran.transfer_handle


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=2.0, seed=5)])
def test_a_prompt_that_is_fetched_goes_on_as_one_that_is_computed(recorder, sampling):
    fields = {"tokens": 300, "sampling": sampling}
    if sampling.seed is not None and "sampling.seed" in recorder.engine.info.not_handed_over:
        pytest.skip(f"{recorder.engine.info.engine} refuses it")
    handle = handed_over(recorder, 31, **fields)
    (fetched,) = recorder.run(generation(31, transfer_handle=handle, **fields))
    (whole,) = recorder.run(generation(31, **fields))
    assert fetched.ids == whole.ids
    assert fetched.finish is whole.finish
    assert fetched.fetched_prompt_tokens in (None, 299)


def test_a_stop_is_met_after_a_fetched_prompt_from_its_first_token_on(recorder):
    (whole,) = recorder.run(generation(32))
    for stop in (whole.ids[0], whole.ids[4]):
        handle = handed_over(recorder, 32, stop_token_ids=(stop,))
        (ran,) = recorder.run(generation(32, transfer_handle=handle, stop_token_ids=(stop,)))
        assert (ran.ids, ran.finish) == (whole.ids[: whole.ids.index(stop) + 1], Finish.STOP)


def test_a_single_token_after_a_fetched_prompt(recorder):
    handle = handed_over(recorder, 33, max_tokens=1)
    (ran,) = recorder.run(generation(33, transfer_handle=handle, max_tokens=1))
    assert (len(ran.ids), ran.finish) == (1, Finish.LENGTH)


@pytest.mark.parametrize("handle", [b"{}", b"\xff\x00", None], ids=["odd", "no text", "used"])
def test_a_prompt_that_can_not_be_fetched_is_computed(recorder, handle):
    used = handed_over(recorder, 34)
    recorder.run(generation(34, transfer_handle=used))
    (ran,) = recorder.run(generation(34, transfer_handle=handle or used))
    assert ran.ids == recorder.run(generation(34))[0].ids
    assert not ran.fetched_prompt_tokens


def test_cancelling_a_prompt_that_is_computed_alone(recorder):
    handed_over(recorder, 35)
    info = recorder.engine.info
    tokens = min(info.prompt_tokens, info.context_tokens - 1)
    key = recorder.submit(generation(35, tokens=tokens, prefill_only=True))
    recorder.engine.cancel(key)
    (ran,) = recorder.finish(key)
    assert (ran.finish, ran.transfer_handle) == (Finish.CANCELLED, b"")


# --- cancelling ----------------------------------------------------------------------------------


def test_cancelling_in_mid_decode_ends_within_two_steps(recorder):
    key = recorder.submit(generation(max_tokens=LONG))
    recorder.wait(lambda: len(recorder.of(key)[0].ids) >= 5)
    before = recorder.steps
    recorder.engine.cancel(key)
    (ran,) = recorder.finish(key)
    assert ran.finish is Finish.CANCELLED
    assert len(ran.ids) < LONG
    # One step may have been under way, and one more may pass before the engine looks.
    assert ran.finished_at_step <= before + 3


def test_cancelling_in_mid_prefill(recorder):
    info = recorder.engine.info
    tokens = min(info.prompt_tokens, info.context_tokens - 100)
    # Beside one that decodes, since not every engine tells of a step that brings no token.
    other = recorder.submit(generation(max_tokens=LONG))
    recorder.wait(lambda: recorder.of(other)[0].ids)
    before = recorder.steps
    key = recorder.submit(generation(99, tokens=tokens, max_tokens=50))
    recorder.wait(lambda: recorder.steps > before)
    recorder.engine.cancel(key)
    recorder.engine.cancel(other)
    (ran, _) = recorder.finish(key, other)
    assert (ran.ids, ran.finish) == ([], Finish.CANCELLED)


def test_cancelling_before_the_engine_has_looked(recorder):
    keys = [recorder.submit(generation(seed, max_tokens=LONG)) for seed in range(3)]
    for key in keys:
        recorder.engine.cancel(key)
    assert {ran.finish for ran in recorder.finish(*keys)} == {Finish.CANCELLED}


def test_cancelling_one_sequence_leaves_the_others(recorder):
    key = recorder.submit(generation(sequence_count=3, max_tokens=200))
    recorder.wait(lambda: all(len(ran.ids) > 2 for ran in recorder.of(key)))
    recorder.engine.cancel(key, 1)
    first, second, third = recorder.finish(key)
    assert second.finish is Finish.CANCELLED
    assert (len(first.ids), len(third.ids)) == (200, 200)


def test_cancelling_one_of_many_leaves_the_others(recorder):
    keys = [recorder.submit(generation(seed, max_tokens=100)) for seed in range(8)]
    recorder.wait(lambda: len(recorder.of(keys[0])[0].ids) > 2)
    recorder.engine.cancel(keys[3])
    ran = recorder.finish(*keys)
    assert ran[3].finish is Finish.CANCELLED
    assert [len(each.ids) for at, each in enumerate(ran) if at != 3] == [100] * 7


def test_cancelling_what_is_not_live_is_passed_over(recorder):
    recorder.engine.cancel(10**9)
    recorder.engine.cancel(10**9, 3)
    key = recorder.submit(generation())
    recorder.finish(key)
    recorder.engine.cancel(key)
    recorder.run(generation())


def test_the_load_falls_to_nothing(recorder):
    key = recorder.submit(generation(max_tokens=LONG, sequence_count=2))
    recorder.wait(lambda: all(len(ran.ids) > 2 for ran in recorder.of(key)))
    load = recorder.engine.load()
    assert load.running_sequences == 2
    assert 0 < load.kv_cache_usage < 1
    recorder.engine.cancel(key)
    recorder.finish(key)
    recorder.run(generation(max_tokens=1))
    assert recorder.engine.load().running_sequences == 0


# --- guides --------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "size": {"enum": ["small", "large"]},
        "even": {"type": "boolean"},
    },
    "required": ["name", "size", "even"],
    "additionalProperties": False,
}


def test_a_json_schema_is_held_to(recorder, tokenizer):
    guide = Guide(Ability.GUIDED_JSON_SCHEMA, json.dumps(SCHEMA))
    for seed in range(4):
        hot = Sampling(temperature=1.5, seed=seed)
        text, finish = guided(tokenizer, recorder, guide, sampling=hot, max_tokens=600)
        if finish is Finish.STOP:  # white space between its parts may go on and on
            value = json.loads(text)
            assert set(value) == {"name", "size", "even"}
            assert value["size"] in ("small", "large")
            assert isinstance(value["even"], bool)
            return
    raise AssertionError("none of four came to an end")


def test_a_json_object_begins_as_one(recorder, tokenizer):
    text, finish = guided(tokenizer, recorder, Guide(Ability.GUIDED_JSON_OBJECT))
    assert text.startswith("{")
    if finish is Finish.STOP:
        assert isinstance(json.loads(text), dict)


def test_a_regular_expression_is_matched_whole(recorder, tokenizer):
    pattern = r"[0-9]{3}-(ab|cd)+x"
    text, finish = guided(tokenizer, recorder, Guide(Ability.GUIDED_REGEX, pattern))
    assert re.fullmatch(pattern if finish is Finish.STOP else r"[0-9]{3}-[abcd]*", text)


def test_a_grammar_is_followed(recorder, tokenizer):
    grammar = 'root ::= "<" word ">"\nword ::= [a-z] [a-z] [a-z]'
    text, finish = guided(tokenizer, recorder, Guide(Ability.GUIDED_GRAMMAR, grammar))
    assert re.fullmatch("<[a-z]{3}>", text)
    assert finish is Finish.STOP


@pytest.mark.parametrize(
    "options",
    [
        ("yes", "no"),
        ("only",),
        ("a", "ab", "abc"),
        ('q"uote', "new\nline", "back\\slash", "a.b*c+?^$|#&~/", "{x}[y](z)"),
        ("日本", "é", "🙂"),
    ],
)
def test_a_choice_is_one_of_its_texts(recorder, tokenizer, options):
    for seed in range(3):
        text, finish = guided(
            tokenizer,
            recorder,
            Guide(Ability.GUIDED_CHOICE, options=options),
            sampling=Sampling(temperature=2.0, seed=seed),
        )
        assert text in options
        assert finish is Finish.STOP


def test_a_guide_ends_at_a_stop_id_of_the_callers(recorder, tokenizer):
    needs(recorder, Ability.GUIDED_REGEX)
    if recorder.engine.info.engine == "vllm":
        pytest.skip("vLLM ends a complete form with an end of its tokenizer's, and with no other")
    made = generation(guide=Guide(Ability.GUIDED_REGEX, "abc"), stop_token_ids=(7,), max_tokens=50)
    recorder.check(made)
    (ran,) = recorder.run(made)
    assert ran.ids[-1] == 7
    assert tokenizer.decode(ran.ids[:-1]) == "abc"
    assert ran.finish is Finish.STOP


def deep(levels: int) -> str:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return json.dumps(schema)


BAD_GUIDES = {
    "regex never closed": Guide(Ability.GUIDED_REGEX, "[0-9"),
    "regex group never closed": Guide(Ability.GUIDED_REGEX, "(((("),
    "regex of bounds the wrong way": Guide(Ability.GUIDED_REGEX, "a{5,2}"),
    "regex that repeats nothing": Guide(Ability.GUIDED_REGEX, "*a"),
    "regex with a back reference": Guide(Ability.GUIDED_REGEX, r"(a)\1"),
    "regex that overflows the stack": Guide(Ability.GUIDED_REGEX, "(" * 10**5 + "a" + ")" * 10**5),
    "schema that is no JSON": Guide(Ability.GUIDED_JSON_SCHEMA, "{not json"),
    "schema that is a list": Guide(Ability.GUIDED_JSON_SCHEMA, "[1, 2]"),
    "schema of an unknown type": Guide(Ability.GUIDED_JSON_SCHEMA, '{"type": "nonsense"}'),
    "schema that refers to nothing": Guide(Ability.GUIDED_JSON_SCHEMA, '{"$ref": "#/$defs/x"}'),
    "schema that nothing fits": Guide(
        Ability.GUIDED_JSON_SCHEMA, '{"type": "integer", "minimum": 5, "maximum": 3}'
    ),
    "schema with a bad pattern": Guide(
        Ability.GUIDED_JSON_SCHEMA, '{"type": "string", "pattern": "[a-"}'
    ),
    "schema nested 400 deep": Guide(Ability.GUIDED_JSON_SCHEMA, deep(400)),
    "grammar without an end": Guide(Ability.GUIDED_GRAMMAR, 'root ::= "yes'),
    "grammar without a root": Guide(Ability.GUIDED_GRAMMAR, 'start ::= "yes"'),
    "grammar of unknown rules": Guide(Ability.GUIDED_GRAMMAR, "root ::= other"),
}


@pytest.mark.parametrize("guide", BAD_GUIDES.values(), ids=BAD_GUIDES)
def test_a_bad_guide_is_refused_and_others_go_on(recorder, guide):
    needs(recorder, guide.form)
    eos = recorder.engine.info.eos_token_ids
    other = recorder.submit(generation(max_tokens=30))
    with pytest.raises(Refused) as refusal:
        recorder.check(generation(guide=guide, stop_token_ids=eos))
    assert refusal.value.field == guide.form.value
    assert refusal.value.description
    assert not re.search(r"\.(cc|cpp|h|hpp)\b", refusal.value.description), "where it was raised"
    assert len(recorder.finish(other)[0].ids) == 30


def test_a_guide_that_takes_for_ever_to_compile_is_refused_unless_it_is_quick(recorder, tokenizer):
    needs(recorder, Ability.GUIDED_REGEX)
    eos = recorder.engine.info.eos_token_ids
    endless = Guide(Ability.GUIDED_REGEX, "((a{1,1000}){1,1000}){1,1000}")
    made = generation(guide=endless, stop_token_ids=eos, max_tokens=5)
    other = recorder.submit(generation(max_tokens=30))
    with suppress(Refused):
        recorder.check(made)
        assert set(tokenizer.decode(recorder.run(made)[0].ids)) == {"a"}, "newer compilers can"
    assert len(recorder.finish(other)[0].ids) == 30


def test_a_good_guide_is_taken_after_a_bad_one(recorder, tokenizer):
    needs(recorder, Ability.GUIDED_REGEX)
    with pytest.raises(Refused):
        recorder.check(generation(guide=Guide(Ability.GUIDED_REGEX, "[")))
    text, _ = guided(tokenizer, recorder, Guide(Ability.GUIDED_REGEX, "good"))
    assert text == "good"


def test_guided_and_free_generations_share_steps(recorder, tokenizer):
    needs(recorder, Ability.GUIDED_REGEX)
    eos = recorder.engine.info.eos_token_ids
    free = generation(seed=5, max_tokens=30)
    (alone,) = recorder.run(free)
    held = generation(guide=Guide(Ability.GUIDED_REGEX, "x{20}"), stop_token_ids=eos, max_tokens=60)
    recorder.check(held)
    beside, guided_one, again = recorder.run(free, held, free)
    assert beside.ids == again.ids == alone.ids
    assert tokenizer.decode(guided_one.ids[:-1]) == "x" * 20


# --- the end -------------------------------------------------------------------------------------


def test_closing_ends_what_is_in_flight(recorder):
    mine = Recorder(build("--openvino.kv-blocks", "64", engine=recorder.engine.info.engine))
    mine.engine.start(mine)
    keys = [mine.submit(generation(seed, max_tokens=LONG)) for seed in range(4)]
    mine.wait(lambda: len(mine.of(keys[0])[0].ids) > 2)
    mine.engine.close()
    assert {ran.finish for key in keys for ran in mine.of(key)} == {Finish.CANCELLED}
    assert mine.death is None


def test_closing_an_idle_engine(recorder):
    mine = Recorder(build("--openvino.kv-blocks", "64", engine=recorder.engine.info.engine))
    mine.engine.start(mine)
    mine.engine.close()
    assert (mine.steps, mine.death) == (0, None)
