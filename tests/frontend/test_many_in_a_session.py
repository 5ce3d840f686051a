"""A thousand generations in one session, with cancels, stalls of credit and slow reads: every text
is right, none is stuck, and what waits is no more than the tokens."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import grpc
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import generation_pb2_grpc
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.generation.credit import CREDIT_LIMIT

from tests.frontend.frontend_here import FrontendHere, frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import SMALL_WINDOW, Streamed, generation
from tests.services.processes import WAIT_S

SEED = 20
GENERATIONS = 1000
STARTS = 5
COUNTS = (3, 20, 45)
"""Tokens of a generation; with STARTS, fifteen different outputs."""
HELD_BYTES = 16
"""Of a token in a log: its id, where its text ends, and its text."""


def ids_of(start: int, count: int) -> list[int]:
    return [300 + (start * 97 + place * 13) % 3000 for place in range(count)]


class Engine:
    """Gives each generation a few tokens a step; its prompt says which, `max_tokens` how many."""

    def __init__(self, stream: Stream, chance: random.Random) -> None:
        self._stream = stream
        self._chance = chance
        self._left: dict[int, list[int]] = {}

    def step(self) -> bool:
        """Returns whether there was anything to do."""
        stream = self._stream
        while stream._submits.qsize():
            submit = stream._submits.get_nowait()
            start = submit.request.prompt_token_ids[1]
            self._left[submit.handle] = ids_of(start, submit.request.stopping.max_tokens)
            stream.accept(submit.handle)
        while stream._cancels.qsize():
            handle = stream._cancels.get_nowait().handle
            if self._left.pop(handle, None) is not None:
                stream.end(handle, reason=pb.FINISH_REASON_CANCELLED)
                stream.complete(handle)
        runs = {}
        for handle, left in self._left.items():
            count = self._chance.randrange(6)
            if count:
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
        return bool(runs or over)


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


async def texts_of_all(client: Client, engine: Engine) -> dict[tuple[int, int], str]:
    """Returns the text of each output, as a client gets it that needs no credit."""
    pairs = [(start, count) for start in range(STARTS) for count in COUNTS]
    await client.open({number: Asked(*pair, None) for number, pair in enumerate(pairs, 1)})
    reading = asyncio.create_task(client.read())
    await until(lambda: not engine.step() and reading.done())
    return {(each.start, each.count): each.read.text() for each in client.asked.values()}


async def disturb(
    client: Client, engine: Engine, chance: random.Random, frontend: FrontendHere
) -> None:
    """Steps until nothing is left to generate; some are cancelled, some get credit, at times the
    client reads nothing."""
    while engine.step():
        if chance.random() < 0.2:
            client.reads.clear() if client.reads.is_set() else client.reads.set()
        command = fg.SessionRequest()
        live = client.live
        for number in chance.sample(live, min(len(live), 40)):
            asked = client.asked[number]
            if chance.random() < 0.1:
                asked.cancelled = True
                command.cancels.add(id=number)
            elif asked.unit and chance.random() < 0.5:
                amount = chance.randrange(1, 10)
                asked.granted += amount
                command.credits.add(id=number, amount=amount)
        if command.ByteSize():
            await client.call.write(command)
        logs = [log for each in frontend.generator._live for log in each.logs]
        assert sum(each.bytes_held for each in logs) <= HELD_BYTES * sum(
            each.token_count for each in logs
        )


async def test_every_text_is_right_and_none_is_stuck():
    chance = random.Random(SEED)
    units = (None, "credit_tokens", "credit_messages")
    async with ScriptedWorker() as worker:
        worker.info.limits.running_sequences = worker.info.limits.waiting_requests = 5000
        async with (
            frontend_of(worker, generations_limit=2000, worker_answer_s=60) as frontend,
            grpc.aio.insecure_channel(frontend.server.address, SMALL_WINDOW) as channel,
        ):
            await frontend.wait_for(worker, LinkState.READY)
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            client = Client(stub.Session(timeout=WAIT_S))
            engine = Engine(await worker.stream(), chance)
            texts = await texts_of_all(client, engine)
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
            await until(lambda: len(frontend.generator._live) == GENERATIONS)
            await disturb(client, engine, chance, frontend)
            stalled = [number for number in client.live if client.asked[number].unit]
            assert stalled
            for number in stalled:
                client.asked[number].granted += CREDIT_LIMIT
            lifted = [fg.Credit(id=number, amount=CREDIT_LIMIT) for number in stalled]
            await client.call.write(fg.SessionRequest(credits=lifted))
            client.reads.set()
            while not reading.done():
                engine.step()  # answers the last cancels
                await asyncio.wait([reading], timeout=0.01)
            await reading
            for asked in client.asked.values():
                asked.check(texts)
            assert any(asked.cancelled for asked in client.asked.values())
            await client.call.done_writing()
            assert await client.call.read() is grpc.aio.EOF
            await until(lambda: not frontend.generator.admission.held)
