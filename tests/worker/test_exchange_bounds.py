"""Bounds of Exchange: many commands, large messages, its age, and callers that do not read."""

from __future__ import annotations

import asyncio
import time
from typing import Self

import grpc
import pytest
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_service.connections import peers
from tokenwire_service.limits import CHOICE_OPTIONS, MESSAGE_COMMANDS
from tokenwire_worker.edge import outbox
from tokenwire_worker.engines.port import Alternative, Output, TokenLogprob

from tests.services.calls import refusal_of_status
from tests.worker.calls import request
from tests.worker.scripted_engine import EOS, ScriptedEngine
from tests.worker.worker_here import EOS_ENDS, running, until, worker_of


async def test_thousands_of_empty_submits_hold_nobody_up(here):
    lag = LoopLag()
    async with here.exchange() as exchange, lag:
        for handle in range(3):
            exchange.expect(handle)
        count = 5 * MESSAGE_COMMANDS
        exchange.take = lambda message: told.extend(message.failures)
        told: list[pb.Failure] = []
        for start in range(0, count, MESSAGE_COMMANDS):
            handles = range(start, start + MESSAGE_COMMANDS)
            await exchange.send(submits=[pb.Submit(handle=handle) for handle in handles])
        await exchange.read_until(lambda: len(told) == count)
    assert {refusal_of_status(each.status).fields[0] for each in told[:10]} == {"request"}
    assert lag.typical_s < 0.02


@pytest.mark.parametrize(
    "many",
    [
        {"submits": [pb.Submit()] * 2**20},
        {"submits": [pb.Submit(handle=handle) for handle in range(MESSAGE_COMMANDS + 1)]},
        {"cancels": [pb.Cancel()] * 2**20},
    ],
    ids=["a million submits", "one more than may be", "a million cancels"],
)
async def test_a_message_of_too_many_commands_ends_the_stream_by_name(here, many):
    async with here.exchange() as exchange:
        await exchange.submit(1, request())
        await running(here)
        await exchange.send(**many)
        assert await exchange.code() is grpc.StatusCode.INVALID_ARGUMENT
        [field] = many
        assert (await exchange.call.details()).startswith(f"{field}: has ")
    await until(lambda: not here.held.live)


class LoopLag:
    """Measures for how long the event loop is held; an asynchronous context manager."""

    def __init__(self) -> None:
        self._gaps: list[float] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _look(self) -> None:
        # CPU time of this thread: other processes on a busy machine are no part of it.
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            self._gaps.append(time.thread_time() - before)

    @property
    def worst_s(self) -> float:
        return max(self._gaps)

    @property
    def typical_s(self) -> float:
        """Of the turns that did anything, the 99th of a hundred."""
        ranked = sorted(self._gaps)
        return ranked[int(len(ranked) * 0.99)]


# --- an old connection ---------------------------------------------------------------------------


async def test_an_exchange_on_an_old_connection_is_asked_to_move_and_goes_on():
    async with worker_of(ScriptedEngine(), connection_age_s=1) as here:
        port = int(here.server.address.rpartition(":")[2])
        async with here.exchange() as exchange:
            await exchange.submit(1, request())
            await running(here)
            await exchange.read_until(lambda: any(each.move for each in exchange.messages))
            first = peers(port)
            # The connection takes no new calls by now, and carries what it has to its end.
            async with here.exchange() as other:
                await other.submit(2, request(1))
                await running(here, 2)
                assert len(peers(port) - first) == 1
                await here.engine.finish(2)
                await other.read_until(lambda: other[2].over)
            await here.engine.step(Output(1, 0, [9]))
            await here.engine.finish(1)
            await exchange.read_until(lambda: exchange[1].over)
            await exchange.call.done_writing()
            assert await exchange.code() is grpc.StatusCode.OK
    assert exchange[1].ids == {0: [9]}


# --- a caller that does not read -----------------------------------------------------------------


def logprobs(ids: list[int]) -> list[TokenLogprob]:
    others = tuple(Alternative(each, -2.0) for each in range(20))
    return [TokenLogprob(each, -1.0, others) for each in ids]


async def test_a_large_frame_goes_out_as_messages_of_less_than_a_mebibyte(here):
    ids = list(range(1000))
    async with here.exchange() as exchange:
        await exchange.submit(1, request(logprobs=True, top_logprobs=20))
        await running(here)
        for _ in range(8):
            # All of it in one turn of the event loop, and so in one frame.
            await here.engine.step(*(Output(1, 0, [each], None, logprobs([each])) for each in ids))
        await here.engine.finish(1)
        await exchange.read_until(lambda: exchange[1].over)
    assert exchange[1].ids == {0: ids * 8}
    assert [each.token_id for each in exchange[1].logprobs[0]] == ids * 8
    assert sum(message.ByteSize() for message in exchange.messages) > 2**20
    assert max(message.ByteSize() for message in exchange.messages) < 2**18


