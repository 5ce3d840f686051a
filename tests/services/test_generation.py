"""Generations through both services: what is asked for is what comes back, by every entry point."""

from __future__ import annotations

import itertools

import pytest
from tokenwire.frontend.v1 import generation_pb2, tokenization_pb2

from tests.services.calls import (
    generation,
    read,
)
from tests.services.processes import WAIT_S
from tests.services.prompts import LENGTH, STOP, STORY, chat

PROMPTS = [
    f"{opening} {subject}" * repeats
    for opening, subject, repeats in zip(
        itertools.cycle(["The capital of", "Count from", "A list of", "What is", "Hello,"]),
        ["France", "1 to", "colours:", "2 + 2?", "I am", "Japan", "3 to", "fruit:", "9 - 4?"] * 4,
        # Prompts of one KV block, of several, and of more tokens than one step takes.
        itertools.cycle([1, 1, 12, 1, 70]),
        strict=False,
    )
][:33]


# --- every entry point gives the same ------------------------------------------------------------


@pytest.mark.parametrize("what", [generation(STORY, 40), generation(chat("What is 2 + 2?"), 40)])
def test_every_entry_point_gives_the_same_text(frontend, what):
    whole = frontend.generate(what)
    streamed = frontend.stream(what)
    with frontend.session() as session:
        session.open(1, what)
        [in_session] = session.finish(1)
    [sequence] = whole.sequences
    assert len(sequence.token_ids) == 40
    assert sequence.text
    for other in (streamed, in_session):
        assert other.text() == sequence.text
        assert other.ids() == list(sequence.token_ids)
        assert other.end() == sequence.end
        assert other.completed.usage == whole.usage


@pytest.fixture(scope="module")
def alone(services):
    """Each prompt's answer, made while nothing else runs."""
    _, frontend = services
    return [frontend.generate(generation(prompt, 24)).sequences[0] for prompt in PROMPTS]


def test_the_prompts_make_different_answers(alone):
    assert len({sequence.text for sequence in alone}) > len(PROMPTS) // 2


def test_text_alone_equals_text_among_32_others_in_streams(frontend, alone):
    calls = [frontend.start(generation(prompt, 24)) for prompt in PROMPTS]
    together = [read(call) for call in calls]
    assert [each.text() for each in together] == [sequence.text for sequence in alone]
    assert [each.ids() for each in together] == [list(each.token_ids) for each in alone]


def test_text_alone_equals_text_among_32_others_in_a_session(frontend, alone):
    with frontend.session() as session:
        for number, prompt in enumerate(PROMPTS, 1):
            session.open(number, generation(prompt, 24))
        together = session.finish(*range(1, len(PROMPTS) + 1))
    assert [each.text() for each in together] == [sequence.text for sequence in alone]
    assert [each.ids() for each in together] == [list(each.token_ids) for each in alone]


def test_unset_sampling_is_the_models_own_which_is_greedy(frontend):
    """The demo model's generation_config.json says do_sample: false."""
    greedy = frontend.generate(generation(STORY, 24))
    unset = frontend.generate(generation(STORY, 24, sampling={}))
    assert unset.sequences[0].token_ids == greedy.sequences[0].token_ids


# --- text and ids --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_joined_text_is_what_detokenize_makes_of_the_ids(frontend, seed):
    """Sampled hot, so that the ids are a mixture that breaks characters in all ways."""
    hot = generation(STORY, 150, sampling={"temperature": 100.0, "seed": seed})
    streamed = frontend.stream(hot)
    assert streamed.text() == frontend.detokenize(streamed.ids())
    assert frontend.generate(hot).sequences[0].text == streamed.text()


def test_special_tokens_are_in_the_text_only_where_asked_for(frontend):
    eos = list(frontend.model().eos_token_ids)
    # Past its end of sequence, the model's text goes on with special tokens.
    shown = frontend.stream(generation(chat("Hello!"), 60, output={"skip_special_tokens": False}))
    hidden = frontend.stream(generation(chat("Hello!"), 60))
    assert set(eos) & set(shown.ids())
    assert shown.ids() == hidden.ids()
    assert shown.text() == frontend.detokenize(shown.ids(), skip_special_tokens=False)
    assert hidden.text() == frontend.detokenize(hidden.ids())
    assert shown.text() != hidden.text()


def test_echo_puts_the_prompt_before_the_text(frontend):
    plain = frontend.stream(generation(STORY, 12))
    echoed = frontend.stream(generation(STORY, 12, output={"echo": True}))
    assert echoed.text() == STORY + plain.text()
    assert echoed.ids() == plain.ids()
    assert echoed.completed.usage == plain.completed.usage
    whole = frontend.generate(generation(STORY, 12, output={"echo": True}))
    assert whole.sequences[0].text == echoed.text()


