"""What is kept of generations that outlive their calls: one for a key, for as long as was granted,
within its bound."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tokenwire_frontend.core.activity import Activity
from tokenwire_frontend.core.caller import ANYONE, scoped
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.request import GenerationRequest, Stopping, TextPrompt
from tokenwire_frontend.core.tenants import Tenants
from tokenwire_frontend.generation.admission import Admission
from tokenwire_frontend.generation.conversation import Conversations
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.incoming import Incoming, Terms
from tokenwire_frontend.generation.keeper import Elsewhere, KeepLimits
from tokenwire_frontend.generation.kept import OBJECT_BYTES, RECONNECT_S, RUNNING_BYTES
from tokenwire_frontend.generation.queues import QueueLimits, Queues
from tokenwire_frontend.generation.reader import Reader
from tokenwire_frontend.generation.record import Recorder
from tokenwire_frontend.metrics import ConversationMetrics, FrontendMetrics
from tokenwire_service.errors import ServiceError

from tests.frontend.generations import Pool, Tokenizers

REQUEST = GenerationRequest(TextPrompt("Hello"), stopping=Stopping(max_tokens=1000))
DETACHED = Terms(detaches=True)
KEYED = Terms(key="order-7", digest=b"body")

ONE_RUNS = OBJECT_BYTES + RUNNING_BYTES


class Clock:
    """The event loop's time, which a test alone moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._now_s = loop.time()
        monkeypatch.setattr(loop, "time", lambda: self._now_s)

    async def pass_by(self, seconds: float) -> None:
        self._now_s += seconds
        await turn()


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def turn() -> None:
    """Lets everything happen that can."""
    for _ in range(12):
        await asyncio.sleep(0)


class Client:
    """One call: it opens a generation or attaches to one, and reads it until it leaves."""

    def __init__(self, opening: Callable[[Reader], Any]) -> None:
        self.news = asyncio.Event()
        self.reader = Reader(self.news.set)
        self.ids: list[int] = []
        self.ends: list[Finish] = []
        self.outcome: Any = None
        self.resume: Any = None
        self.task = asyncio.create_task(self._read(opening))

    async def _read(self, opening: Callable[[Reader], Any]) -> None:
        try:
            async with opening(self.reader) as generation:
                self.resume = generation.resume
                self.reader.begin()
                while self.outcome is None:
                    await self.news.wait()
                    self.news.clear()
                    news = self.reader.take(64 * 1024)
                    for delta in news.deltas:
                        self.ids.extend(delta.token_ids)
                        self.ends += [] if delta.end is None else [delta.end.finish]
                    self.outcome = news.failure or news.completion
        except (ServiceError, Elsewhere) as error:
            self.outcome = error

    async def leave(self) -> None:
        self.task.cancel()
        await turn()

    @property
    def refusal(self) -> tuple[str, str]:
        assert isinstance(self.outcome, ServiceError), self.outcome
        return self.outcome.code.name, self.outcome.reason


class House:
    """A generator whose worker says what a test says."""

    def __init__(self, **limits: Any) -> None:
        self.pool, tokenizers = Pool(), Tokenizers()
        tokenizers.gate.set()
        self.admission = Admission(100, Queues(self.pool, QueueLimits()), Tenants())
        metrics = FrontendMetrics()
        self.generator = Generator(
            self.pool,  # type: ignore[arg-type]
            tokenizers,  # type: ignore[arg-type]
            Recorder(metrics, Activity(16), content=False),
            self.admission,
            Conversations(0, 1.0, ConversationMetrics()),
            0.0,
            KeepLimits(**limits),
        )
        self.keeper = self.generator.keeper
        self.worker = self.pool.links[0]

    async def open(self, terms: Terms, request: GenerationRequest = REQUEST) -> Client:
        incoming = Incoming(reads=lambda: request, path="generation", keeps=lambda: terms)
        client = Client(lambda reader: self.generator.open(incoming, reader))
        await turn()
        return client

    async def begun(self, terms: Terms) -> Client:
        """Opens a generation that the worker takes."""
        asked = len(self.worker.every)
        client = await self.open(terms)
        while len(self.worker.every) == asked:
            assert not client.task.done(), client.outcome
            await turn()
        self.worker.accept()
        await turn()
        return client

    async def attach(self, token: str, *offsets: int) -> Client:
        def opening(reader: Reader) -> Any:
            reader.offsets = offsets
            return self.keeper.attach(token, ANYONE, reader, "token_offsets")

        client = Client(opening)
        await turn()
        return client

    async def ended(self, terms: Terms, tokens: int = 2) -> str:
        """Returns the token of a generation that has ended and that nobody reads."""
        client = await self.begun(terms)
        self.worker.tokens(*([300] * tokens))
        self.worker.complete()
        await turn()
        assert client.task.done()
        return client.resume.token


