"""Generations through both services: what is asked for is what comes back, by every entry point."""

from __future__ import annotations

import itertools
import json
import re

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2, model_pb2, prompt_pb2, tokenization_pb2

from tests.services.calls import (
    Streamed,
    duration,
    endless,
    generation,
    read,
    read_to_first_token,
    refused,
)
from tests.services.processes import MODEL_NAME, WAIT_S

STOP = generation_pb2.FINISH_REASON_STOP
LENGTH = generation_pb2.FINISH_REASON_LENGTH

STORY = "The capital of France is Paris. One and one is two. My name is"
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


def chat(*turns: str, **fields) -> dict:
    roles = itertools.cycle([prompt_pb2.ROLE_USER, prompt_pb2.ROLE_ASSISTANT])
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return {"chat": {"messages": messages, **fields}}


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


@pytest.mark.parametrize("seed", range(6))
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


def test_a_seed_repeats_and_sequence_i_uses_seed_plus_i(frontend):
    together = frontend.generate(sampled(3, 100))
    assert frontend.generate(sampled(3, 100)).sequences == together.sequences
    singly = [frontend.generate(sampled(1, 100 + index)).sequences[0] for index in range(3)]
    assert singly == list(together.sequences)
    streamed = frontend.stream(sampled(3, 100))
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


def test_log_probabilities_come_only_where_asked_for(frontend):
    assert frontend.stream(generation(STORY, 5)).logprobs() == []


# --- guided decoding -----------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "good": {"type": "boolean"},
        "digits": {
            "type": "array",
            "items": {"enum": [1, 2, 3]},
            "minItems": 2,
            "maxItems": 3,
        },
    },
    "required": ["colour", "good", "digits"],
    "additionalProperties": False,
}
GRAMMAR = 'root ::= verb " the " noun "!"\nverb ::= "take" | "drop"\nnoun ::= "lamp" | "sword"'


def is_of_the_schema(text: str) -> bool:
    value = json.loads(text)
    return (
        set(value) == {"colour", "good", "digits"}
        and value["colour"] in ("red", "green", "blue")
        and isinstance(value["good"], bool)
        and 2 <= len(value["digits"]) <= 3
        and set(value["digits"]) <= {1, 2, 3}
    )


GUIDES = {
    "json_schema": ({"json_schema": json.dumps(SCHEMA)}, is_of_the_schema),
    "json_object": ({"json_object": {}}, lambda text: isinstance(json.loads(text), dict)),
    "regex": (
        {"regex": r"[a-f]{3}-\d{4}(!|\?)"},
        lambda text: re.fullmatch(r"[a-f]{3}-\d{4}(!|\?)", text),
    ),
    "grammar": (
        {"grammar": GRAMMAR},
        lambda text: re.fullmatch("(take|drop) the (lamp|sword)!", text),
    ),
    "choice": (
        {"choice": {"options": ["a.b*c", "yes (sir)", "no"]}},
        lambda text: text in ("a.b*c", "yes (sir)", "no"),
    ),
}