def test_echo_of_a_chat_is_the_rendered_chat(frontend):
    what = chat("Hello!")
    rendered = frontend.tokenization.RenderChat(
        tokenization_pb2.RenderChatRequest(chat=what["chat"]), timeout=WAIT_S
    )
    echoed = frontend.generate(generation(what, 5, output={"echo": True}))
    assert echoed.sequences[0].text.startswith(rendered.text)


def test_token_ids_as_a_prompt_equal_the_text(frontend):
    by_text = frontend.generate(generation(STORY, 24))
    by_ids = frontend.generate(generation(frontend.tokenize(STORY), 24))
    assert by_ids.sequences == by_text.sequences
    assert by_ids.usage == by_text.usage


def test_a_chat_equals_its_rendered_ids(frontend):
    what = chat("What is the capital of France?", "Paris.", "And of Japan?")
    request = tokenization_pb2.RenderChatRequest(chat=what["chat"])
    rendered = frontend.tokenization.RenderChat(request, timeout=WAIT_S)
    assert list(rendered.token_ids) == frontend.tokenize(rendered.text, add_special_tokens=False)
    by_chat = frontend.generate(generation(what, 24))
    by_ids = frontend.generate(generation(list(rendered.token_ids), 24))
    by_text = frontend.generate(
        generation({"text": rendered.text, "add_special_tokens": False}, 24)
    )
    assert by_chat.sequences == by_ids.sequences == by_text.sequences
    assert by_chat.usage.prompt_tokens == len(rendered.token_ids)


def test_the_final_message_can_be_continued(frontend):
    what = chat("Say the alphabet.", "A, B, C,", continue_final_message=True)
    request = tokenization_pb2.RenderChatRequest(chat=what["chat"])
    rendered = frontend.tokenization.RenderChat(request, timeout=WAIT_S)
    assert rendered.text.endswith("A, B, C,")
    by_chat = frontend.generate(generation(what, 12))
    assert (
        by_chat.sequences == frontend.generate(generation(list(rendered.token_ids), 12)).sequences
    )


# --- order and counts ----------------------------------------------------------------------------


def test_accepted_comes_first_and_completed_last_with_the_counts(frontend):
    """The order itself is checked by `read`."""
    streamed = frontend.stream(generation(STORY, 20))
    assert streamed.accepted.prompt_token_count == len(frontend.tokenize(STORY))
    usage = streamed.completed.usage
    assert usage.prompt_tokens == streamed.accepted.prompt_token_count
    assert usage.completion_tokens == len(streamed.ids()) == 20
    assert not usage.HasField("cached_prompt_tokens")  # this engine does not tell
    assert streamed.end() == generation_pb2.SequenceEnd(reason=LENGTH)


def test_the_end_of_sequence_token_ends_it(frontend):
    what = generation(chat("Hello!"), 200, stop={"ignore_eos": False})
    streamed = frontend.stream(what)
    eos = list(frontend.model().eos_token_ids)
    assert streamed.ids()[-1] in eos
    assert not set(streamed.ids()[:-1]) & set(eos)
    # The model's own end names no token: it is not one that the caller asked to stop at.
    assert streamed.end() == generation_pb2.SequenceEnd(reason=STOP)
    assert streamed.text() == frontend.detokenize(streamed.ids()[:-1])


def test_ignore_eos_goes_on_past_it_by_the_same_tokens(frontend):
    ended = frontend.stream(generation(chat("Hello!"), 200, stop={"ignore_eos": False})).ids()
    went_on = frontend.stream(generation(chat("Hello!"), len(ended) + 20)).ids()
    assert went_on[: len(ended)] == ended
    assert len(went_on) == len(ended) + 20


def test_min_tokens_holds_off_the_end_of_sequence(frontend):
    ended = frontend.stream(generation(chat("Hello!"), 200, stop={"ignore_eos": False})).ids()
    least = len(ended) + 10
    held = frontend.stream(
        generation(chat("Hello!"), 300, stop={"ignore_eos": False, "min_tokens": least})
    )
    assert len(held.ids()) >= least
    assert held.text() == frontend.detokenize(
        held.ids()[:-1] if held.reason == STOP else held.ids()
    )


