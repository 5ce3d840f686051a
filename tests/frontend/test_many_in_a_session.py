"""A thousand generations in one session, with cancels, stalls of credit, slow reads and two workers
that die: every text is right, all of them end, and memory is bounded by the tokens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import generation_pb2_grpc
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.core.log import SequenceLog
from tokenwire_frontend.generation.credit import CREDIT_LIMIT

from tests.frontend.frontend_here import FrontendHere, frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import SMALL_WINDOW, Streamed, generation
from tests.services.processes import WAIT_S

SEED = 20
GENERATIONS = 1000
STARTS = 5
COUNTS = (3, 20, 60)
"""Tokens of a generation; with STARTS, fifteen different outputs."""
STEPS = 24
DEATH_STEPS = (10, 18)
"""Steps before which a worker dies."""
SURE_TOKENS = 8
"""Of a generation, from which on no worker's death counts as its doing."""
HELD_BYTES = 16
"""Of a token in a log: its id, where its text ends, and its text."""


def ids_of(start: int, count: int) -> list[int]:
    return [300 + (start * 97 + place * 13) % 3000 for place in range(count)]


class Engine:
    """Gives each generation a few tokens a step; its prompt says which, `max_tokens` how many."""

    def __init__(self, worker: ScriptedWorker, stream: Stream, chance: random.Random) -> None:
        self.worker = worker
        self._stream = stream
        self._chance = chance
        self._left: dict[int, list[int]] = {}

    @property
    def waiting(self) -> int:
        """Generations that were asked for since the last step."""
        return self._stream._submits.qsize()

    def step(self) -> None:
        """Does what was asked for, and one step."""
        stream = self._stream
        while stream._submits.qsize():
            submit = stream._submits.get_nowait()
            asked = submit.request
            ids = ids_of(asked.prompt_token_ids[1], asked.stopping.max_tokens)
            self._left[submit.handle] = ids[len(asked.output_so_far) :]
            stream.accept(submit.handle)
        while stream._cancels.qsize():
            handle = stream._cancels.get_nowait().handle
            if self._left.pop(handle, None) is not None:
                stream.end(handle, reason=pb.FINISH_REASON_CANCELLED)
                stream.complete(handle)
        runs = {}
        for handle, left in self._left.items():
            count = self._chance.randrange(1, 6)
            runs[handle], left[:count] = left[:count], []
        stream.send(
            handles=list(runs),
            sequences=[0] * len(runs),
            counts=[len(run) for run in runs.values()],
            token_ids=[token for run in runs.values() for token in run],
        )
        over = [handle for handle, left in self._left.items() if not left]
        for handle in over:
            del self._left[handle]
            stream.end(handle)
            stream.complete(handle)


@dataclass
class Asked:
    """What the client knows of one generation."""

    start: int
    count: int
    unit: str | None
    granted: int = 0
    used: int = 0
    cancelled: bool = False
    read: Streamed = field(default_factory=Streamed)

    def opening(self, number: int) -> fg.Open:
        credit = {self.unit: self.granted} if self.unit else {}
        return fg.Open(id=number, generation=generation([7, self.start], self.count), **credit)

    def take(self, event: fg.SessionEvent) -> None:
        self.read.take(event)
        tokens = len(event.delta.token_ids)
        self.used += tokens if self.unit == "credit_tokens" else bool(tokens)
        assert self.cancelled or self.unit is None or self.used <= self.granted

    def check(self, texts: dict[tuple[int, int], str]) -> None:
        assert self.read.completed
        ids = ids_of(self.start, self.count)
        if self.read.reason == fg.FINISH_REASON_LENGTH:
            assert self.read.ids() == ids
            assert self.read.text() == texts[self.start, self.count]
        else:
            assert self.cancelled
            assert self.read.reason == fg.FINISH_REASON_CANCELLED
            assert self.read.ids() == ids[: len(self.read.ids())]
            whole = self.read.text().rstrip("\N{REPLACEMENT CHARACTER}")
            assert texts[self.start, max(COUNTS)].startswith(whole)


