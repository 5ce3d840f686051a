"""WatchKvEvents over real gRPC, of an engine that computes nothing and only publishes."""

import asyncio
import threading

import grpc
import pytest
from tokenwire.worker.v1 import worker_pb2 as pb
from tokenwire.worker.v1 import worker_pb2_grpc
from tokenwire_service.server import RpcServer, Service
from tokenwire_service.settings import TlsSettings
from tokenwire_service.tasks import Supervisor
from tokenwire_worker.core.kv_events import KvEventLog, NumberGoneError
from tokenwire_worker.dispatcher import Dispatcher
from tokenwire_worker.edge.worker_servicer import Identity, WorkerServicer
from tokenwire_worker.engines.port import (
    Ability,
    EngineInfo,
    EngineLoad,
    KvCleared,
    KvRemoved,
    KvStored,
)
from tokenwire_worker.generation_record import Recorder
from tokenwire_worker.kv_event_feed import KvEventFeed
from tokenwire_worker.metrics import WorkerMetrics
from tokenwire_worker.model_files import TextFiles

BIG = 2**64 - 1


def info(*abilities):
    return EngineInfo("still", "0", 64, 64, 100, (), 4, 2, 8, frozenset(abilities))


class StillEngine:
    """Publishes what a test has it publish, on a thread of its own as real engines do."""

    def __init__(self, *abilities):
        self.info = info(*abilities)

    def start(self, listener):
        self._listener = listener

    def publish(self, *events):
        thread = threading.Thread(target=self._listener.on_kv_events, args=(events,))
        thread.start()
        thread.join()

    def die(self):
        self._listener.on_death("out of memory")

    def load(self):
        return EngineLoad(0, 0.0)

    def progress(self):
        return 0

    def close(self):
        pass


class Worker:
    def __init__(self, engine, log=None):
        recorder = Recorder("w", "m", engine.info, WorkerMetrics("m"))
        self.dispatcher = Dispatcher(engine, recorder, 4)
        self.dispatcher.kv_events = KvEventFeed(log)
        servicer = WorkerServicer(Identity("w", "m"), self.dispatcher, TextFiles(()))
        add = worker_pb2_grpc.add_WorkerServiceServicer_to_server
        service = Service("tokenwire.worker.v1.WorkerService", add, servicer)
        self._server = RpcServer("127.0.0.1:0", TlsSettings(), [service])

    async def __aenter__(self):
        self._supervisor = Supervisor()
        self.dispatcher.start(self._supervisor)
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(self._server.address)
        self._stub = worker_pb2_grpc.WorkerServiceStub(self._channel)
        return self

    async def __aexit__(self, *_):
        await self._channel.close()
        await self._server.stop()
        await self.dispatcher.close()
        await self._supervisor.close()

    def watch(self, first_number=0, interval_s=None):
        request = pb.WatchKvEventsRequest(first_number=first_number)
        if interval_s is not None:
            request.interval.FromNanoseconds(round(interval_s * 1e9))
        return self._stub.WatchKvEvents(request)

    async def watching(self, engine):
        """Returns a watch from now on that has certainly begun."""
        call = self.watch(1)
        engine.publish(KvCleared())
        assert (await call.read()).number == 1
        return call


async def test_events_come_numbered_in_order_with_their_contents():
    engine = StillEngine(Ability.KV_EVENTS)
    async with Worker(engine) as worker:
        call = await worker.watching(engine)
        engine.publish(KvStored(0, [7, BIG], [1, 2, 3, 4]), KvStored(BIG, [9], [5, 6]))
        engine.publish(KvRemoved([9, 7]))
        engine.publish(KvCleared())
        stored, child, removed, cleared = [await call.read() for _ in range(4)]
    assert [each.number for each in (stored, child, removed, cleared)] == [2, 3, 4, 5]
    assert stored.stored.parent_hash == 0
    assert list(stored.stored.block_hashes) == [7, BIG]
    assert list(stored.stored.token_ids) == [1, 2, 3, 4]
    assert child.stored.parent_hash == BIG
    assert list(removed.removed.block_hashes) == [9, 7]
    assert cleared.WhichOneof("event") == "cleared"


async def test_events_are_gathered_where_an_interval_is_asked_for():
    engine = StillEngine(Ability.KV_EVENTS)
    async with Worker(engine) as worker:
        await worker.watching(engine)
        engine.publish(KvStored(0, [7], [1, 2], "pirate", "salt"), KvRemoved([7]))
        engine.publish(KvCleared())
        first, second, third = _flat(await worker.watch(2, interval_s=1.0).read())
    assert [first.number, second.number, third.number] == [2, 3, 4]
    assert (first.stored.lora_adapter, first.stored.cache_salt) == ("pirate", "salt")
    assert list(second.removed.block_hashes) == [7]
    assert third.WhichOneof("event") == "cleared"


