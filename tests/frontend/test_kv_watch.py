"""A worker's KV events reach the index; what can't be known is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from tokenwire.worker.v1 import worker_pb2 as pb
from tokenwire_frontend.core.routing.chain import Prefix
from tokenwire_frontend.core.routing.kv_index import KvIndex, WorkerBlocks
from tokenwire_frontend.workers import kv_watch
from tokenwire_frontend.workers.kv_watch import KvWatch

from tests.frontend.frontend_here import frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker
from tests.services.calls import generation

SIZE = 4
IDS = list(range(3 * SIZE))
HASHES = Prefix(IDS, SIZE, ("demo", "", "")).hashes


class Remote:
    """Sends what it is told to, one list of it for each watch; the last stays open."""

    def __init__(self, *watches: Sequence[Any]) -> None:
        self._watches = list(watches)
        self.idle = asyncio.Event()
        """The last is sent."""

    async def watch_kv_events(self, _interval_s: float) -> AsyncIterator[Any]:
        for each in self._watches.pop(0):
            if isinstance(each, grpc.StatusCode):
                raise grpc.aio.AioRpcError(each, grpc.aio.Metadata(), grpc.aio.Metadata())
            yield each
        if not self._watches:
            self.idle.set()
            await asyncio.Event().wait()


def stored(number: int, *, parent: int = 0, first: int = 0, blocks: int = 3, **more: Any) -> Any:
    names = range(71 + first, 71 + first + blocks)
    ids = IDS[first * SIZE : (first + blocks) * SIZE]
    told = pb.KvStored(parent_hash=parent, block_hashes=names, token_ids=ids, **more)
    return pb.WatchKvEventsResponse(number=number, stored=told)


def removed(number: int, *names: int) -> Any:
    return pb.WatchKvEventsResponse(number=number, removed=pb.KvRemoved(block_hashes=names))


async def watched(*watches: Sequence[Any]) -> WorkerBlocks:
    """Returns what is known once all of this has been sent."""
    blocks = KvIndex(2**20).worker("a", 100)
    remote = Remote(*watches)
    watch = asyncio.ensure_future(KvWatch("a", "demo", blocks).run(remote))  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        await remote.idle.wait()
    watch.cancel()
    with suppress(asyncio.CancelledError):
        await watch
    return blocks


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(kv_watch, "REOPEN_S", 0.0)


async def test_events_one_by_one_and_gathered_say_the_same():
    events = [stored(1), removed(2, 73), stored(3, parent=72, first=2, blocks=1), removed(4, 73)]
    gathered = stored(1)
    gathered.more.extend(events[1:])
    for sent in (events, [gathered]):
        assert (await watched(sent)).held(HASHES) == 2


async def test_blocks_of_a_salt_are_held_for_that_salt():
    blocks = await watched([stored(1, cache_salt="salt")])
    assert blocks.held(HASHES) == 0
    assert blocks.held(Prefix(IDS, SIZE, ("demo", "", "salt")).hashes) == 3


@pytest.mark.parametrize(
    "watches",
    [
        [[stored(1), pb.WatchKvEventsResponse(number=2, cleared=pb.KvCleared())]],
        [[stored(1), removed(3)]],  # one was missed
        [[stored(1), grpc.StatusCode.OUT_OF_RANGE], []],
        [[stored(1), grpc.StatusCode.UNAVAILABLE], []],
        [[stored(1), DecodeError("odd")], []],
        [[stored(1)], []],
    ],
    ids=["cleared", "gap", "too slow", "lost", "unreadable", "ended"],
)
async def test_what_can_not_be_known_is_forgotten(watches):
    assert (await watched(*watches)).held(HASHES) == 0


async def test_a_watch_that_is_opened_again_goes_on():
    blocks = await watched([stored(5), grpc.StatusCode.OUT_OF_RANGE], [stored(90), removed(91, 73)])
    assert blocks.held(HASHES) == 2


async def test_an_event_of_a_later_contract_is_passed_over():
    assert (await watched([stored(1), pb.WatchKvEventsResponse(number=2), removed(3, 73)])).held(
        HASHES
    ) == 2


async def test_a_worker_without_events_is_left_alone():
    remote = Remote([grpc.StatusCode.UNIMPLEMENTED])
    blocks = KvIndex(2**20).worker("a", 100)
    blocks.sent(HASHES)
    async with asyncio.timeout(10):
        await KvWatch("a", "demo", blocks).run(remote)  # type: ignore[arg-type]
    assert blocks.held(HASHES) == 3


class Teller(ScriptedWorker):
    """Tells that it holds IDS, to whoever watches."""

    def __init__(self) -> None:
        super().__init__()
        self.info.limits.kv_block_tokens, self.info.limits.kv_blocks = SIZE, 100
        self.info.capabilities.append(pb.CAPABILITY_KV_EVENTS)
        self.watches = 0
        self.overrides["WatchKvEvents"] = self._tell

    async def _tell(self, request: Any, context: Any) -> None:
        self.watches += 1
        await context.write(stored(1))
        await asyncio.Event().wait()


async def test_a_request_goes_where_the_events_say_its_prompt_is():
    async with (
        Teller() as teller,
        ScriptedWorker() as other,
        frontend_of(teller, other, routing="prefix") as frontend,
    ):
        await until(lambda: len(frontend.pool.router.index or ()) == 3)
        call = frontend.stream(generation([*IDS, 300]))
        placed = await (await teller.stream()).submit()
        assert list(placed.request.prompt_token_ids) == [*IDS, 300]
        call.cancel()


async def test_a_single_worker_is_not_watched():
    async with Teller() as teller, frontend_of(teller, routing="prefix") as frontend:
        async with ScriptedWorker() as other, frontend_of(teller, other, routing="prefix"):
            await until(lambda: teller.watches)  # by the frontend of two
        assert teller.watches == 1
        assert not len(frontend.pool.router.index or ())
