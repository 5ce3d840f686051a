"""Credit in a session: who has none waits alone, nothing is lost, and no end is forgotten."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import grpc
import pytest
import pytest_asyncio
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.generation import reader as reader_module
from tokenwire_frontend.generation.credit import CREDIT_LIMIT, Credit

from tests.frontend.frontend_here import FrontendHere, frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import (
    Streamed,
    endless,
    generation,
    refusal_of_status,
)
from tests.services.processes import WAIT_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE_BYTES = 2**20
"""What the contract promises of every streamed message."""

UNITS = ["credit_tokens", "credit_messages"]


class Here:
    """A frontend and its scripted worker."""

    def __init__(self, worker: ScriptedWorker, frontend: FrontendHere, stream: Stream) -> None:
        self.worker = worker
        self.frontend = frontend
        self.stream = stream

    def session(self) -> Session:
        return Session(self.frontend.generations.Session(timeout=WAIT_S), self.stream)


class Session:
    """A session of the test's, and what the worker has of it; left, it hangs up."""

    def __init__(self, call: Any, stream: Stream) -> None:
        self.call = call
        self.stream = stream
        self.handles: dict[int, int] = {}
        self.read: dict[int, Streamed] = defaultdict(Streamed)
        self.unowned: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()

    async def send(self, **fields: Any) -> None:
        await self.call.write(fg.SessionRequest(**fields))

    async def open(self, number: int, what: fg.Generation | None = None, **fields: Any) -> int:
        """Opens a generation, has the worker accept it, and returns the worker's handle."""
        await self.send(open=fg.Open(id=number, generation=what or endless([7, 8]), **fields))
        handle = (await self.stream.submit()).handle
        self.stream.accept(handle)
        await self.until(lambda read: read[number].accepted)
        return handle

    async def grant(self, number: int, amount: int) -> None:
        await self.send(credits=[fg.Credit(id=number, amount=amount)])

    async def until(self, holds: Callable[[dict[int, Streamed]], Any]) -> None:
        """Reads until this holds."""
        while not holds(self.read):
            await self.take(await self.call.read())

    async def take(self, message: Any) -> None:
        assert message is not grpc.aio.EOF, "the session ended too early"
        assert message.ByteSize() < MESSAGE_BYTES
        for event in message.events:
            if event.id:
                self.read[event.id].take(event)
            else:
                self.unowned.append(event.error)

    async def bystander(self) -> None:
        """Returns once all that the frontend had to say before is read."""
        handle = await self.open(99)
        self.stream.tokens(handle, 300)
        self.stream.end(handle)
        self.stream.complete(handle)
        await self.until(lambda read: read[99].over)
        del self.read[99]

    def end(self, handle: int, reason: int = pb.FINISH_REASON_LENGTH) -> None:
        self.stream.end(handle, reason=reason)
        self.stream.complete(handle)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def started() -> AsyncIterator[Here]:
    async with ScriptedWorker() as worker:
        worker.info.limits.running_sequences = worker.info.limits.waiting_requests = 5000
        async with frontend_of(worker, generations_limit=2000, worker_answer_s=60) as frontend:
            await frontend.wait_for(worker, LinkState.READY)
            yield Here(worker, frontend, await worker.stream())


@pytest_asyncio.fixture(loop_scope="module")
async def here(started: Here) -> AsyncIterator[Here]:
    """What a test leaves open ends with its session, by the worker's word too."""
    yield started
    stream, link = started.stream, started.frontend.link(started.worker)

    def settled() -> bool:
        while stream._cancels.qsize():
            handle = stream._cancels.get_nowait().handle
            stream.end(handle, reason=pb.FINISH_REASON_CANCELLED)
            stream.complete(handle)
        return not (link.in_flight or started.frontend.generator.admission.held)

    await until(settled)


