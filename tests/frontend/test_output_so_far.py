"""A client goes on with output that it has already, such as from another frontend."""

from __future__ import annotations

import pytest
from tokenwire.frontend.v1 import tokenization_pb2

from tests.frontend.fleet import fleet
from tests.frontend.frontend_here import refused
from tests.frontend.test_workers import read
from tests.services.calls import generation


async def test_a_client_goes_on_where_another_frontend_left_it():
    what = generation(max_tokens=8, output={"echo": True})
    async with fleet(1) as made:
        call = made.frontend.stream(what)
        place = await made.place()
        place.tokens(300, 301, 302, 303)
        place.finish()
        whole = await read(call)
        text = "".join(each.text for each in whole.deltas)
        what.output_so_far.add(token_ids=[300, 301])
        call = made.frontend.stream(what)
        place = await made.place()
        assert list(place.request.output_so_far) == [300, 301]
        place.tokens(302, 303)
        place.finish()
        events = [event async for event in call]
        deltas = [event.delta for event in events if event.HasField("delta")]
        assert deltas[0].token_offset == 2
        assert [each for delta in deltas for each in delta.token_ids] == [302, 303]
        assert text.endswith("".join(each.text for each in deltas))
        echoed = len("Hello")
        assert (
            text[echoed : echoed + deltas[0].text_offset] + "".join(each.text for each in deltas)
            == text[echoed:]
        )
        completed = events[-1].completed
        assert completed.usage.completion_tokens == 4
        assert completed.attempts[0].token_offset == 2


async def test_of_several_sequences_those_that_have_ended_stay_ended():
    what = generation(sequence_count=2, sampling={"temperature": 1.0, "seed": 1})
    what.output_so_far.add(token_ids=[300], ended=True)
    what.output_so_far.add(token_ids=[310])
    async with fleet(1) as made:
        call = made.frontend.stream(what)
        place = await made.place()
        assert (place.request.sequence_count, place.request.sampling.seed) == (1, 2)
        place.tokens(311)
        place.finish()
        events = [event async for event in call]
        assert events[0].HasField("accepted")
        deltas = [event.delta for event in events if event.HasField("delta")]
        assert {each.sequence for each in deltas} == {1}
        assert [each for delta in deltas for each in delta.token_ids] == [311]


async def test_what_has_ended_wholly_is_completed_without_a_worker():
    what = generation(stop={"stop_token_ids": [77], "max_tokens": 9})
    what.output_so_far.add(token_ids=[300, 77])
    async with fleet(1) as made:
        events = [event async for event in made.frontend.stream(what)]
        assert [event.WhichOneof("event") for event in events] == ["accepted", "delta", "completed"]
        assert events[1].delta.end.stop_token_id == 77
        assert events[1].delta.token_offset == 2
        assert made._places.empty()


@pytest.mark.parametrize(
    ("so_far", "field"),
    [
        ([[300], [300]], "generation.output_so_far"),
        ([[300, 9999]], "generation.output_so_far[0].token_ids[1]"),
        ([[300] * 17], "generation.output_so_far[0].token_ids"),
    ],
)
async def test_bad_output_so_far_is_refused_by_field(so_far, field):
    what = generation(max_tokens=16)
    for each in so_far:
        what.output_so_far.add(token_ids=each)
    async with fleet(1) as made:
        refusal = await refused(read(made.frontend.stream(what)))
        assert refusal.fields == [field]


async def test_output_that_goes_on_after_a_stop_string_is_refused():
    async with fleet(1) as made:
        request = tokenization_pb2.TokenizeRequest(text="the end", add_special_tokens=False)
        ended = list((await made.frontend.tokenization.Tokenize(request)).token_ids)
        what = generation(max_tokens=16, stop={"stop": ["the end"]})
        what.output_so_far.add(token_ids=[*ended, 300])
        refusal = await refused(read(made.frontend.stream(what)))
        assert refusal.fields == [f"generation.output_so_far[0].token_ids[{len(ended)}]"]


async def test_generate_takes_no_output_so_far():
    what = generation()
    what.output_so_far.add(token_ids=[300])
    async with fleet(1) as made:
        refusal = await refused(made.frontend.generate(what))
        assert refusal.fields == ["generation.output_so_far"]
