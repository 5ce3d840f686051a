"""Exchange between a scripted frontend and a scripted engine: races, faults, bounds, bad bytes."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Self

import grpc
import pytest
import structlog
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_worker.core.validation import CHOICE_OPTIONS
from tokenwire_worker.edge import from_proto, outbox
from tokenwire_worker.engines.port import Alternative, Busy, Finish, Output, Refused, TokenLogprob

from tests.services.calls import refusal_of_status
from tests.worker.calls import CANCELLED, LENGTH, TIME_BUDGET, request
from tests.worker.scripted_engine import EOS, ScriptedEngine
from tests.worker.worker_here import NOTHING, until, worker_of

EOS_ENDS = {"ignore_eos": False}


def guided(pattern: str = "a", **fields):
    return request(guide=pb.Guide(regex=pattern), stopping=EOS_ENDS, **fields)


@pytest.fixture
async def here():
    async with worker_of(ScriptedEngine()) as worker:
        yield worker
        await worker.quiet()


@pytest.fixture
def lines():
    """The log lines of the test."""
    with structlog.testing.capture_logs() as captured:
        yield captured


async def running(here, count: int = 1) -> None:
    """Waits until the engine has had so many generations."""
    await until(lambda: len(here.engine.running) >= count)


# --- several commands to a message ---------------------------------------------------------------


async def test_commands_count_in_the_contracts_order(here):
    async with here.exchange() as exchange:
        for handle in range(4):
            exchange.expect(handle)
        await exchange.send(
            submit=pb.Submit(handle=0, request=request()),
            submits=[pb.Submit(handle=handle, request=request()) for handle in (1, 2, 3)],
            cancels=[pb.Cancel(handle=handle) for handle in (0, 2)],
        )
        await exchange.read_until(lambda: exchange[0].over and exchange[2].over)
        assert exchange[0].reasons == exchange[2].reasons == [CANCELLED]
        await running(here, 4)
        for key in (2, 4):
            await here.engine.finish(key, 7)
        await exchange.read_until(lambda: exchange[1].over and exchange[3].over)
        assert exchange[1].ids == exchange[3].ids == {0: [7]}


async def test_a_handle_twice_in_one_message_ends_both(here):
    async with here.exchange() as exchange:
        exchange.expect(1)
        await exchange.send(submits=[pb.Submit(handle=1, request=request()) for _ in range(2)])
        failure = await exchange.failure(1)
    assert refusal_of_status(failure).reason == "DUPLICATE_HANDLE"


async def test_thousands_of_empty_submits_hold_nobody_up(here):
    lag = LoopLag()
    async with here.exchange() as exchange, lag:
        for handle in range(3):
            exchange.expect(handle)
        count = 20_000
        exchange.take = lambda message: told.extend(message.failures)
        told: list[pb.Failure] = []
        await exchange.send(submits=[pb.Submit(handle=handle) for handle in range(count)])
        await exchange.read_until(lambda: len(told) == count)
    assert {refusal_of_status(each.status).fields[0] for each in told[:10]} == {"request"}
    assert lag.typical_s < 0.02


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


# --- guided generations: nobody waits for nothing ------------------------------------------------


async def test_a_cancel_ends_a_generation_whose_guide_is_being_tried(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided())
        await until(lambda: here.engine.checks)
        await exchange.cancel(1)
        await exchange.read_until(lambda: exchange[1].over)
        assert exchange[1].reasons == [CANCELLED]
        assert here.engine.checks[0].cancelled(), "nothing is tried for nobody"
        assert not here.engine.running


async def test_sequences_cancelled_while_the_guide_is_tried_stay_cancelled(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided(sequence_count=3))
        await until(lambda: here.engine.checks)
        for _ in range(1000):
            await exchange.cancel(1, 2, 0, 77)
        await exchange.submit(2, guided())
        await until(lambda: len(here.engine.checks) == 2)
        here.engine.checks[0].set_result(None)
        await exchange.read_until(lambda: len(exchange[1].endings) == 2)
        assert set(exchange[1].endings) == {0, 2}
        await exchange.cancel(2)
        await exchange.read_until(lambda: exchange[2].over)


async def test_cancelling_each_sequence_alone_while_tried_cancels_it(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided(sequence_count=2))
        await exchange.cancel(1, 0)
        await exchange.cancel(1, 1)
        await exchange.read_until(lambda: exchange[1].over)
        assert exchange[1].reasons == [CANCELLED, CANCELLED]


async def test_a_budget_ends_a_generation_whose_guide_is_being_tried(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided(time_budget=0.05))
        await exchange.read_until(lambda: exchange[1].over)
        assert exchange[1].reasons == [TIME_BUDGET]
        assert here.engine.checks[0].cancelled()


async def test_hanging_up_stops_a_trial(here):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided())
        await until(lambda: here.engine.checks)
    await until(here.engine.checks[0].cancelled)


@pytest.mark.parametrize(
    ("raised", "arguments", "code", "reason"),
    [
        (Refused, ("guide.regex", "unclosed"), "INVALID_ARGUMENT", "INVALID_FIELD"),
        (Busy, ("GUIDE_QUEUE_FULL", "busy", 1.0), "RESOURCE_EXHAUSTED", "GUIDE_QUEUE_FULL"),
        (RuntimeError, ("boom",), "INTERNAL", "INTERNAL_FAULT"),
        (TimeoutError, (), "INTERNAL", "INTERNAL_FAULT"),
        (asyncio.CancelledError, (), "INTERNAL", "INTERNAL_FAULT"),
    ],
    ids=["refused", "busy", "fault", "timeout", "cancelled"],
)
async def test_what_a_trial_raises_ends_that_generation_and_no_other(
    here, lines, raised, arguments, code, reason
):
    async with here.exchange() as exchange:
        await exchange.submit(1, guided())
        await exchange.submit(2, request())
        await until(lambda: here.engine.checks)
        here.engine.checks[0].set_exception(raised(*arguments))
        refusal = refusal_of_status(await exchange.failure(1))
        assert (refusal.code.name, refusal.reason) == (code, reason)
        if code == "INTERNAL":
            (line,) = [line for line in lines if line["event"] == "generation_fault"]
            assert line["trace_id"] in refusal.message
        await here.engine.finish(here.engine.key, 7)
        await exchange.read_until(lambda: exchange[2].over)
        assert exchange[2].ids == {0: [7]}


@pytest.mark.parametrize("how", ["drain", "death"])
async def test_a_trial_that_outlasts_the_worker_is_told_so(lines, how):
    engine = ScriptedEngine()
    async with worker_of(engine) as here, here.exchange() as exchange:
        await exchange.submit(1, guided())
        await until(lambda: engine.checks)
        if how == "drain":
            await here.dispatcher.drain(0.01)
        else:
            await engine.die()
        refusal = refusal_of_status(await exchange.failure(1))
        assert refusal.reason == {"drain": "DRAINING", "death": "ENGINE_DIED"}[how]
        assert await exchange.code() is grpc.StatusCode.OK
        assert here.held == NOTHING


# --- one generation's fault is its own -----------------------------------------------------------


async def test_an_exception_on_reading_a_submit_ends_that_generation(here, lines, monkeypatch):
    def odd(_message):
        raise KeyError("a form that nobody has foreseen")

    async with here.exchange() as exchange:
        with monkeypatch.context() as patched:
            patched.setattr(from_proto, "_sampling", odd)
            await exchange.submit(1, request())
            refusal = refusal_of_status(await exchange.failure(1))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL_FAULT")
        (line,) = [line for line in lines if line["event"] == "generation_fault"]
        assert line["trace_id"] in refusal.message
        await exchange.submit(1, request())
        await running(here)
        await here.engine.finish(1, 7)
        await exchange.read_until(lambda: exchange[1].over)
        assert exchange[1].ids == {0: [7]}


@pytest.mark.parametrize("odd", [[-1], [2**32], ["x"], [None]])
async def test_ids_that_no_message_can_hold_fail_that_generation(here, lines, odd):
    async with here.exchange() as exchange:
        await exchange.submit(1, request())
        await exchange.submit(2, request())
        await running(here, 2)
        await here.engine.step(Output(1, 0, odd), Output(2, 0, [7]))
        refusal = refusal_of_status(await exchange.failure(1))
        assert refusal.reason == "INTERNAL_FAULT"
        await here.engine.finish(2, 8)
        await exchange.read_until(lambda: exchange[2].over)
        assert exchange[2].ids == {0: [7, 8]}


async def test_ids_that_no_message_can_hold_fail_it_though_it_has_ended(here, lines):
    async with here.exchange() as exchange:
        await exchange.submit(1, request())
        await running(here)
        await here.engine.finish(1, -1)
        refusal = refusal_of_status(await exchange.failure(1))
        assert refusal.reason == "INTERNAL_FAULT"


async def test_execute_tells_of_a_fault_too(here, lines):
    call = here.execution.Execute(pb.ExecuteRequest(request=request()))
    await running(here)
    await here.engine.tokens(1, -1)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in call:
            pass
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert here.engine.cancels == [(1, None)]


# --- bytes that are no command -------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("bad", [b"\xb0\x4d\x9b", b"\x0a\xff", b"\xff" * 20])
async def test_malformed_bytes_end_the_stream_by_name_and_free_what_it_held(here, busy, bad):
    async with here.exchange() as exchange:
        if busy:
            await exchange.submit(1, request())
            await exchange.submit(2, guided())
            await running(here)
            await until(lambda: here.engine.checks)
        await exchange.send(bad)
        began_s = time.monotonic()
        assert await exchange.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert time.monotonic() - began_s < 5.0
    await until(lambda: here.held.live == 0)


async def test_fields_of_a_later_contract_are_passed_over(here):
    unknown = (
        b"\xfa\x01\x03abc"
        + pb.ExchangeRequest(submit=pb.Submit(handle=3, request=request())).SerializeToString()
    )
    async with here.exchange() as exchange:
        exchange.expect(3)
        await exchange.send(unknown)
        await running(here)
        await here.engine.finish(1, 7)
        await exchange.read_until(lambda: exchange[3].over)
        assert exchange[3].reasons == [LENGTH]


# --- a caller that hangs up, in any order --------------------------------------------------------

COMMANDS = ("submit", "cancel", "again", "finish", "guided")


@pytest.mark.parametrize("first", COMMANDS)
async def test_hanging_up_after_any_order_of_commands_leaves_nothing(here, lines, first):
    for rest in itertools.permutations([each for each in COMMANDS if each != first], 2):
        exchange = here.exchange()
        for what in (first, *rest):
            if what == "finish":
                for key in list(here.engine.running):
                    await here.engine.finish(key, 7)
                continue
            submit = pb.Submit(handle=1, request=guided() if what == "guided" else request())
            if what == "cancel":
                await exchange.send(cancel=pb.Cancel(handle=1))
            else:
                await exchange.send(submits=[submit] * (2 if what == "again" else 1))
        exchange.call.cancel()
        await until(lambda: here.held.live == 0)
        await here.quiet()
    assert [line for line in lines if line["log_level"] == "error"] == []


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
            began_s = time.thread_time()
            for handle in range(unread, unread + 300):
                assert not stream._is_live(handle)
                stream.failed(handle, refusal())
            costs.append(time.thread_time() - began_s)
        assert costs[1] < 20 * costs[0] + 0.01


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


# --- the heartbeat -------------------------------------------------------------------------------


async def test_the_load_of_an_idle_worker_is_told_once_a_second(here):
    call = here.service.WatchLoad(worker_pb2.WatchLoadRequest())
    assert not (await call.read()).running_sequences
    began_s = time.monotonic()
    for _ in range(2):
        assert await call.read() is not grpc.aio.EOF
    assert time.monotonic() - began_s < 10.0, "about 1.8 s on an idle machine"
    call.cancel()
    await until(lambda: here.held.watchers == 0)


async def test_a_change_is_told_at_once_within_the_interval(here):
    call = here.service.WatchLoad(worker_pb2.WatchLoadRequest(min_interval={"nanos": 10_000_000}))
    await call.read()
    async with here.exchange() as exchange:
        await exchange.submit(1, request())
        while not (load := await call.read()).running_sequences:
            pass
        assert load.running_sequences == 1
        await here.engine.finish(1, 4, how=Finish.STOP)
        while (await call.read()).running_sequences:
            pass
    call.cancel()