def test_unset_max_tokens_is_what_is_left_of_the_context(frontend):
    context = frontend.model().context_tokens
    prompt = [*frontend.tokenize(STORY) * 400][: context - 9]
    streamed = frontend.stream(generation(prompt, None))
    assert len(streamed.ids()) == 9
    assert streamed.reason == LENGTH


# --- several sequences ---------------------------------------------------------------------------


def sampled(count: int, seed: int, **fields):
    sampling = {"temperature": 1.5, "seed": seed}
    return generation(STORY, 16, sampling=sampling, sequence_count=count, **fields)


def test_each_sequence_has_its_own_text_and_end(frontend):
    what = sampled(4, 11, output={"logprobs": True})
    streamed = frontend.stream(what)
    assert {delta.sequence for delta in streamed.deltas} == {0, 1, 2, 3}
    for index in range(4):
        assert streamed.end(index) == generation_pb2.SequenceEnd(reason=LENGTH)
        assert len(streamed.ids(index)) == len(streamed.logprobs(index)) == 16
        assert streamed.text(index) == frontend.detokenize(streamed.ids(index))
    assert len({streamed.text(index) for index in range(4)}) > 1
    assert streamed.completed.usage.completion_tokens == 64
    assert streamed.completed.usage.prompt_tokens == len(frontend.tokenize(STORY))


SEED = 103
"""Of three that are far from a tie. A sampled token can hang on the last bit of a logit, and that
on what is computed beside it: so did 3 of 300 sequences."""


def test_a_seed_repeats_and_sequence_i_uses_seed_plus_i(frontend):
    together = frontend.generate(sampled(3, SEED))
    assert frontend.generate(sampled(3, SEED)).sequences == together.sequences
    singly = [frontend.generate(sampled(1, SEED + index)).sequences[0] for index in range(3)]
    assert singly == list(together.sequences)
    streamed = frontend.stream(sampled(3, SEED))
    assert [streamed.ids(index) for index in range(3)] == [list(one.token_ids) for one in singly]


def test_without_a_seed_answers_differ(frontend):
    what = generation(STORY, 16, sampling={"temperature": 2.0}, sequence_count=8)
    texts = {sequence.text for sequence in frontend.generate(what).sequences}
    assert len(texts) > 1


def test_the_largest_seed_is_taken(frontend):
    answer = frontend.generate(sampled(2, 2**64 - 1))
    assert [len(sequence.token_ids) for sequence in answer.sequences] == [16, 16]


def test_a_stop_string_ends_its_own_sequence_alone(frontend, worker):
    """Of sampled sequences, those that meet the stop string end; the others go on."""
    free = frontend.generate(sampled(4, 11))
    text = free.sequences[2].text
    stop = next(
        text[start : start + 4]
        for start in range(4, len(text) - 4)
        if sum(text[start : start + 4] in other.text for other in free.sequences) < 4
    )
    held = frontend.stream(sampled(4, 11, stop={"stop": [stop]}))
    for index, sequence in enumerate(free.sequences):
        if stop in sequence.text:
            assert held.end(index) == generation_pb2.SequenceEnd(reason=STOP, stop=stop)
            assert held.text(index) == sequence.text[: sequence.text.index(stop)]
        else:
            assert held.end(index).reason == LENGTH
            assert held.ids(index) == list(sequence.token_ids)
    worker.wait_until_idle()


# --- log probabilities ---------------------------------------------------------------------------


def test_each_id_has_a_log_probability(frontend):
    streamed = frontend.stream(generation(STORY, 30, output={"logprobs": True}))
    whole = frontend.generate(generation(STORY, 30, output={"logprobs": True}))
    logprobs = streamed.logprobs()
    assert [each.token_id for each in logprobs] == streamed.ids()
    assert all(each.logprob <= 0 for each in logprobs)
    assert any(each.logprob < -0.001 for each in logprobs)
    assert list(whole.sequences[0].logprobs) == logprobs
    for delta in streamed.deltas:
        assert [each.token_id for each in delta.logprobs] == list(delta.token_ids)


def test_the_bytes_of_the_tokens_are_the_text_with_special_tokens(frontend):
    output = {"logprobs": True, "skip_special_tokens": False}
    sampling = {"temperature": 3.0, "seed": 5}
    what = generation(STORY, 40, sampling=sampling, sequence_count=3, output=output)
    for sequence in frontend.generate(what).sequences:
        raw = b"".join(each.token for each in sequence.logprobs)
        assert raw.decode(errors="replace") == sequence.text
        assert raw


def test_log_probabilities_come_only_where_asked_for(frontend):
    assert frontend.stream(generation(STORY, 5)).logprobs() == []
