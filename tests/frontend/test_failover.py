"""A generation whose worker is lost goes on at another; its stream has no gap and no repeat."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.breaker import DEATHS, DEATHS_SHARED, FAILURES
from tokenwire_frontend.core.link_state import LinkState

from tests.frontend.fleet import Fleet, Place, attempts, fleet, ids, until_has
from tests.frontend.frontend_here import refused, until
from tests.frontend.scripted_worker import ScriptedWorker
from tests.frontend.test_workers import read
from tests.services.calls import Streamed, generation
from tests.services.processes import WAIT_S


async def moved(
    made: Fleet, what: fg.Generation, *before: int
) -> tuple[Any, Streamed, Place, Place]:
    """Starts a generation, loses its worker after these ids, and returns where it goes on."""
    call, streamed = made.frontend.stream(what), Streamed()
    first = await made.place()
    for each in before:
        first.tokens(each)
    await until_has(streamed, call, len(before))
    await first.worker.stop()
    return call, streamed, first, await made.place()


async def test_output_goes_along_and_the_stream_has_no_gap():
    what = generation(max_tokens=9, stop={"min_tokens": 4})
    async with fleet() as made:
        call, streamed, first, second = await moved(made, what, 300, 301, 302)
        assert not first.request.output_so_far
        assert list(second.request.output_so_far) == [300, 301, 302]
        assert second.request.prompt_token_ids == first.request.prompt_token_ids
        assert second.request.stopping == first.request.stopping
        assert second.worker is not first.worker
        second.tokens(303, 304)
        second.finish()
        await read(call, streamed)
        assert ids(streamed) == [300, 301, 302, 303, 304]
        assert streamed.completed is not None
        assert streamed.completed.usage.completion_tokens == 5
        names = [place.worker.info.worker_name for place in (first, second)]
        assert attempts(streamed) == [
            (names[0], 0, 0, fg.ATTEMPT_MODE_NEW, "WORKER_LOST"),
            (names[1], 0, 3, fg.ATTEMPT_MODE_CARRIED, ""),
        ]


async def test_what_never_moved_tells_of_no_attempts():
    async with fleet(1) as made:
        call = made.frontend.stream(generation(max_tokens=1))
        place = await made.place()
        place.tokens(300)
        place.finish()
        assert not attempts(await read(call))


@pytest.mark.parametrize("reason", ["DRAINING", "ENGINE_DIED", "ENGINE_STALLED"])
async def test_a_worker_that_gives_it_up_is_followed_by_another(reason):
    async with fleet() as made:
        call = made.frontend.stream(generation())
        first = await made.place()
        first.tokens(300)
        first.fail(reason)
        second = await made.place()
        second.tokens(301)
        second.finish()
        streamed = await read(call)
        assert ids(streamed) == [300, 301]
        assert attempts(streamed)[0][-1] == reason


async def test_what_is_wrong_with_the_request_is_not_moved():
    async with fleet() as made:
        call = made.frontend.stream(generation())
        place = await made.place()
        place.tokens(300)
        place.fail("TOO_ODD", grpc.StatusCode.INVALID_ARGUMENT)
        assert (await refused(read(call))).reason == "TOO_ODD"


async def test_a_lone_worker_that_comes_back_goes_on():
    async with fleet(1) as made:
        call, streamed = made.frontend.stream(generation()), Streamed()
        first = await made.place()
        first.tokens(300)
        await until_has(streamed, call, 1)
        await first.worker.restart()
        second = await made.place()
        assert list(second.request.output_so_far) == [300]
        second.finish()
        assert ids(await read(call, streamed)) == [300]


async def test_without_another_worker_it_fails_as_it_was_lost():
    async with fleet(1, move_wait_s=0.3) as made:
        call = made.frontend.stream(generation())
        place = await made.place()
        place.tokens(300)
        await place.worker.stop()
        assert (await refused(read(call))).reason == "WORKER_LOST"


async def refuse_output(place: Place) -> None:
    place.stream.fail(place.handle, grpc.StatusCode.FAILED_PRECONDITION, "OUTPUT_NOT_CARRIED")


class NotCarried(Fleet):
    """Workers that refuse to go on after ids that exist."""

    async def place(self) -> Place:
        while True:
            async with asyncio.timeout(WAIT_S):
                place = await self._places.get()
            if not place.request.output_so_far:
                place.accept()
                return place
            await refuse_output(place)


@pytest.fixture(params=["refuses", "is older"])
def cannot_carry(request, monkeypatch):
    """Workers can't carry output, whether they say so or do not know of it."""
    if request.param == "refuses":
        monkeypatch.setattr(Fleet, "place", NotCarried.place)
    else:
        made = Fleet.__init__

        def older(self: Fleet, workers: list[ScriptedWorker]) -> None:
            made(self, workers)
            for worker in workers:
                worker.info.contract_revision = 3

        monkeypatch.setattr(Fleet, "__init__", older)