@pytest.mark.parametrize("form", GUIDES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guided_output_has_its_form(frontend, form, temperature):
    guide, has_the_form = GUIDES[form]
    what = generation(
        chat('Answer with JSON such as {"a": 1}.'),
        400,
        guided=guide,
        # JSON allows white space without end, of which a small model may tire only by a penalty.
        sampling={"temperature": temperature, "seed": 5, "frequency_penalty": 2.0},
        stop={"ignore_eos": False},
    )
    streamed = frontend.stream(what)
    assert has_the_form(streamed.text()), streamed.text()
    assert streamed.reason == STOP
    assert frontend.generate(what).sequences[0].text == streamed.text()


def test_ignore_eos_does_not_go_with_a_guide(frontend):
    """The end of the form is an end of sequence, so a guided output that goes on has no form."""
    what = generation(STORY, 10, guided={"regex": "a+"}, stop={"ignore_eos": True})
    assert refused(lambda: frontend.stream(what)).fields == ["generation.stop.ignore_eos"]


@pytest.mark.parametrize(
    "guide",
    [
        {"json_schema": "{not json"},
        {"json_schema": '{"type": "no such type"}'},
        {"regex": "(unclosed"},
        {"grammar": "no grammar at all"},
        {"grammar": 'start ::= "no rule named root"'},
    ],
    ids=str,
)
def test_a_guide_that_cannot_be_compiled_is_refused_by_its_field(frontend, guide):
    what = generation(STORY, 10, guided=guide, stop={"ignore_eos": False})
    [form] = guide
    for entry, root in ((frontend.generate, "generation"), (frontend.stream, "generation")):
        refusal = refused(lambda entry=entry: entry(what))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.fields == [f"{root}.guided.{form}"]
        assert refusal.info.domain == "tokenwire"
    assert frontend.stream(generation(STORY, 5)).ids()


# --- stopping ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story(services):
    """What follows the story greedily: text and ids."""
    _, frontend = services
    return frontend.stream(generation(STORY, 60))


def stops_of(story: Streamed, frontend) -> dict[str, str]:
    """Stop strings that occur in the story: within one token, across two, across several."""
    ids, text = story.ids(), story.text()
    # Where each token's text begins; an unfinished character is the next token's.
    starts = [
        len(frontend.detokenize(ids[:count]).rstrip("\ufffd")) for count in range(len(ids) + 1)
    ]

    def first_of(size: int) -> str:
        """Returns the first part of the text that spans so many tokens and is nowhere before."""
        for index in range(3, len(ids) - size):
            first, last = starts[index : index + 2], starts[index + size - 1]
            part = text[sum(first) // 2 : last + 1] if size > 1 else text[slice(*first)]
            if part.strip() and starts[index] <= text.index(part) < first[1] <= last + 1:
                return part
        raise AssertionError("the story repeats itself from its start")

    return {"one token": first_of(1), "two tokens": first_of(2), "five tokens": first_of(5)}


@pytest.mark.parametrize("span", ["one token", "two tokens", "five tokens"])
@pytest.mark.parametrize("include", [False, True])
def test_a_stop_string_ends_the_text_and_the_engine(frontend, worker, story, span, include):
    stop = stops_of(story, frontend)[span]
    before = worker.load().generated_tokens
    what = endless(STORY, stop={"stop": ["nowhere in it", stop], "include_stop_in_output": include})
    streamed = frontend.stream(what)
    place = story.text().index(stop)
    assert streamed.text() == story.text()[: place + len(stop) if include else place]
    assert streamed.end() == generation_pb2.SequenceEnd(reason=STOP, stop=stop)
    assert streamed.ids() == story.ids()[: len(streamed.ids())]
    assert stop in frontend.detokenize(streamed.ids())
    assert stop not in frontend.detokenize(streamed.ids()[:-1])
    assert streamed.completed.usage.completion_tokens == len(streamed.ids())
    load = worker.wait_until_idle()
    # The engine is told at once; it may be a few steps ahead.
    assert load.generated_tokens - before < len(streamed.ids()) + 100
    whole = frontend.generate(what)
    assert whole.sequences[0].text == streamed.text()
    assert whole.sequences[0].end == streamed.end()


def test_text_never_shows_a_part_of_a_stop_string(frontend, story):
    """At no moment does the joined text hold what turns out to be the start of the stop string."""
    stop = stops_of(story, frontend)["five tokens"]
    streamed = frontend.stream(endless(STORY, stop={"stop": [stop]}))
    final = streamed.text()
    for count in range(len(streamed.deltas) + 1):
        assert final.startswith("".join(delta.text for delta in streamed.deltas[:count]))


def test_a_stop_string_that_never_comes_changes_nothing(frontend, story):
    what = generation(STORY, 60, stop={"stop": ["\x00 not in any answer", story.text()[-3:] + "~"]})
    streamed = frontend.stream(what)
    assert streamed.text() == story.text()
    assert streamed.reason == LENGTH


def test_min_tokens_holds_off_stop_strings(frontend):
    # The engine may avoid stop tokens before the minimum, so the same minimum is the comparison.
    free = frontend.stream(generation(STORY, 60, stop={"min_tokens": 20}))
    head = frontend.detokenize(free.ids()[:20])
    tail = free.text()[len(head) :]
    stop = next(character for character in tail[4:] if character in head)
    held = frontend.stream(generation(STORY, 60, stop={"stop": [stop], "min_tokens": 20}))
    assert len(held.ids()) >= 20
    assert held.end() == generation_pb2.SequenceEnd(reason=STOP, stop=stop)
    assert free.text().startswith(held.text() + stop)
    assert stop in head
    assert stop not in held.text()[len(head) :]


def first_new(ids: list[int], least: int) -> int:
    """Returns the place of an id, at least so far in, that has not come before."""
    return next(place for place in range(least, len(ids)) if ids[place] not in ids[:place])


def test_a_stop_token_ends_it_and_is_named(frontend, worker, story):
    place = first_new(story.ids(), 4)
    token = story.ids()[place]
    streamed = frontend.stream(endless(STORY, stop={"stop_token_ids": [4000, token]}))
    assert streamed.ids() == story.ids()[: place + 1]
    assert streamed.end() == generation_pb2.SequenceEnd(reason=STOP, stop_token_id=token)
    assert streamed.text() == frontend.detokenize(story.ids()[:place])
    worker.wait_until_idle()


def test_min_tokens_holds_off_stop_tokens_and_keeps_their_text(frontend, story):
    place = first_new(story.ids(), 4)
    token = story.ids()[place]
    held = frontend.stream(
        generation(STORY, 60, stop={"stop_token_ids": [token], "min_tokens": place + 5})
    )
    assert len(held.ids()) >= place + 5
    ended_by_it = held.reason == STOP
    assert held.text() == frontend.detokenize(held.ids()[:-1] if ended_by_it else held.ids())


def test_a_stop_token_that_is_an_end_of_sequence_is_named_where_the_caller_asked(frontend):
    eos = frontend.model().eos_token_ids[0]
    what = generation(chat("Hello!"), 200, stop={"stop_token_ids": [eos]})
    streamed = frontend.stream(what)
    assert streamed.end() == generation_pb2.SequenceEnd(reason=STOP, stop_token_id=eos)


# --- names, traces, times ------------------------------------------------------------------------

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def test_the_callers_request_id_comes_back(frontend):
    name = "Az09._:-" * 16
    what = generation(STORY, 2, request_id=name)
    assert frontend.generate(what).request_id == name
    assert frontend.stream(what).accepted.request_id == name
    with frontend.session() as session:
        session.open(7, what)
        assert session.finish(7)[0].accepted.request_id == name


def test_without_one_each_request_gets_an_id(frontend):
    names = {frontend.generate(generation(STORY, 1)).request_id for _ in range(3)}
    names.add(frontend.stream(generation(STORY, 1)).accepted.request_id)
    assert len(names) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", name) for name in names)


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_callers_trace_goes_on(frontend, flags):
    metadata = [("traceparent", TRACEPARENT[:-2] + flags)]
    what = generation(STORY, 2)
    assert frontend.generate(what, metadata=metadata).trace_id == TRACE_ID
    assert frontend.stream(what, metadata=metadata).accepted.trace_id == TRACE_ID
    with frontend.session(metadata=metadata) as session:
        session.open(1, what)
        own = TRACE_ID[::-1]
        context = {"traceparent": f"00-{own}-00f067aa0ba902b7-{flags}"}
        session.open(2, what, trace_context=context)
        of_the_call, of_its_own = session.finish(1, 2)
    assert of_the_call.accepted.trace_id == TRACE_ID
    assert of_its_own.accepted.trace_id == own


@pytest.mark.parametrize("traceparent", [None, "", "nonsense", "00-" + "0" * 32 + "-1-01"])
def test_without_a_trace_each_request_gets_one(frontend, traceparent):
    metadata = [] if traceparent is None else [("traceparent", traceparent)]
    ids = [
        frontend.stream(generation(STORY, 1), metadata=metadata).accepted.trace_id,
        frontend.generate(generation(STORY, 1), metadata=metadata).trace_id,
    ]
    assert ids[0] != ids[1]
    for trace_id in ids:
        assert re.fullmatch("[0-9a-f]{32}", trace_id)
        assert int(trace_id, 16)


def seconds(value) -> float:
    return value.ToNanoseconds() / 1e9


def check_timings(timings: generation_pb2.Timings, frontend_stages: list[str]) -> None:
    stages = list(timings.stages)
    assert [stage.name for stage in stages if stage.service == "frontend"] == frontend_stages
    assert [stage.name for stage in stages if stage.service == "worker"] == [
        "queue",
        "prefill",
        "decode",
    ]
    assert {stage.service for stage in stages} == {"frontend", "worker"}
    starts = [seconds(stage.start) for stage in stages]
    assert starts == sorted(starts)
    assert starts[0] >= 0
    total = seconds(timings.total)
    for stage, following in itertools.pairwise(stages):
        # One after the other: no stage begins before the one before it has ended.
        assert seconds(stage.start) + seconds(stage.duration) <= seconds(following.start) + 1e-6
    assert seconds(stages[-1].start) + seconds(stages[-1].duration) <= total
    first = seconds(timings.time_to_first_token)
    prefill = stages[-2]
    assert seconds(prefill.start) + seconds(prefill.duration) <= first + 1e-6
    assert 0 < first <= total


def test_timings_tell_the_stages_of_both_hops(frontend):
    by_text = frontend.stream(generation(STORY, 30)).completed.timings
    check_timings(by_text, ["tokenize", "route"])
    check_timings(
        frontend.generate(generation(chat("Hello!"), 30)).timings, ["render", "tokenize", "route"]
    )
    check_timings(frontend.generate(generation([5, 6, 7], 30)).timings, ["route"])
    [worker] = frontend.workers()
    assert by_text.worker == worker.name
    each = seconds(by_text.time_per_output_token)
    assert each > 0
    decode = by_text.stages[-1]
    # Both clocks saw the same 29 gaps, the frontend's with the way of the messages.
    assert each * 29 == pytest.approx(seconds(decode.duration), rel=0.5, abs=0.05)


def test_times_that_do_not_exist_are_unset(frontend):
    one = frontend.stream(generation(STORY, 1)).completed.timings
    assert one.HasField("time_to_first_token")
    assert not one.HasField("time_per_output_token")
    none = frontend.stream(generation(STORY, 5, time_budget=duration(1e-9))).completed
    assert none.usage.completion_tokens == 0
    assert not none.timings.HasField("time_to_first_token")
    assert not none.timings.HasField("time_per_output_token")
    assert none.timings.HasField("total")


# --- the pace of deltas --------------------------------------------------------------------------


def test_max_delay_merges_deltas_into_fewer_messages_of_the_same_text(frontend):
    plain = frontend.stream(generation(STORY, 60))
    held = frontend.stream(generation(STORY, 60), stream={"max_delay": duration(10)})
    assert held.text() == plain.text()
    assert held.ids() == plain.ids()
    # The first token and the end are never held; all between fits into one delay.
    assert len(held.deltas) <= 3
    assert len(held.deltas[0].token_ids) < 60
    assert len(plain.deltas) > len(held.deltas)


def test_max_delay_holds_no_end_back(frontend):
    """Ten seconds of delay on a call that has five: it ends when the text does."""
    what = generation(STORY, 30)
    held = read(frontend.start(what, timeout=5, stream={"max_delay": duration(10)}))
    assert len(held.ids()) == 30


def test_max_delay_in_a_session_is_each_generations_own(frontend):
    with frontend.session() as session:
        session.open(1, generation(STORY, 60), stream={"max_delay": duration(10)})
        session.open(2, generation(STORY, 60))
        held, plain = session.finish(1, 2)
    assert held.text() == plain.text()
    assert len(held.deltas) <= 3 < len(plain.deltas)


def test_the_first_token_of_each_sequence_is_not_held(frontend):
    call = frontend.start(
        endless(STORY, sequence_count=3, sampling={"temperature": 1.0}),
        stream={"max_delay": duration(10)},
    )
    streamed = read_to_first_token(call)
    while {delta.sequence for delta in streamed.deltas} != {0, 1, 2}:
        streamed.take(next(call))
    call.cancel()
    assert all(len(delta.token_ids) < 50 for delta in streamed.deltas)


# --- the rest of the contract --------------------------------------------------------------------


@pytest.mark.parametrize("priority", [-100, 0, 100])
def test_any_priority_within_bounds_is_taken(frontend, priority):
    assert frontend.generate(generation(STORY, 3, priority=priority)).usage.completion_tokens == 3


def test_the_model_may_be_named_or_left_out(frontend):
    assert (
        frontend.generate(generation(STORY, 3, model=MODEL_NAME)).sequences
        == frontend.generate(generation(STORY, 3)).sequences
    )
    request = model_pb2.GetModelRequest(name=MODEL_NAME)
    assert frontend.models.GetModel(request, timeout=WAIT_S).model == frontend.model()


def test_the_model_tells_its_bounds(frontend):
    model = frontend.model()
    listed = frontend.models.ListModels(model_pb2.ListModelsRequest(), timeout=WAIT_S).models
    assert list(listed) == [model]
    assert model.name == MODEL_NAME
    assert model.has_chat_template
    assert model.ready_worker_count == 1
    assert 1 <= model.sequence_count_limit <= 32
    assert 0 < model.prompt_tokens_limit < model.context_tokens
    assert re.fullmatch("[0-9a-f]{64}", model.tokenizer_fingerprint)
    assert all(token < model.vocabulary_size for token in model.eos_token_ids)
    most = frontend.generate(generation(STORY, 2, sequence_count=model.sequence_count_limit))
    assert len(most.sequences) == model.sequence_count_limit


def test_the_worker_is_listed_with_its_load(frontend, worker):
    call = frontend.start(endless(STORY, sequence_count=2))
    read_to_first_token(call)
    worker.wait_for_load(lambda load: load.running_sequences == 2)
    [listed] = frontend.workers()
    assert listed.address == worker.address
    assert listed.state == model_pb2.WORKER_STATE_READY
    assert listed.state_reason == ""
    assert listed.model == MODEL_NAME
    assert listed.engine.startswith("openvino ")
    assert listed.in_flight == 1
    call.cancel()


# --- tokenisation --------------------------------------------------------------------------------

TEXTS = ["Hello, world!", " leading and trailing ", "naïve café ☕ 日本語 🙂", "a\nb\t\0", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_text_goes_to_ids_and_back(frontend, text):
    request = tokenization_pb2.TokenizeRequest(text=text, with_offsets=True)
    answer = frontend.tokenization.Tokenize(request, timeout=WAIT_S)
    assert list(answer.token_ids) == frontend.tokenize(text)
    assert frontend.detokenize(answer.token_ids) == text
    assert len(answer.offsets) == len(answer.token_ids)
    covered = {place for span in answer.offsets for place in range(span.start, span.end)}
    assert all(0 <= span.start <= span.end <= len(text) for span in answer.offsets)
    assert covered >= {place for place, character in enumerate(text) if not character.isspace()}


def test_a_stream_of_texts_is_tokenised_in_order(frontend):
    requests = [tokenization_pb2.StreamTokenizeRequest(text=text) for text in TEXTS * 20]
    answers = frontend.tokenization.StreamTokenize(iter(requests), timeout=WAIT_S)
    assert [list(answer.token_ids) for answer in answers] == [
        frontend.tokenize(text) for text in TEXTS
    ] * 20


def test_ids_are_detokenised_as_they_come_in_sequences_of_their_own(frontend):
    texts = {number: text * 3 for number, text in enumerate(TEXTS)}
    pending = {number: frontend.tokenize(text) for number, text in texts.items()}
    requests = []
    while pending:
        for number, ids in list(pending.items()):
            requests.append(
                tokenization_pb2.StreamDetokenizeRequest(
                    sequence=number, token_ids=ids[:1], end=len(ids) <= 1
                )
            )
            pending[number] = ids[1:]
            if len(ids) <= 1:
                del pending[number]
    answers = list(frontend.tokenization.StreamDetokenize(iter(requests), timeout=WAIT_S))
    assert [answer.sequence for answer in answers] == [request.sequence for request in requests]
    joined = dict.fromkeys(texts, "")
    for answer in answers:
        joined[answer.sequence] += answer.text
        assert "\ufffd" not in answer.text
    assert joined == texts
