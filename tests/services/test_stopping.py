"""What ends a generation: stop strings, stop tokens, and the bounds that hold them off."""

from __future__ import annotations

import pytest
from tokenwire.frontend.v1 import generation_pb2

from tests.services.calls import (
    Streamed,
    endless,
    generation,
)
from tests.services.prompts import LENGTH, STOP, STORY, chat


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