@pytest.mark.usefixtures("cannot_carry")
async def test_what_can_not_be_carried_is_replayed_and_verified():
    async with fleet() as made:
        call, streamed, _, second = await moved(made, generation(), 300, 301, 302)
        second.tokens(300)
        second.tokens(301, 302, 303)
        second.tokens(304)
        second.finish()
        await read(call, streamed)
        assert ids(streamed) == [300, 301, 302, 303, 304]
        assert attempts(streamed)[1][2:] == (3, fg.ATTEMPT_MODE_REPLAYED, "")


@pytest.mark.usefixtures("cannot_carry")
@pytest.mark.parametrize("again", [(300, 999), (999,), (300,)], ids=["late", "at once", "shorter"])
async def test_a_replay_that_differs_is_told_and_never_passed_on(again):
    async with fleet() as made:
        call, streamed, _, second = await moved(made, generation(), 300, 301)
        second.tokens(*again)
        if again == (300,):
            second.finish(pb.FINISH_REASON_STOP)
        await read(call, streamed)
        assert ids(streamed) == [300, 301]
        assert streamed.deltas[-1].end.reason == fg.FINISH_REASON_INTERRUPTED


@pytest.mark.usefixtures("cannot_carry")
async def test_what_can_be_neither_carried_nor_repeated_is_interrupted():
    async with fleet() as made:
        call, streamed = made.frontend.stream(generation(sampling={"temperature": 1.0})), Streamed()
        first = await made.place()
        first.tokens(300)
        await until_has(streamed, call, 1)
        await first.worker.stop()
        answers = asyncio.create_task(made.place())
        await read(call, streamed)
        answers.cancel()
        assert streamed.deltas[-1].end.reason == fg.FINISH_REASON_INTERRUPTED


@pytest.mark.parametrize(
    "fields",
    [
        {"guided": {"regex": "a+"}},
        {"sampling": {"temperature": 1.0, "presence_penalty": 0.5}},
        {"sampling": {"temperature": 1.0, "repetition_penalty": 1.2}},
    ],
    ids=["guided", "presence", "repetition"],
)
async def test_sampling_that_could_not_be_repeated_is_given_a_seed(fields):
    async with fleet(1) as made:
        what = generation(**{"sampling": {"temperature": 1.0}, **fields})
        call = made.frontend.stream(what)
        place = await made.place()
        assert place.request.sampling.HasField("seed")
        place.finish()
        await read(call)


async def test_sampling_that_is_carried_gets_no_seed():
    async with fleet(1) as made:
        call = made.frontend.stream(generation(sampling={"temperature": 1.0}))
        place = await made.place()
        assert not place.request.sampling.HasField("seed")
        place.finish()
        await read(call)


async def test_several_sequences_go_on_as_single_ones_with_their_seeds():
    what = generation(sequence_count=3, sampling={"temperature": 1.0, "seed": 7})
    async with fleet() as made:
        call, streamed = made.frontend.stream(what), Streamed()
        first = await made.place()
        first.tokens(300, sequence=0)
        first.tokens(310, 311, sequence=1)
        first.stream.end(first.handle, sequence=0)
        await until_has(streamed, call, 3)
        await first.worker.stop()
        places = [await made.place(), await made.place()]
        by_seed = {place.request.sampling.seed: place for place in places}
        assert sorted(by_seed) == [8, 9]
        assert [place.request.sequence_count for place in places] == [1, 1]
        assert list(by_seed[8].request.output_so_far) == [310, 311]
        assert not by_seed[9].request.output_so_far
        by_seed[9].tokens(320)
        by_seed[9].finish()
        by_seed[8].tokens(312)
        by_seed[8].finish()
        await read(call, streamed)
        assert [ids(streamed, number) for number in range(3)] == [[300], [310, 311, 312], [320]]
        assert {each[1:4] for each in attempts(streamed)[1:]} == {
            (1, 2, fg.ATTEMPT_MODE_CARRIED),
            (2, 0, fg.ATTEMPT_MODE_NEW),
        }


@pytest.mark.parametrize(
    ("what", "before", "end"),
    [
        (generation(stop={"stop_token_ids": [77], "max_tokens": 9}), (300, 77), "stop_token_id"),
        (generation(max_tokens=2), (300, 301), None),
    ],
    ids=["stop token", "length"],
)
async def test_what_was_complete_needs_no_other_worker(what, before, end):
    async with fleet() as made:
        call, streamed = made.frontend.stream(what), Streamed()
        first = await made.place()
        first.tokens(*before)
        await until_has(streamed, call, len(before))
        await first.worker.stop()
        await read(call, streamed)
        assert ids(streamed) == list(before)
        assert streamed.deltas[-1].end.WhichOneof("matched") == end
        assert made._places.empty()


async def test_log_probabilities_go_on_where_they_were():
    scored = [pb.TokenLogprob(token_id=301, logprob=-0.5)]
    async with fleet() as made:
        what = generation(output={"logprobs": True})
        call, streamed = made.frontend.stream(what), Streamed()
        first = await made.place()
        before = pb.EntryLogprobs(entry=0, tokens=[pb.TokenLogprob(token_id=300, logprob=-0.25)])
        first.tokens(300, logprobs=[before])
        await until_has(streamed, call, 1)
        await first.worker.stop()
        second = await made.place()
        assert second.request.logprobs
        second.tokens(301, logprobs=[pb.EntryLogprobs(entry=0, tokens=scored)])
        second.finish()
        await read(call, streamed)
        told = [each.logprob for delta in streamed.deltas for each in delta.logprobs]
        assert told == [-0.25, -0.5]