async def test_a_generation_without_credit_waits_alone(here):
    """It gets what was granted, to the token, while its neighbour gets all."""
    async with here.session() as session:
        paused = await session.open(1, credit_tokens=0)
        running = await session.open(2)
        here.stream.tokens(paused, 300, 301)
        here.stream.tokens(running, 400, 401)
        here.stream.tokens(paused, 302, 303)
        session.end(paused)
        session.end(running)
        await session.until(lambda read: read[2].over)
        assert session.read[2].ids() == [400, 401]
        assert not session.read[1].deltas
        await session.grant(1, 3)
        await session.until(lambda read: read[1].deltas)
        await session.bystander()
        assert [list(each.token_ids) for each in session.read[1].deltas] == [[300, 301, 302]]
        assert not session.read[1].over
        await session.grant(1, 5)
        await session.until(lambda read: read[1].over)
        assert session.read[1].ids() == [300, 301, 302, 303]


async def test_a_message_of_credit_is_a_delta_of_all_that_waits(here):
    async with here.session() as session:
        handle = await session.open(1, credit_messages=1)
        here.stream.tokens(handle, 300)
        await session.until(lambda read: read[1].deltas)
        for token in (301, 302, 303):
            here.stream.tokens(handle, token)
        await session.bystander()
        await session.grant(1, 1)
        await session.until(lambda read: len(read[1].deltas) == 2)
        here.stream.tokens(handle, 304)
        await session.bystander()
        assert [list(each.token_ids) for each in session.read[1].deltas] == [[300], [301, 302, 303]]


@pytest.mark.parametrize("unit", UNITS)
async def test_an_end_without_new_tokens_needs_no_credit(here, unit):
    async with here.session() as session:
        handle = await session.open(1, **{unit: 1})
        here.stream.tokens(handle, 300)
        await session.until(lambda read: read[1].deltas)
        session.end(handle)
        await session.until(lambda read: read[1].over)
        assert session.read[1].completed
        assert session.read[1].ids() == [300]