# --- for how long --------------------------------------------------------------------------------


async def test_a_running_one_without_a_reader_ends_with_its_time(clock):
    house = House()
    client = await house.begun(replace(DETACHED, ttl_s=30.0))
    assert client.resume.ttl_s == 30.0
    await clock.pass_by(100)  # it has a reader
    await client.leave()
    await clock.pass_by(29)
    second = await house.attach(client.resume.token)
    await second.leave()
    await clock.pass_by(29)
    assert not house.worker.cancels
    assert house.admission.held == 1
    await clock.pass_by(2)
    assert house.worker.cancels == [(1, None)]
    assert (await house.attach(client.resume.token)).refusal == ("NOT_FOUND", "EXPIRED")
    assert (len(house.keeper), house.keeper.held_bytes) == (0, 0)
    assert house.admission.held == 1, "the worker has it still"
    house.worker.complete()
    await turn()
    assert house.admission.held == 0


async def test_an_ended_one_holds_no_place_and_is_there_until_its_time(clock):
    house = House(ttl_s=40.0)
    token = await house.ended(replace(DETACHED, ttl_s=1000.0))
    assert house.admission.held == 0
    await clock.pass_by(39)
    reader = await house.attach(token, 1)
    assert (reader.ids, reader.ends) == ([300], [Finish.LENGTH])
    await clock.pass_by(39)
    assert (await house.attach(token)).ids == [300, 300]
    await clock.pass_by(41)
    assert (await house.attach(token)).refusal == ("NOT_FOUND", "EXPIRED")
    assert (await house.attach("another")).refusal == ("NOT_FOUND", "UNKNOWN_GENERATION")


async def test_one_that_is_still_starting_when_its_time_is_over_is_not_accepted(clock):
    house = House()
    client = await house.open(DETACHED)
    await client.leave()
    await clock.pass_by(61)
    house.worker.accept()
    await turn()
    assert house.worker.cancels
    assert len(house.keeper) == 0


async def test_a_key_alone_keeps_a_running_one_for_a_client_that_comes_back_soon(clock):
    house = House()
    client = await house.begun(KEYED)
    await client.leave()
    await clock.pass_by(RECONNECT_S - 1)
    again = await house.open(KEYED)
    assert again.reader.attached
    house.worker.tokens(300, 301)
    await again.leave()
    await clock.pass_by(RECONNECT_S + 1)
    assert house.worker.cancels == [(1, None)]
    # The key is free: nobody was told of an end.
    anew = await house.open(KEYED)
    assert not anew.reader.attached
    assert len(house.worker.every) == 2


async def test_a_drain_waits_for_a_detached_one_and_fails_it_at_last():
    house = House()
    client = await house.begun(DETACHED)
    await client.leave()
    await house.generator.drain(0.0)
    assert (await house.attach(client.resume.token)).refusal == ("UNAVAILABLE", "DRAINING")
    await house.keeper.close()


# --- one for a key -------------------------------------------------------------------------------


async def test_equal_requests_that_race_run_once_and_read_the_same():
    house = House()
    clients = [await house.open(KEYED) for _ in range(5)]
    house.worker.accept()
    house.worker.tokens(300, 301)
    house.worker.complete()
    await turn()
    assert len(house.worker.every) == 1
    assert [each.ids for each in clients] == [[300, 301]] * 5
    assert [each.reader.attached for each in clients] == [False] + [True] * 4
    late = await house.open(KEYED)
    assert (late.ids, late.reader.attached) == ([300, 301], True)