async def test_a_caller_that_does_not_read_is_given_up_and_its_work_cancelled(here, monkeypatch):
    monkeypatch.setattr(outbox, "UNREAD_S", 0.5)
    ids = list(range(1000))
    async with here.exchange() as exchange:
        await exchange.submit(1, request(max_tokens=4000, logprobs=True, top_logprobs=20))
        await running(here)
        outputs = [Output(1, 0, [each], None, logprobs([each])) for each in ids]
        for _ in range(30):  # more than gRPC itself takes for one that does not read
            await here.engine.step(*outputs)
            await asyncio.sleep(0.01)
        await until(lambda: not here.held.live)
        assert here.engine.cancels == [(1, None)]
        assert await exchange.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_what_waits_for_a_caller_that_does_not_read_has_a_bound(here, monkeypatch):
    monkeypatch.setattr(outbox, "MOST_UNREAD_BYTES", 2**20)
    monkeypatch.setattr(outbox, "LOOK_S", 0.01)
    async with here.exchange() as exchange:
        await exchange.submit(1, request(max_tokens=4000, logprobs=True, top_logprobs=20))
        await running(here)
        outputs = [Output(1, 0, [each], None, logprobs([each])) for each in range(1000)]
        while here.held.live:
            await here.engine.step(*outputs)
            await asyncio.sleep(0.01)
        assert await exchange.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_one_that_sends_and_does_not_read_is_not_read_any_further(here, monkeypatch):
    monkeypatch.setattr(outbox, "FULL_BYTES", 2**18)
    batch = pb.ExchangeRequest(submits=[pb.Submit(handle=each) for each in range(500)])
    sent = 0

    async def send(exchange):
        nonlocal sent
        while sent < 2000:
            async with asyncio.timeout(2.0):
                await exchange.send(batch)
            sent += 1

    async with here.exchange() as exchange:
        with pytest.raises(TimeoutError):
            await send(exchange)
        assert sent < 2000, "its writes wait"


async def test_a_refusal_costs_the_same_however_many_are_unread():
    engine = ScriptedEngine()
    async with worker_of(engine) as here:
        costs = []
        for unread in (10, 5_000):
            stream = _stream(here)
            for handle in range(unread):
                stream.failed(handle, refusal())
            runs = []
            for first in range(unread, unread + 300, 100):
                began_s = time.thread_time()
                for handle in range(first, first + 100):
                    assert not stream._is_live(handle)
                    stream.failed(handle, refusal())
                runs.append(time.thread_time() - began_s)
            costs.append(min(runs))  # without what else the process had to do, such as its garbage
        assert costs[1] < 20 * costs[0] + 0.003


def _stream(here):
    from tokenwire_worker.edge.exchange import ExchangeStream

    class Context:
        async def write(self, _message):
            await asyncio.Event().wait()

    return ExchangeStream(here.dispatcher, here.recorder, Context())


def refusal():
    from tokenwire_worker import errors

    return errors.queue_full("w", 1)


# --- large messages ------------------------------------------------------------------------------

MANY = 1_000_000

LARGE = {
    "prompt_token_ids": request(prompt_token_ids=[5] * MANY),
    "stopping.stop_token_ids": request(stopping={"stop_token_ids": [5] * MANY}),
    "guide.choice.options": request(
        guide=pb.Guide(choice=pb.Choice(options=["a"] * MANY)), stopping=EOS_ENDS
    ),
    "guide.regex": request(guide=pb.Guide(regex="(" * 4_000_000), stopping=EOS_ENDS),
    "lora_adapter": request(lora_adapter="x" * 4_000_000),
    "request_id": request(request_id="x" * 4_000_000),
}


@pytest.mark.parametrize("field", LARGE)
async def test_a_field_of_megabytes_is_refused_by_its_size(here, lines, field):
    async with here.exchange() as exchange:
        await exchange.submit(1, LARGE[field])
        failure = await exchange.failure(1)
    refusal = refusal_of_status(failure)
    assert refusal.fields == [f"request.{field}"]
    assert failure.ByteSize() < 4096
    assert all(len(str(line)) < 8192 for line in lines)


async def test_a_prompt_of_a_million_ids_is_taken_whole():
    engine = ScriptedEngine(context_tokens=2 * MANY, prompt_tokens=2 * MANY, vocabulary_size=MANY)
    ids = list(range(MANY))
    async with worker_of(engine) as here, here.exchange() as exchange:
        await exchange.submit(1, request(prompt_token_ids=ids))
        await running(here)
        assert list(engine.running[1].prompt) == ids
        ids[700_000] = MANY
        await exchange.submit(2, request(prompt_token_ids=ids))
        refusal = refusal_of_status(await exchange.failure(2))
        assert refusal.fields == ["request.prompt_token_ids[700000]"]


async def test_a_cancel_of_a_million_sequences_cancels_those_that_are_there(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, request(sequence_count=2))
        await running(here)
        await exchange.send(cancel=pb.Cancel(handle=1, sequences=[1] * MANY))
        await exchange.read_until(lambda: exchange[1].endings)
        assert set(exchange[1].endings) == {1}


async def test_options_up_to_the_bound_are_taken(here):
    options = [f"option {at}" for at in range(CHOICE_OPTIONS)]
    async with here.exchange() as exchange:
        await exchange.submit(
            1, request(guide=pb.Guide(choice=pb.Choice(options=options)), stopping=EOS_ENDS)
        )
        await until(lambda: here.engine.checks)
        here.engine.checks[0].set_result(None)
        await running(here)
        assert list(here.engine.running[1].guide.options) == options
        assert EOS in here.engine.running[1].stop_token_ids
