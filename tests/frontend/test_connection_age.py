"""Connections that grow old are left for new ones, and what they carry goes on to its end."""

from __future__ import annotations

from typing import Any

import grpc
from tokenwire import AsyncClient
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.workers.link import CONNECTIONS_LIMIT
from tokenwire_service.connections import peers

from tests.frontend.frontend_here import frontend_of, refused, until
from tests.frontend.scripted_worker import Stream
from tests.services.calls import Streamed, endless, generation
from tests.services.processes import WAIT_S

READY = LinkState.READY
AGE_S = 1.0
"""The least that the setting allows; a stream is asked to move after 1.2 s."""


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def finish(stream: Stream, handle: int) -> None:
    stream.end(handle)
    stream.complete(handle)


# --- a worker asks for another connection --------------------------------------------------------


async def test_what_is_new_goes_over_a_new_connection_and_the_old_one_ends_empty(
    worker, frontend, at_once
):
    old = await worker.stream()
    call = frontend.stream(endless())
    first = await old.submit()
    cancelled = frontend.stream(endless())
    second = await old.submit()
    old.accept(first.handle, second.handle)
    old.send(move=True)
    new = await worker.stream()
    answer = frontend.generate(generation(max_tokens=3))
    new.generate((await new.submit()).handle, 5, 6, 7)
    assert (await answer).sequences[0].token_ids == [5, 6, 7]
    link = frontend.link(worker)
    assert (link.state, link.in_flight) == (READY, 2)
    # Commands about what the old one carries still go there.
    cancelled.cancel()
    assert (await old.cancel()).handle == second.handle
    finish(old, second.handle)
    old.tokens(first.handle, 300)
    assert not old.left.is_set()
    finish(old, first.handle)
    assert (await read(call)).ids() == [300]
    await old.left.wait()
    assert not new.left.is_set()
    assert (link.state, link.in_flight) == (READY, 0)


async def test_a_worker_that_asks_again_and_again_has_a_few_connections_at_most(
    worker, frontend, at_once
):
    calls = []
    for _ in range(CONNECTIONS_LIMIT):
        stream = await worker.stream()
        calls.append(frontend.stream(endless()))
        stream.accept((await stream.submit()).handle)
        stream.send(move=True)
    link = frontend.link(worker)
    answer = frontend.generate(generation(max_tokens=1))
    stream.generate((await stream.submit()).handle, 5)
    await answer
    assert len(worker.streams) == CONNECTIONS_LIMIT
    for call in calls:
        call.cancel()
    for each in worker.streams[:-1]:
        finish(each, (await each.cancel()).handle)
    await worker.stream()
    assert link.state is READY


async def test_where_no_other_connection_can_be_made_the_old_one_goes_on(
    worker, frontend, at_once, lines
):
    async def refuses(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    worker.overrides["GetWorkerInfo"] = refuses
    stream = await worker.stream()
    stream.send(move=True)
    await until(lambda: any(each["event"] == "worker_not_moved" for each in lines))
    answer = frontend.generate(generation(max_tokens=1))
    stream.generate((await stream.submit()).handle, 5)
    await answer
    assert frontend.link(worker).state is READY


async def test_an_old_connection_that_breaks_fails_what_it_had_alone(worker, frontend, at_once):
    old = await worker.stream()
    call = frontend.stream(endless())
    old.accept((await old.submit()).handle)
    old.send(move=True)
    new = await worker.stream()
    old.close()
    assert (await refused(read(call))).reason == "WORKER_LOST"
    answer = frontend.generate(generation(max_tokens=1))
    new.generate((await new.submit()).handle, 5)
    await answer
    assert frontend.link(worker).state is READY


async def read(call: Any) -> Streamed:
    streamed = Streamed()
    while not streamed.over:
        streamed.take(await call.read())
    return streamed


# --- a frontend asks for another connection ------------------------------------------------------


async def test_a_session_opens_its_next_stream_anew_and_ends_the_old_one_when_it_is_empty(worker):
    async with frontend_of(worker, max_connection_age_s=AGE_S) as frontend:
        await frontend.wait_for(worker, READY)
        stream = await worker.stream()
        address = frontend.server.address
        async with AsyncClient(address, timeout=WAIT_S) as client, client.session() as session:
            first = session.open([7, 8], max_tokens=99)
            handle = (await stream.submit()).handle
            stream.accept(handle)
            stream.tokens(handle, 300)
            delta = await anext(first)
            await until(lambda: session._link is None)  # it was asked to move
            connected = peers(port(address))
            second = session.open([7, 8], max_tokens=99)
            other = (await stream.submit()).handle
            stream.generate(other, 5, 6)
            assert [each async for each in second]
            assert len(peers(port(address)) - connected) == 1
            stream.tokens(handle, 301)
            finish(stream, handle)
            ids = list(delta.token_ids)
            async for delta in first:
                ids += delta.token_ids
            assert ids == [300, 301]
            # The one that was left ends by itself: nothing is open there.
            await until(lambda: not any(connected & peers(port(address))))


async def test_a_call_is_never_cut_off_for_the_age_of_its_connection(worker):
    async with frontend_of(worker, max_connection_age_s=AGE_S) as frontend:
        await frontend.wait_for(worker, READY)
        stream = await worker.stream()
        call = frontend.stream(endless([7, 8]))
        handle = (await stream.submit()).handle
        stream.accept(handle)
        before = peers(port(frontend.server.address))
        # New calls go over new connections meanwhile, ...
        while peers(port(frontend.server.address)) <= before:
            answer = frontend.generate(generation(max_tokens=1))
            stream.generate((await stream.submit()).handle, 5)
            await answer
        # ... and this one goes on over its own.
        stream.tokens(handle, 300)
        finish(stream, handle)
        assert (await read(call)).ids() == [300]
