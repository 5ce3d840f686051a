"""A long prompt is computed by one worker, and its tokens come from another that fetches it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_frontend.core.breaker import DEATHS
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.core.pairing import TRIAL_FIRST_S, TRIALS, WINDOW
from tokenwire_frontend.workers import pairings as pairings_module
from tokenwire_service.limits import TRANSFER_HANDLE_BYTES

from tests.frontend.fleet import Fleet, Place, attempts, fleet, ids, until_has
from tests.frontend.frontend_here import refused, until
from tests.frontend.scripted_worker import ScriptedWorker
from tests.frontend.test_workers import read
from tests.services.calls import Streamed, duration, generation

FROM_TOKENS = 8
LONG = list(range(300, 320))
HANDLE = b"where the blocks are"

PREFILL, DECODE, ANY = (
    worker_pb2.PHASES_PREFILL, worker_pb2.PHASES_DECODE, worker_pb2.PHASES_UNSPECIFIED,
)  # fmt: skip


@asynccontextmanager
async def apart(
    *phases: int, groups: str = "", block_tokens: int = 0, **settings: Any
) -> AsyncIterator[Fleet]:
    """Runs a frontend and a worker for each of the phases, of one group or of those named."""

    def describe(workers: list[ScriptedWorker]) -> None:
        for worker, phase, group in zip(workers, phases, groups or "g" * len(phases), strict=True):
            worker.info.contract_revision = 6
            worker.info.phases = phase
            worker.info.transfer_group = group.strip()
            worker.info.limits.kv_block_tokens = block_tokens

    settings = {"disaggregate_from_tokens": FROM_TOKENS, **settings}
    async with fleet(len(phases), describe, **settings) as made:
        yield made


def hand_over(place: Place, handle: bytes = HANDLE, **counted: Any) -> None:
    """Ends a prompt as a worker does that has computed it."""
    place.stream.end(place.handle)
    place.stream.complete(place.handle, prompt_tokens=len(LONG), transfer_handle=handle, **counted)


def names(made: Fleet, *numbers: int) -> list[str]:
    return [made.workers[number].info.worker_name for number in numbers]


def _accepted(made: Fleet) -> int:
    """Returns how many workers the frontend knows to have taken the only generation."""
    [live] = made.frontend.generator._live
    return len(live._parts._parts)


async def finished(place: Place, call: Any, streamed: Streamed | None = None) -> Streamed:
    """Has a worker bring two tokens and the end, and reads the stream to its end."""
    place.tokens(400, 401)
    place.finish()
    return await read(call, streamed)


async def test_a_long_prompt_is_computed_by_one_worker_and_fetched_by_another():
    what = generation(LONG, sampling={"temperature": 1.0, "seed": 7}, priority=3)
    async with apart(PREFILL, DECODE) as made:
        call = made.frontend.stream(what)
        first = await made.place()
        assert first.worker is made.workers[0]
        assert first.request.prefill_only
        hand_over(first, cached_prompt_tokens=16, prefill=duration(0.25))
        second = await made.place()
        assert second.worker is made.workers[1]
        assert second.request.transfer_handle == HANDLE
        for place in (first, second):
            for field in ("trace_context", "time_budget", "prefill_only", "transfer_handle"):
                place.request.ClearField(field)
        assert second.request == first.request
        second.tokens(400)
        second.stream.end(second.handle)
        second.stream.complete(
            second.handle, queue=duration(0.1), prefill=duration(0.2), decode=duration(0.0)
        )
        streamed = await read(call)
        assert ids(streamed) == [400]
        one, two = names(made, 0, 1)
        assert attempts(streamed) == [
            (one, 0, 0, fg.ATTEMPT_MODE_PREFILL, ""),
            (two, 0, 0, fg.ATTEMPT_MODE_FETCHED, ""),
        ]
        completed = streamed.completed
        assert completed is not None
        assert completed.usage.cached_prompt_tokens == 16
        stages = completed.timings.stages
        by_worker = [each.name for each in stages if each.service == "worker"]
        assert by_worker == ["prefill", "queue", "fetch", "decode"]
        starts = [each.start.ToNanoseconds() for each in stages]
        assert starts == sorted(starts)


@pytest.mark.parametrize(
    "what",
    [
        generation(LONG[: FROM_TOKENS - 1]),
        generation(LONG, sequence_count=2),
        generation(LONG, output={"prompt_logprobs": 0}),
    ],
    ids=["short", "several sequences", "log probabilities of the prompt"],
)
async def test_what_gains_nothing_or_can_not_be_handed_over_stays_whole(what):
    async with apart(PREFILL, DECODE) as made:
        call = made.frontend.stream(what)
        place = await made.place()
        assert place.worker is made.workers[1]
        assert not place.request.prefill_only
        call.cancel()


@pytest.mark.parametrize(
    ("phases", "groups", "settings"),
    [
        ((PREFILL, DECODE), "ab", {}),
        ((PREFILL, DECODE), "  ", {}),
        ((ANY, DECODE), "gg", {}),
        ((PREFILL,), "g", {}),
        ((PREFILL, DECODE), "gg", {"disaggregate_from_tokens": 0}),
    ],
    ids=["other groups", "no group", "none for prefill", "none for decode", "switched off"],
)
async def test_without_a_pair_one_worker_does_all(phases, groups, settings):
    async with apart(*phases, groups=groups, **settings) as made:
        call = made.frontend.stream(generation(LONG))
        place = await made.place()
        assert not place.request.prefill_only
        assert not attempts(await finished(place, call))


async def test_a_worker_for_both_phases_goes_on_where_none_for_decode_is_ready():
    async with apart(PREFILL, ANY, DECODE) as made:
        await made.workers[2].stop()
        await made.frontend.wait_for(made.workers[2], LinkState.CONNECTING)
        call = made.frontend.stream(generation(LONG))
        hand_over(await made.place())
        second = await made.place()
        assert (second.worker, second.request.transfer_handle) == (made.workers[1], HANDLE)
        await finished(second, call)


async def test_what_a_worker_for_decode_holds_is_not_computed_elsewhere():
    async with apart(PREFILL, DECODE, routing="prefix", block_tokens=4) as made:
        for more, computed_apart in ((0, True), (FROM_TOKENS - 1, False), (FROM_TOKENS, True)):
            call = made.frontend.stream(generation([*LONG, *range(500, 500 + more)]))
            place = await made.place()
            assert place.request.prefill_only is computed_apart
            if computed_apart:
                hand_over(place)
                place = await made.place()
            assert place.worker is made.workers[1]
            await finished(place, call)


async def die(place: Place) -> None:
    await place.worker.stop()


async def be_full(place: Place) -> None:
    place.fail("QUEUE_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED)


async def fail(place: Place) -> None:
    place.fail("ENGINE_FAILED", grpc.StatusCode.INTERNAL)


@pytest.mark.parametrize("loss", [die, be_full, fail])
async def test_a_prompt_that_is_lost_is_computed_by_another_and_then_with_its_tokens(loss):
    async with apart(PREFILL, PREFILL, DECODE) as made:
        call = made.frontend.stream(generation(LONG))
        first = await made.place()
        await until(lambda: _accepted(made))
        await loss(first)
        second = await made.place()
        assert second.request.prefill_only
        assert second.worker is not first.worker
        await fail(second)
        third = await made.place()
        assert third.worker is made.workers[2]
        assert not third.request.prefill_only
        streamed = await finished(third, call)
        assert ids(streamed) == [400, 401]
        modes = [each[3] for each in attempts(streamed)]
        assert modes == [fg.ATTEMPT_MODE_PREFILL, fg.ATTEMPT_MODE_PREFILL, fg.ATTEMPT_MODE_NEW]
        assert [bool(each[4]) for each in attempts(streamed)] == [True, True, False]


@pytest.mark.parametrize("handle", [b"", b"x" * (TRANSFER_HANDLE_BYTES + 1)], ids=["none", "large"])
async def test_a_prompt_without_a_handle_that_can_be_used_is_computed_again(handle):
    async with apart(PREFILL, DECODE) as made:
        call = made.frontend.stream(generation(LONG))
        hand_over(await made.place(), handle)
        second = await made.place()
        assert not second.request.transfer_handle
        assert attempts(await finished(second, call))[-1][3] == fg.ATTEMPT_MODE_NEW


async def test_what_an_engine_can_not_hand_over_exactly_is_done_by_one_worker():
    async with apart(PREFILL, PREFILL, DECODE) as made:
        call = made.frontend.stream(generation(LONG, output={"logprobs": True}))
        first = await made.place()
        first.fail("PROMPT_NOT_HANDED_OVER", grpc.StatusCode.FAILED_PRECONDITION)
        second = await made.place()
        assert second.worker is made.workers[2]
        call.cancel()


async def test_what_is_wrong_with_the_request_is_told_by_the_first_worker():
    async with apart(PREFILL, DECODE) as made:
        call = made.frontend.stream(generation(LONG))
        (await made.place()).fail("TOO_ODD", grpc.StatusCode.INVALID_ARGUMENT)
        assert (await refused(read(call))).reason == "TOO_ODD"


async def test_a_prompt_that_kills_workers_is_sent_to_no_other():
    async with apart(PREFILL, PREFILL, DECODE) as made:
        call = made.frontend.stream(generation(LONG))
        for number in range(DEATHS):
            place = await made.place()
            await until(lambda: _accepted(made) > number)  # noqa: B023 - it is called at once
            await die(place)
        assert (await refused(read(call))).reason == "KILLS_ENGINES"


async def test_a_worker_that_refuses_what_it_is_to_fetch_leaves_it_to_the_next():
    async with apart(PREFILL, DECODE, DECODE) as made:
        for worker in made.workers[1:]:
            worker.script = None
        call = made.frontend.stream(generation(LONG))
        hand_over(await made.place())
        streams = [worker.streams[-1] for worker in made.workers[1:]]
        asked = [asyncio.create_task(stream.submit()) for stream in streams]
        [first], _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        streams[asked.index(first)].fail(first.result().handle)
        [second] = [task for task in asked if task is not first]
        assert (await second).request.transfer_handle == HANDLE
        call.cancel()


async def test_tokens_go_on_elsewhere_where_the_second_worker_is_lost():
    async with apart(PREFILL, DECODE, DECODE) as made:
        call, streamed = made.frontend.stream(generation(LONG)), Streamed()
        hand_over(await made.place())
        second = await made.place()
        second.tokens(390)
        await until_has(streamed, call, 1)
        await die(second)
        third = await made.place()
        assert list(third.request.output_so_far) == [390]
        assert not third.request.transfer_handle
        assert ids(await finished(third, call, streamed)) == [390, 400, 401]
        told = [(each[3], each[4]) for each in attempts(streamed)]
        assert told == [
            (fg.ATTEMPT_MODE_PREFILL, ""),
            (fg.ATTEMPT_MODE_FETCHED, "WORKER_LOST"),
            (fg.ATTEMPT_MODE_CARRIED, ""),
        ]


async def test_a_cancel_and_a_hang_up_reach_the_worker_with_the_prompt():
    async with apart(PREFILL, DECODE) as made, made.frontend.session() as session:
        await session.open(1, generation(LONG))
        place = await made.place()
        await until(lambda: _accepted(made))
        await session.call.write(fg.SessionRequest(cancel=fg.Cancel(id=1)))
        [ended] = await session.finish(1)
        assert ended.deltas[-1].end.reason == fg.FINISH_REASON_CANCELLED
        assert (await place.stream.cancel()).handle == place.handle
        call = made.frontend.stream(generation(LONG))
        other = await made.place()
        call.cancel()
        assert (await other.stream.cancel()).handle == other.handle


async def test_a_time_budget_that_ends_with_the_prompt_ends_the_generation():
    async with apart(PREFILL, DECODE) as made:
        call = made.frontend.stream(generation(LONG, time_budget=duration(60.0)))
        place = await made.place()
        assert place.request.HasField("time_budget")
        place.stream.end(place.handle, reason=pb.FINISH_REASON_TIME_BUDGET)
        place.stream.complete(place.handle)
        streamed = await read(call)
        assert streamed.deltas[-1].end.reason == fg.FINISH_REASON_TIME_BUDGET
        assert made._places.empty()


async def test_prompts_on_their_way_count_for_the_room_where_they_go_on():
    async with apart(PREFILL, DECODE) as made:
        made.workers[1].info.limits.running_sequences = 1
        await made.workers[1].restart()
        await until(lambda: made.frontend.pool.places("demo") == 1)
        calls = [made.frontend.stream(generation([number, *LONG])) for number in (7, 8)]
        places = [await made.place() for _ in calls]
        queues = made.frontend.generator.admission.queues
        waiting = made.frontend.stream(generation(LONG))
        await until(lambda: sum(queues.depths.values()) == 1)
        for place in places:
            hand_over(place)
        goes_on = [await made.place() for _ in calls]
        assert [place.worker for place in goes_on] == [made.workers[1]] * 2
        await finished(goes_on[0], calls[goes_on[0].request.prompt_token_ids[0] - 7])
        assert (await made.place()).request.prefill_only
        for call in (*calls, waiting):
            call.cancel()


async def fetched_in(made: Fleet, seconds: float, cached_tokens: int = 0) -> None:
    """Has a prompt fetched that took 0.1 s to compute."""
    call = made.frontend.stream(generation(LONG))
    first = await made.place()
    assert first.request.prefill_only
    hand_over(first, cached_prompt_tokens=cached_tokens, prefill=duration(0.1))
    second = await made.place()
    second.tokens(400)
    second.stream.end(second.handle)
    second.stream.complete(second.handle, prefill=duration(seconds))
    await read(call)


async def computed_whole(made: Fleet) -> None:
    """Has a prompt computed by the worker that its tokens come from."""
    call = made.frontend.stream(generation(LONG))
    place = await made.place()
    assert not place.request.prefill_only
    await finished(place, call)


async def test_prompts_are_not_fetched_while_that_takes_longer_than_to_compute_them(
    lines, monkeypatch
):
    def told() -> list[tuple[bool, float]]:
        return [(x["pays"], x["fetch_factor"]) for x in lines if x["event"] == "pairing"]

    later_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later_s)
    monkeypatch.setattr(pairings_module, "time", clock)
    async with apart(PREFILL, DECODE) as made:
        for _ in range(WINDOW):
            await fetched_in(made, 0.5)
        assert told() == [(False, 5.0)]
        assert dict(made.frontend.pool.pairings) == {("demo", "g"): False}
        await computed_whole(made)
        for _ in range(TRIALS):
            later_s += TRIAL_FIRST_S
            await fetched_in(made, 0.08)
            if len(told()) == 1:
                await computed_whole(made)  # one at a time
        assert told() == [(False, 5.0), (True, 0.8)]
        await fetched_in(made, 0.08)
        made.frontend.pool.set_workers({})
        await until(lambda: not dict(made.frontend.pool.pairings))


@pytest.mark.parametrize(
    ("settings", "load", "fetched"),
    [
        ({"disaggregate_fetch_factor": 0}, {}, {"seconds": 0.5}),
        ({"disaggregate_fetch_factor": 6}, {}, {"seconds": 0.5}),
        ({}, {"step": duration(0.2)}, {"seconds": 0.5}),
        ({}, {}, {"seconds": 0.5, "cached_tokens": 15}),
    ],
    ids=["no bound", "within the bound", "a slow step", "little computed"],
)
async def test_prompts_are_fetched_on(settings, load, fetched):
    async with apart(PREFILL, DECODE, **settings) as made:
        made.workers[1].report(**load)
        link = made.frontend.link(made.workers[1])
        await until(lambda: link.load.step_s == (0.2 if load else None))
        for _ in range(WINDOW + 1):
            await fetched_in(made, **fetched)


async def test_workers_tell_what_they_are_for():
    async with apart(PREFILL, DECODE) as made:
        listed = [await made.frontend.listed(worker) for worker in made.workers]
        assert [each.phases for each in listed] == [PREFILL, DECODE]
