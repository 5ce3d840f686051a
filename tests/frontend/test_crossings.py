"""What meets a worker's loss, or a sequence that is still being placed: ends, cancels, repeats."""

from __future__ import annotations

from functools import partial
from typing import Any

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.worker.v1 import execution_pb2 as pb

from tests.frontend.fleet import Place, attempts, fleet, until_has
from tests.frontend.frontend_here import refused, until
from tests.frontend.scripted_worker import Stream
from tests.frontend.test_workers import read
from tests.services.calls import Streamed, generation

SEEDED = {"temperature": 1.0, "seed": 1}


def going_on(*so_far: list[int], **fields: Any) -> fg.Generation:
    """Returns a generation of as many sequences that goes on after these ids."""
    what = generation(sequence_count=len(so_far), **fields)
    for each in so_far:
        what.output_so_far.add(token_ids=each)
    return what


async def rest_of(call: Any, count: int) -> list[tuple[list[int], int]]:
    """Returns what follows of each sequence: its ids, and how it ended."""
    new: list[list[int]] = [[] for _ in range(count)]
    ends = [0] * count
    async for event in call:
        if event.HasField("delta"):
            new[event.delta.sequence].extend(event.delta.token_ids)
            if event.delta.HasField("end"):
                ends[event.delta.sequence] = event.delta.end.reason
    return list(zip(new, ends, strict=True))


def end_at_once(stream: Stream, submit: pb.Submit) -> None:
    """Does all of a generation in one frame."""
    handle, ending = submit.handle, pb.Ending(reason=pb.FINISH_REASON_LENGTH)
    stream.send(
        accepted=[handle],
        handles=[handle],
        sequences=[0],
        counts=[1],
        token_ids=[320],
        endings=[pb.SequenceEnding(handle=handle, ending=ending)],
        completions=[pb.GenerationEnd(handle=handle, completed=pb.Completed())],
    )


def refuse_output(stream: Stream, submit: pb.Submit) -> None:
    """Does not go on after ids that exist."""
    if submit.request.output_so_far:
        stream.fail(submit.handle, grpc.StatusCode.FAILED_PRECONDITION, "OUTPUT_NOT_CARRIED")
    else:
        end_at_once(stream, submit)


# --- sequences that are placed one by one --------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "sampling", "first"),
    [
        (end_at_once, SEEDED, ([320], fg.FINISH_REASON_LENGTH)),
        (refuse_output, {"temperature": 1.0}, ([], fg.FINISH_REASON_INTERRUPTED)),
    ],
    ids=["ends at once", "can not go on"],
)
async def test_one_that_ends_leaves_those_alone_that_are_placed_after_it(script, sampling, first):
    async with fleet(1) as made:
        made.workers[0].script = script
        call = made.frontend.stream(going_on([300], [], sampling=sampling))
        assert await rest_of(call, 2) == [first, ([320], fg.FINISH_REASON_LENGTH)]


async def test_a_cancel_ends_also_those_that_no_worker_has_yet():
    async with fleet(1) as made, made.frontend.session() as session:
        places: list[Place] = []
        made.workers[0].script = lambda stream, submit: places.append(
            Place(made.workers[0], stream, submit)
        )
        await session.open(1, generation(sequence_count=2, sampling=SEEDED))
        await until(lambda: places)
        places[0].accept()
        places[0].tokens(300, sequence=0)
        places[0].tokens(310, sequence=1)
        await session.read_until(lambda: len(session[1].deltas) == 2)
        what = going_on([300], [310], sampling=SEEDED)
        await session.call.write(fg.SessionRequest(open=fg.Open(id=2, generation=what)))
        await until(lambda: len(places) == 2)
        places[1].accept()
        await until(lambda: len(places) == 3)  # and does not answer
        await session.call.write(fg.SessionRequest(cancel=fg.Cancel(id=2)))
        ends = {}
        while len(ends) < 2:
            for event in (await session.call.read()).events:
                assert event.id == 2, event
                if event.delta.HasField("end"):
                    ends[event.delta.sequence] = event.delta.end.reason
        assert set(ends.values()) == {fg.FINISH_REASON_CANCELLED}
        cancelled = [await places[0].stream.cancel() for _ in range(2)]
        assert {each.handle for each in cancelled} == {places[1].handle, places[2].handle}


async def test_their_workers_tell_of_the_prompt_once():
    prompt = [pb.TokenLogprob(token_id=each, logprob=-each / 1024) for each in (300, 301, 302)]
    async with fleet() as made:
        what = generation(
            [300, 301, 302], output={"prompt_logprobs": 0}, sequence_count=2, sampling=SEEDED
        )
        call, streamed = made.frontend.stream(what), Streamed()
        first = await made.place()
        streamed.take(await call.read())
        await first.worker.stop()
        for place in [await made.place(), await made.place()]:
            part = partial(pb.PromptLogprobs, handle=place.handle)
            place.stream.send(prompt_logprobs=[part(tokens=prompt[:2])])
            place.stream.send(prompt_logprobs=[part(tokens=prompt[2:], token_offset=2)])
            place.tokens(303)
            place.finish()
        await read(call, streamed)
        assert [each.token_id for each in streamed.prompt_logprobs] == [300, 301, 302]


# --- a worker's loss -----------------------------------------------------------------------------


async def test_what_was_cancelled_goes_on_at_no_other_worker():
    async with fleet() as made, made.frontend.session() as session:
        await session.open(1, generation())
        first = await made.place()
        first.tokens(300)
        await session.read_until(lambda: bool(session[1].deltas))
        await session.call.write(fg.SessionRequest(cancel=fg.Cancel(id=1)))
        await first.stream.cancel()
        await first.worker.stop()
        [ended] = await session.finish(1)
        assert ended.deltas[-1].end.reason == fg.FINISH_REASON_CANCELLED
        assert made._places.empty()


@pytest.mark.parametrize("unable", [0, 1])
async def test_of_workers_that_differ_one_goes_on_that_can(unable):
    async with fleet(3) as made:
        call, streamed = made.frontend.stream(generation(sampling={"temperature": 1.0})), Streamed()
        first = await made.place()
        first.tokens(300)
        await until_has(streamed, call, 1)
        others = [each for each in made.workers if each is not first.worker]
        others[unable].script = refuse_output
        await first.worker.stop()
        second = await made.place()
        assert list(second.request.output_so_far) == [300]
        second.finish()
        await read(call, streamed)
        assert attempts(streamed)[-1][3] == fg.ATTEMPT_MODE_CARRIED


# --- a repeated request --------------------------------------------------------------------------


async def test_a_repeat_with_less_output_than_it_was_begun_with_is_a_conflict():
    async with fleet(1) as made:
        what = going_on([300, 301], idempotency_key="k")
        call = made.frontend.stream(what)
        place = await made.place()
        place.tokens(302)
        place.finish()
        assert (await rest_of(call, 1))[0][0] == [302]
        same = await rest_of(made.frontend.stream(what), 1)
        assert same == [([302], fg.FINISH_REASON_LENGTH)]
        what.output_so_far[0].token_ids.pop()
        shorter = await refused(read(made.frontend.stream(what)))
        del what.output_so_far[:]
        without = await refused(made.frontend.generate(what))
        for refusal in (shorter, without):
            assert refusal.reason == "IDEMPOTENCY_CONFLICT"
            assert refusal.fields == ["generation.output_so_far[0]"]