class Client:
    """Reads one session while `reads` is set."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.asked: dict[int, Asked] = {}
        self.reads = asyncio.Event()
        self.reads.set()

    async def open(self, asked: dict[int, Asked]) -> None:
        self.asked = asked
        opens = [each.opening(number) for number, each in asked.items()]
        await self.call.write(fg.SessionRequest(opens=opens))

    async def read(self) -> None:
        """Reads until all that was opened is over."""
        while not all(each.read.over for each in self.asked.values()):
            await self.reads.wait()
            message = await self.call.read()
            assert message is not grpc.aio.EOF
            for event in message.events:
                self.asked[event.id].take(event)

    @property
    def live(self) -> list[int]:
        return [number for number, each in self.asked.items() if not each.read.over]


class Here:
    """A frontend, its workers' engines, and the client of one session."""

    def __init__(self, frontend: FrontendHere, engines: list[Engine], client: Client) -> None:
        self.frontend = frontend
        self.engines = engines
        self.client = client
        self.chance = random.Random(SEED)

    @property
    def logs(self) -> list[SequenceLog]:
        return [log for each in self.frontend.generator._live for log in each.logs]

    @property
    def are_sure(self) -> bool:
        """No worker's death counts as a generation's doing."""
        return all(log.end or log.token_count >= SURE_TOKENS for log in self.logs)

    def step(self) -> None:
        for each in self.engines:
            each.step()

    async def texts(self) -> dict[tuple[int, int], str]:
        """Returns the text of each output, as a client gets it that needs no credit."""
        pairs = [(start, count) for start in range(STARTS) for count in COUNTS]
        await self.client.open({number: Asked(*pair, None) for number, pair in enumerate(pairs, 1)})
        reading = asyncio.create_task(self.client.read())
        await until(lambda: self.step() or reading.done())
        return {(each.start, each.count): each.read.text() for each in self.client.asked.values()}

    async def disturb(self) -> None:
        """Steps while some are cancelled, some get credit, at times the client reads nothing, and
        workers die; then until all is generated."""
        live, reads = self.frontend.generator._live, self.client.reads
        for step in range(STEPS):
            if step in DEATH_STEPS:
                await until(lambda: self.step() or self.are_sure)
                await self.engines.pop().worker.stop()
            self.step()
            if self.chance.random() < 0.2:
                reads.clear() if reads.is_set() else reads.set()
            command = self._command()
            if command.ByteSize():
                await self.client.call.write(command)
            await asyncio.sleep(0)
            logs = self.logs
            tokens = sum(each.token_count for each in logs)
            assert sum(each.bytes_held for each in logs) <= HELD_BYTES * tokens
        await until(lambda: self.step() or all(each.done for each in live))

    def _command(self) -> fg.SessionRequest:
        """Returns cancels of some, and credit for others."""
        chance, live, command = self.chance, self.client.live, fg.SessionRequest()
        for number in chance.sample(live, min(len(live), 40)):
            asked = self.client.asked[number]
            if chance.random() < 0.1:
                asked.cancelled = True
                command.cancels.add(id=number)
            elif asked.unit and chance.random() < 0.5:
                amount = chance.randrange(1, 10)
                asked.granted += amount
                command.credits.add(id=number, amount=amount)
        return command


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    chance = random.Random(SEED)
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(ScriptedWorker()) for _ in range(3)]
        for number, worker in enumerate(workers):
            worker.info.worker_name = f"worker-{number}"
            worker.info.contract_revision = 4
            worker.info.limits.running_sequences = worker.info.limits.waiting_requests = 5000
        started = frontend_of(
            *workers, generations_limit=2000, worker_answer_s=60, move_wait_s=WAIT_S
        )
        frontend = await stack.enter_async_context(started)
        for worker in workers:
            await frontend.wait_for(worker, LinkState.READY)
        engines = [Engine(worker, await worker.stream(), chance) for worker in workers]
        channel = grpc.aio.insecure_channel(frontend.server.address, SMALL_WINDOW)
        stub = generation_pb2_grpc.GenerationServiceStub(await stack.enter_async_context(channel))
        yield Here(frontend, engines, Client(stub.Session(timeout=WAIT_S)))


async def test_every_text_is_right_and_none_is_stuck(here):
    client, chance = here.client, here.chance
    units = (None, "credit_tokens", "credit_messages")
    texts = await here.texts()
    await client.open(
        {
            number: Asked(
                chance.randrange(STARTS),
                chance.choice(COUNTS),
                chance.choice(units),
                chance.randrange(8),
            )
            for number in range(1, GENERATIONS + 1)
        }
    )
    reading = asyncio.create_task(client.read())
    await until(lambda: sum(each.waiting for each in here.engines) == GENERATIONS)
    await here.disturb()
    stalled = [number for number in client.live if client.asked[number].unit]
    assert stalled
    for number in stalled:
        client.asked[number].granted += CREDIT_LIMIT
    lifted = [fg.Credit(id=number, amount=CREDIT_LIMIT) for number in stalled]
    await client.call.write(fg.SessionRequest(credits=lifted))
    client.reads.set()
    await reading
    for asked in client.asked.values():
        asked.check(texts)
    assert any(asked.read.reason == fg.FINISH_REASON_CANCELLED for asked in client.asked.values())
    assert any(len(asked.read.completed.attempts) > 1 for asked in client.asked.values())
    await client.call.done_writing()
    assert await client.call.read() is grpc.aio.EOF
    await until(lambda: not here.frontend.generator.admission.held)
