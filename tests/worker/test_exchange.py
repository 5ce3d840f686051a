"""Exchange between a scripted frontend and a scripted engine: races, faults, bad bytes."""

from __future__ import annotations

import itertools
import time

import grpc
import pytest
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_worker.edge import from_proto, outbox
from tokenwire_worker.engines.port import Finish, Output

from tests.services.calls import refusal_of_status
from tests.services.processes import WAIT_S
from tests.worker.calls import CANCELLED, LENGTH, request
from tests.worker.scripted_engine import PLACES
from tests.worker.worker_here import guided, running, until

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


async def test_acceptances_come_together_and_with_the_first_tokens(here, monkeypatch):
    monkeypatch.setattr(outbox, "ACCEPTANCE_S", WAIT_S)
    async with here.exchange() as exchange:
        for handle in (1, 2, 3):
            await exchange.submit(handle, request())
        await running(here, 3)
        await here.engine.columns((1, 0, [7]), (3, 0, [8]))
        message = await exchange.call.read()
        assert list(message.accepted) == [1, 2, 3]
        assert list(message.token_ids) == [7, 8]
        monkeypatch.undo()
        exchange.expect(4)
        await exchange.send(submit=pb.Submit(handle=4, request=request()))
        message = await exchange.call.read()
        assert list(message.accepted) == [4], "without a step it comes by itself"


async def test_a_handle_twice_in_one_message_ends_both(here):
    async with here.exchange() as exchange:
        exchange.expect(1)
        await exchange.send(submits=[pb.Submit(handle=1, request=request()) for _ in range(2)])
        failure = await exchange.failure(1)
    assert refusal_of_status(failure).reason == "DUPLICATE_HANDLE"


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


async def test_a_step_in_columns_reaches_each_stream_as_one_message_of_its_own(here, lines):
    async with here.exchange() as one, here.exchange() as two:
        await one.submit(1, request())
        await one.submit(2, request())
        await running(here, 2)
        await two.submit(1, request())
        await running(here, 3)
        await here.engine.columns((1, 0, [7]), (3, 0, [8]), (2, 0, [9, 10]))
        await here.engine.columns((1, 0, [-1]), (2, 0, [11]), (3, 0, [12]))
        assert refusal_of_status(await one.failure(1)).reason == "INTERNAL_FAULT"
        await here.engine.finish(2, 4)
        await here.engine.finish(3, 4)
        await one.read_until(lambda: one[2].over)
        await two.read_until(lambda: two[1].over)
        assert one[2].ids == {0: [9, 10, 11, 4]}
        assert two[1].ids == {0: [8, 12, 4]}


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


async def test_the_load_tells_the_step_time_and_the_wait_for_the_engine(here):
    call = here.service.WatchLoad(worker_pb2.WatchLoadRequest(min_interval={"nanos": 10_000_000}))
    first = await call.read()
    assert not first.HasField("step")
    assert first.HasField("queue")
    assert first.queue.ToNanoseconds() == 0
    async with here.exchange() as exchange:
        for handle in range(1, PLACES + 3):
            await exchange.submit(handle, request())
        while (load := await call.read()).waiting_requests < 2:
            pass
        assert not load.HasField("queue"), "none has ended yet"
        await here.engine.finish(here.engine.key, 4)
        while (load := await call.read()).waiting_requests != 1:
            pass
        assert load.step.ToNanoseconds() > 0
        alone = load.queue.ToNanoseconds()
        await exchange.submit(9, request())
        while (load := await call.read()).waiting_requests != 2:
            pass
        assert load.queue.ToNanoseconds() > alone > 0
    call.cancel()