async def test_a_repeat_goes_on_after_the_output_that_it_brings():
    house = House()
    await house.ended(KEYED)
    again = await house.open(replace(KEYED, so_far=[([300], False)]))
    assert (again.ids, again.ends) == ([300], [Finish.LENGTH])
    told = await house.open(replace(KEYED, so_far=[([300, 300], True)]))
    assert (told.ids, told.ends, told.task.done()) == ([], [], True)
    for wrong in ([301], [300] * 3):
        other = await house.open(replace(KEYED, so_far=[(wrong, False)]))
        assert other.refusal == ("ALREADY_EXISTS", "IDEMPOTENCY_CONFLICT")


async def test_another_request_of_the_key_is_refused():
    house = House()
    await house.begun(KEYED)
    other = await house.open(replace(KEYED, digest=b"another"))
    assert other.refusal == ("ALREADY_EXISTS", "IDEMPOTENCY_CONFLICT")
    await house.open(replace(KEYED, key="order-8", digest=b"another"))
    assert len(house.worker.every) == 2


async def test_the_key_of_what_was_refused_or_failed_is_free_again():
    house = House()
    refused = [await house.open(KEYED) for _ in range(2)]
    for link in house.pool.links:
        link.refuse()
        await turn()
    assert [each.refusal for each in refused] == [("RESOURCE_EXHAUSTED", "QUEUE_FULL")] * 2
    failed = await house.begun(KEYED)
    house.worker.die()
    await turn()
    assert failed.refusal[0] == "UNAVAILABLE"
    again = await house.open(KEYED)
    assert not again.reader.attached
    # Whoever has the token hears what became of it.
    assert (await house.attach(failed.resume.token)).refusal == failed.refusal


class Claims:
    """Another process has the keys of `theirs`; all are of callers without a tenant."""

    def __init__(self, **theirs: str) -> None:
        self.theirs = {scoped("", key): address for key, address in theirs.items()}
        self.ours: set[str] = set()

    async def claim(self, key: str) -> str | None:
        await asyncio.sleep(0)
        if key not in self.theirs:
            self.ours.add(key)
        return self.theirs.get(key)

    def release(self, key: str) -> None:
        self.ours.discard(key)


async def test_the_generation_of_a_key_may_be_another_process_s(clock):
    house = House()
    claims = house.keeper.claims = Claims(theirs="127.0.0.1:9")
    away = [await house.open(replace(KEYED, key="theirs")) for _ in range(2)]
    assert {each.outcome.address for each in away} == {"127.0.0.1:9"}
    assert not house.worker.every
    await house.ended(replace(KEYED, key="ours", ttl_s=5.0))
    assert claims.ours == {scoped("", "ours")}
    await clock.pass_by(6)
    assert claims.ours == set()


# --- how much ------------------------------------------------------------------------------------


async def test_what_ended_first_makes_room_and_what_is_read_stays():
    house = House(bytes=2 * ONE_RUNS)
    tokens = [await house.ended(DETACHED, 1000) for _ in range(2)]
    read = await house.attach(tokens[0])
    assert read.task.done()
    before = house.keeper.held_bytes
    newest = await house.begun(DETACHED)
    assert house.keeper.held_bytes <= 2 * ONE_RUNS < before + ONE_RUNS + 2**16
    await house.begun(DETACHED)
    assert (await house.attach(tokens[0])).refusal == ("NOT_FOUND", "EVICTED")
    assert (await house.attach(tokens[1])).refusal == ("NOT_FOUND", "EVICTED")
    refused = await house.open(DETACHED)
    assert refused.refusal == ("RESOURCE_EXHAUSTED", "RETENTION_FULL")
    assert refused.outcome.quota.subject == "frontend/retained_bytes"
    assert not newest.task.done()
    assert len(house.keeper) == 2


async def test_one_that_outgrows_the_bound_fails_and_says_so():
    house = House(bytes=ONE_RUNS + 100_000)
    client = await house.begun(DETACHED)
    most = 0
    for _ in range(60):
        house.worker.tokens(*([300] * 256))
        most = max(most, house.keeper.held_bytes)
        await turn()
    assert client.refusal == ("RESOURCE_EXHAUSTED", "RETENTION_FULL")
    assert house.worker.cancels == [(1, None)]
    assert most > 100_000
    assert house.keeper.held_bytes <= ONE_RUNS + 100_000
    assert len(client.ids) * 9 < ONE_RUNS + 100_000