async def test_gathered_events_stay_within_a_message():
    engine = StillEngine(Ability.KV_EVENTS)
    async with Worker(engine) as worker:
        await worker.watching(engine)
        ids = [2**28] * 30_000  # 5 bytes each
        engine.publish(*[KvStored(0, [number], ids) for number in range(1, 6)])
        call = worker.watch(2, interval_s=1.0)
        messages = [await call.read() for _ in range(3)]
    assert [[each.number for each in _flat(message)] for message in messages] == [
        [2, 3],
        [4, 5],
        [6],
    ]
    assert max(message.ByteSize() for message in messages) < 2**20


@pytest.mark.parametrize("interval_s", [-0.1, 1.1])
async def test_an_interval_beyond_its_bounds_is_refused_by_name(interval_s):
    async with Worker(StillEngine(Ability.KV_EVENTS)) as worker:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await worker.watch(interval_s=interval_s).read()
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "interval" in raised.value.details()


def _flat(message):
    return [message, *message.more]


async def test_a_broken_watch_resumes_at_the_next_number():
    engine = StillEngine(Ability.KV_EVENTS)
    async with Worker(engine) as worker:
        call = await worker.watching(engine)
        call.cancel()
        engine.publish(KvRemoved([1]), KvRemoved([2]))
        again = worker.watch(3)
        assert list((await again.read()).removed.block_hashes) == [2]
        engine.publish(KvRemoved([3]))
        assert (await again.read()).number == 4


@pytest.mark.parametrize("first_number", [1, 2, 9])
async def test_a_number_that_is_not_kept_is_out_of_range(first_number):
    engine = StillEngine(Ability.KV_EVENTS)
    async with Worker(engine, KvEventLog(kept_events=2)) as worker:
        await worker.watching(engine)
        engine.publish(KvRemoved([1]), KvRemoved([2]), KvRemoved([3]))  # 3 and 4 are kept
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await worker.watch(first_number).read()
    assert raised.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert f"event {first_number} is not kept: events 3 to 4 are" in raised.value.details()


async def test_an_engine_without_events_is_said_to_have_none():
    async with Worker(StillEngine()) as worker:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await worker.watch().read()
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "still" in raised.value.details()


@pytest.mark.parametrize("end", ["drain", "death"])
async def test_watches_end_with_the_worker(end):
    engine = StillEngine(Ability.KV_EVENTS)
    async with Worker(engine) as worker:
        call = await worker.watching(engine)
        if end == "drain":
            await worker.dispatcher.drain(0)
        else:
            engine.die()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


def test_what_is_kept_is_bounded_by_contents_too():
    log = KvEventLog(kept_events=100, kept_words=10)
    for number in range(4):
        log.append([KvStored(0, [number], [1, 2, 3])])
    assert (log.oldest, log.next_number) == (3, 5)
    with pytest.raises(NumberGoneError):
        log.get(2)
    log.append([KvStored(0, [9], list(range(50)))])  # larger than the bound: stays until the next
    assert (log.oldest, log.next_number) == (5, 6)
    assert log.get(6) is None


async def test_a_watch_that_is_too_slow_starts_over_and_one_that_keeps_up_misses_nothing():
    feed = KvEventFeed(KvEventLog(kept_events=3))
    fast, slow = feed.watch(1), feed.watch(1)
    feed.publish([KvCleared()])
    assert (await anext(fast))[0] == (await anext(slow))[0] == 1
    for number in range(2, 7):
        feed.publish([KvRemoved([number])])
        assert (await anext(fast))[0] == number
    with pytest.raises(NumberGoneError) as gone:
        await anext(slow)
    assert (gone.value.number, gone.value.oldest, gone.value.next_number) == (2, 4, 7)
    waiting = asyncio.ensure_future(anext(fast, None))
    feed.end()
    assert await waiting is None


async def test_a_large_event_is_divided_into_parts_of_a_chain():
    engine = StillEngine(Ability.KV_EVENTS)
    blocks, tokens = 60_000, 4
    hashes = [BIG - at for at in range(blocks)]
    async with Worker(engine) as worker:
        call = await worker.watching(engine)
        engine.publish(KvStored(7, hashes, list(range(blocks * tokens))), KvRemoved(hashes * 2))
        parent, stored, ids, removed = 7, [], [], []
        while len(removed) < 2 * blocks:
            message = await call.read()
            assert message.ByteSize() < 2**20
            if message.HasField("stored"):
                assert message.stored.parent_hash == parent
                stored += message.stored.block_hashes
                ids += message.stored.token_ids
                parent = stored[-1]
            else:
                removed += message.removed.block_hashes
    assert stored == hashes
    assert ids == list(range(blocks * tokens))
    assert removed == hashes * 2