async def test_a_prompts_log_probabilities_are_told_once():
    prompt = [pb.TokenLogprob(token_id=each, logprob=-each / 1024) for each in (300, 301, 302)]
    async with fleet() as made:
        what = generation([300, 301, 302], output={"prompt_logprobs": 0})
        call, streamed = made.frontend.stream(what), Streamed()
        first = await made.place()
        part = pb.PromptLogprobs(handle=first.handle, tokens=prompt[:2])
        first.stream.send(prompt_logprobs=[part])
        while len(streamed.prompt_logprobs) < 2:
            streamed.take(await call.read())
        await first.worker.stop()
        second = await made.place()
        whole = pb.PromptLogprobs(handle=second.handle, tokens=prompt)
        second.stream.send(prompt_logprobs=[whole])
        second.tokens(303)
        second.finish()
        await read(call, streamed)
        assert [each.token_id for each in streamed.prompt_logprobs] == [300, 301, 302]


async def test_whole_answers_and_sessions_move_too():
    async with fleet() as made, made.frontend.session() as session:
        await session.open(1, generation())
        first = await made.place()
        answer = asyncio.ensure_future(made.frontend.generate(generation()))
        other = await made.place()
        if other.worker is first.worker:  # equals take turns
            pytest.skip("both are at one worker")
        first.tokens(300)
        await session.read_until(lambda: bool(session[1].deltas))
        other.tokens(310)
        await first.worker.stop()
        again = await made.place()
        again.tokens(301)
        again.finish()
        [ended] = await session.finish(1)
        assert ids(ended) == [300, 301]
        await first.worker.start()
        await made.frontend.wait_for(first.worker, LinkState.READY)
        await other.worker.stop()
        again = await made.place()
        again.tokens(311)
        again.finish()
        whole = await answer
        assert list(whole.sequences[0].token_ids) == [310, 311]
        assert len(whole.attempts) == 2


async def test_workers_that_die_at_a_generation_are_not_followed_by_more():
    async with fleet(DEATHS + 1) as made:
        call, streamed = made.frontend.stream(generation()), Streamed()
        for number in range(DEATHS):
            place = await made.place()
            place.tokens(300 + number)
            await until_has(streamed, call, number + 1)
            await place.worker.stop()
        refusal = await refused(read(call, streamed))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "KILLS_ENGINES")
        assert made._places.empty()


async def lost_together(made: Fleet, times: int) -> list[tuple[Any, Streamed]]:
    """Has two generations at one worker, which restarts after a token of each, so many times."""
    read_so_far = [(made.frontend.stream(generation()), Streamed()) for _ in range(2)]
    for number in range(times):
        places = [await made.place() for _ in read_so_far]
        for place in places:
            place.tokens(300 + number)
        for call, streamed in read_so_far:
            await until_has(streamed, call, number + 1)
        await places[0].worker.restart()
    return read_so_far


async def test_of_two_that_moved_together_none_is_the_cause_of_two_deaths():
    async with fleet(1) as made:
        both = await lost_together(made, DEATHS)
        for _ in both:
            (await made.place()).finish()
        for call, streamed in both:
            assert ids(await read(call, streamed)) == [300, 301]


async def test_of_two_that_moved_together_both_end_at_the_third_death():
    async with fleet(1) as made:
        for call, streamed in await lost_together(made, DEATHS_SHARED):
            assert (await refused(read(call, streamed))).reason == "KILLS_ENGINES"


async def test_a_cancel_while_it_is_moved_ends_it_at_once():
    async with fleet(1) as made, made.frontend.session() as session:
        await session.open(1, generation())
        place = await made.place()
        place.tokens(300)
        await session.read_until(lambda: bool(session[1].deltas))
        await place.worker.stop()
        await until(lambda: made.frontend.generator._moves._tasks)
        await session.call.write(fg.SessionRequest(cancel=fg.Cancel(id=1)))
        [ended] = await session.finish(1)
        assert ended.deltas[-1].end.reason == fg.FINISH_REASON_CANCELLED
        await until(lambda: not made.frontend.generator._moves._tasks)


async def test_a_worker_that_fails_again_and_again_gets_nothing_while_another_is_ready():
    async with fleet() as made:
        sick, sound = made.workers
        for _ in range(FAILURES):
            made.frontend.link(sick).breaker.failed(time.monotonic())
        for _ in range(3):
            call = made.frontend.stream(generation(max_tokens=1))
            place = await made.place()
            assert place.worker is sound
            place.tokens(300)
            place.finish()
            await read(call)
        await sound.stop()
        await made.frontend.wait_for(sound, LinkState.CONNECTING)
        call = made.frontend.stream(generation(max_tokens=1))
        place = await made.place()
        assert place.worker is sick
        place.tokens(300)
        place.finish()
        await read(call)
