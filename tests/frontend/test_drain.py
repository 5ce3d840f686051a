"""A frontend's drain, step by step: what is open goes on, what is new hears DRAINING, and streams
end with that status."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire_frontend.workers.link import LinkState

from tests.frontend.frontend_here import FrontendHere, frontend_of
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import Streamed, endless, refusal_of, refusal_of_status
from tests.services.processes import WAIT_S


@pytest.fixture
async def here() -> AsyncIterator[tuple[FrontendHere, Stream]]:
    async with ScriptedWorker() as worker, frontend_of(worker) as frontend:
        await frontend.wait_for(worker, LinkState.READY)
        yield frontend, await worker.stream()


class Session:
    """One session, read as far as a test wants."""

    def __init__(self, frontend: FrontendHere) -> None:
        self.call = frontend.generations.Session(timeout=WAIT_S)
        self.read: dict[int, Streamed] = defaultdict(Streamed)
        self.draining: list[fg.Draining] = []

    async def open(self, number: int) -> None:
        await self.call.write(fg.SessionRequest(open={"id": number, "generation": endless([7, 8])}))

    async def until(self, holds: Any) -> None:
        while not holds(self.read):
            message = await self.call.read()
            assert message is not grpc.aio.EOF
            for event in message.events:
                if event.HasField("draining"):
                    assert event.id == 0
                    self.draining.append(event.draining)
                    continue
                self.read[event.id].take(event)

    async def status(self) -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await self.until(lambda _: False)
        return refusal_of(failure.value)


def check_draining(refusal: Any) -> None:
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.reason == "DRAINING"
    assert refusal.retry_after_s


async def test_what_is_open_ends_and_what_is_new_is_refused(here):
    frontend, stream = here
    session, idle = Session(frontend), Session(frontend)
    await idle.call.wait_for_connection()
    await session.open(1)
    handle = (await stream.submit()).handle
    stream.accept(handle)
    stream.tokens(handle, 300)
    await session.until(lambda read: read[1].deltas)
    drain = asyncio.create_task(frontend.generator.drain(WAIT_S))
    await session.until(lambda _: session.draining)
    [told] = session.draining
    assert WAIT_S / 2 < told.grace.ToNanoseconds() / 1e9 <= WAIT_S
    check_draining(await idle.status())
    await session.open(2)
    await session.until(lambda read: read[2].error)
    check_draining(refusal_of_status(session.read[2].error))
    assert not drain.done()
    stream.tokens(handle, 301)
    stream.end(handle)
    stream.complete(handle)
    await session.until(lambda read: read[1].over)
    assert session.read[1].ids() == [300, 301]
    await drain
    check_draining(await session.status())
    assert len(session.draining) == 1


async def test_when_the_grace_is_over_each_generation_and_then_the_stream_hear_so(here):
    frontend, stream = here
    session = Session(frontend)
    for number in (1, 2):
        await session.open(number)
    handles = [(await stream.submit()).handle for _ in range(2)]
    stream.accept(handles[0])  # the other is still being started
    await session.until(lambda read: read[1].accepted)
    await frontend.generator.drain(0.0)
    await session.until(lambda read: read[1].error and read[2].error)
    for number in (1, 2):
        check_draining(refusal_of_status(session.read[number].error))
    check_draining(await session.status())
    assert {(await stream.cancel()).handle for _ in handles} == set(handles)