async def test_sequences_share_the_credit_and_none_waits_for_the_others_end(here):
    async with here.session() as session:
        handle = await session.open(1, endless([7, 8], sequence_count=3), credit_tokens=0)
        for sequence in range(3):
            here.stream.tokens(handle, *range(300, 310), sequence=sequence)
        for granted in (4, 8, 12):
            await session.grant(1, 4)
            await session.until(lambda read, granted=granted: len(read[1].deltas) == granted // 4)
        assert [session.read[1].ids(each) for each in range(3)] == [[300, 301, 302, 303]] * 3
        here.stream.end(handle, 1)
        await session.grant(1, 6)
        await session.until(lambda read: len(read[1].deltas) > 3)
        here.stream.end(handle, 0)
        here.stream.end(handle, 2)
        here.stream.complete(handle)
        await session.grant(1, 12)
        await session.until(lambda read: read[1].over)
        assert [session.read[1].ids(each) for each in range(3)] == [list(range(300, 310))] * 3


async def test_a_cancel_needs_no_credit(here):
    """What had come, and the end, follow."""
    async with here.session() as session:
        handle = await session.open(1, credit_tokens=0)
        here.stream.tokens(handle, 300, 301)
        await session.bystander()
        await session.send(cancel=fg.Cancel(id=1))
        assert (await here.stream.cancel()).handle == handle
        session.end(handle, pb.FINISH_REASON_CANCELLED)
        await session.until(lambda read: read[1].over)
        assert session.read[1].ids() == [300, 301]
        assert session.read[1].reason == fg.FINISH_REASON_CANCELLED


async def test_after_half_close_everything_comes(here):
    async with here.session() as session:
        handle = await session.open(1, credit_tokens=0)
        other = await session.open(2, credit_messages=0)
        here.stream.tokens(handle, 300, 301)
        await session.bystander()
        await session.call.done_writing()
        await session.until(lambda read: read[1].deltas)
        for each in (handle, other):
            here.stream.tokens(each, 302)
            session.end(each)
        await session.until(lambda read: read[1].over and read[2].over)
        assert session.read[1].ids() == [300, 301, 302]
        assert session.read[2].ids() == [302]
        assert await session.call.read() is grpc.aio.EOF


async def test_an_error_does_not_wait_for_credit(here):
    async with here.session() as session:
        handle = await session.open(1, credit_messages=1)
        here.stream.tokens(handle, 300)
        await session.until(lambda read: read[1].deltas)
        here.stream.tokens(handle, 301)
        here.stream.fail(handle, grpc.StatusCode.INTERNAL, "ENGINE_FAULT")
        await session.until(lambda read: read[1].over)
        assert refusal_of_status(session.read[1].error).reason == "ENGINE_FAULT"
        assert session.read[1].ids() == [300]


async def test_what_waits_for_credit_is_bounded_and_the_error_says_so(here, monkeypatch):
    monkeypatch.setattr(reader_module, "UNREAD_BYTES_LIMIT", 2**14)
    async with here.session() as session:
        handle = await session.open(1, credit_tokens=0)
        for _ in range(16):
            here.stream.tokens(handle, *[300] * 256)
        assert (await here.stream.cancel()).handle == handle
        session.end(handle, pb.FINISH_REASON_CANCELLED)
        await session.until(lambda read: read[1].over)
        refusal = refusal_of_status(session.read[1].error)
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.reason == "NOT_READING"
        assert "credit" in refusal.message


async def test_credit_for_what_needs_none_or_is_not_open_is_passed_over(here):
    async with here.session() as session:
        handle = await session.open(1)
        await session.send(credits=[{"id": 1, "amount": 1}, {"id": 7, "amount": 1}, {"amount": 1}])
        here.stream.tokens(handle, 300, 301)
        await session.until(lambda read: read[1].ids() == [300, 301])
        await session.bystander()
        assert not session.unowned


async def test_credit_in_tokens_needs_content_that_has_them(here):
    async with here.session() as session:
        text = {"content": "STREAM_CONTENT_TEXT"}
        what = generation([7, 8])
        await session.send(open=fg.Open(id=1, generation=what, stream=text, credit_tokens=1))
        await session.until(lambda read: read[1].over)
        refusal = refusal_of_status(session.read[1].error)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.fields == ["open.credit_tokens"]
        handle = await session.open(2, what, stream=text, credit_messages=1)
        for _ in range(2):
            here.stream.tokens(handle, *range(300, 308))
            await session.bystander()
        [delta] = session.read[2].deltas
        assert delta.text
        assert not delta.token_ids


async def test_credit_adds_up_to_a_bound():
    credit = Credit(CREDIT_LIMIT - 1, counts_tokens=True)
    credit.grant(7)
    credit.use(1)
    assert credit.tokens == CREDIT_LIMIT - 1


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("seed", range(3))
async def test_random_credit_is_never_exceeded_and_all_comes(here, unit, seed):
    """Of a generation that starts with some credit, while tokens come in runs of any length."""
    chance = random.Random(seed)
    ids = [300 + place % 3000 for place in range(200)]
    async with here.session() as session:
        other = await session.open(2)
        here.stream.tokens(other, *ids)
        session.end(other)
        granted, used, sent = chance.randrange(5), 0, 0
        limit = {"max_tokens": chance.randrange(8)}
        handle = await session.open(1, stream=limit, **{unit: granted})
        await session.until(lambda read: read[2].over)
        read = session.read[1]
        while not read.over:
            run = ids[sent : sent + chance.randrange(1, 20)]
            sent += len(run)
            if run:
                here.stream.tokens(handle, *run)
                if sent == len(ids):
                    session.end(handle)
            if granted == used:
                granted += (more := chance.randrange(1, 30))
                await session.grant(1, more)
            before = len(read.deltas)
            await session.until(lambda _, before=before: len(read.deltas) > before or read.over)
            deltas = [each for each in read.deltas if each.token_ids]
            used = len(deltas if unit == "credit_messages" else read.ids())
            assert used <= granted
        assert read.ids() == ids
        assert read.text() == session.read[2].text()
