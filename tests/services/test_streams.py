"""How streams end: malformed bytes, faults and stops, whatever is being written at the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2, tokenization_pb2
from tokenwire.worker.v1 import execution_pb2
from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.rpc_boundary import RpcBoundary

from tests.services.calls import endless, refusal_of
from tests.services.processes import WAIT_S

MALFORMED = bytes.fromhex("b04d9b")
"""A field number and half of its value."""

SOON_S = 5.0
"""Well over the second in which such a call ends, for a machine that is busy; what never ends takes
WAIT_S."""

GENERATION = "/tokenwire.frontend.v1.GenerationService"
TOKENIZATION = "/tokenwire.frontend.v1.TokenizationService"
EXECUTION = "/tokenwire.worker.v1.ExecutionService"

OPEN = generation_pb2.SessionRequest(open={"id": 1, "generation": endless()})
REFUSED_OPEN = generation_pb2.SessionRequest(open={"id": 1})
SUBMIT = execution_pb2.ExchangeRequest(
    submit={"handle": 1, "request": {"prompt_token_ids": [5], "stopping": {"max_tokens": 3000}}}
)
REFUSED_SUBMIT = execution_pb2.ExchangeRequest(submit={"handle": 1})
TEXT = tokenization_pb2.StreamTokenizeRequest(text="Once upon a time")
LONG_TEXT = tokenization_pb2.StreamTokenizeRequest(text="Once upon a time " * 20_000)
IDS = tokenization_pb2.StreamDetokenizeRequest(token_ids=[300, 301])

STREAMS = [
    (f"{EXECUTION}/Exchange", []),
    (f"{EXECUTION}/Exchange", [REFUSED_SUBMIT]),
    (f"{EXECUTION}/Exchange", [SUBMIT, REFUSED_SUBMIT]),
    (f"{GENERATION}/Session", []),
    (f"{GENERATION}/Session", [REFUSED_OPEN]),
    (f"{GENERATION}/Session", [OPEN, REFUSED_OPEN]),
    (f"{TOKENIZATION}/StreamTokenize", []),
    (f"{TOKENIZATION}/StreamTokenize", [TEXT, TEXT]),
    (f"{TOKENIZATION}/StreamTokenize", [LONG_TEXT]),
    (f"{TOKENIZATION}/StreamDetokenize", []),
    (f"{TOKENIZATION}/StreamDetokenize", [IDS, IDS]),
]
STREAM_NAMES = [f"{method.rpartition('/')[2]}-{len(sent)}" for method, sent in STREAMS]
UNARY = [
    f"{EXECUTION}/Execute",
    f"{GENERATION}/Generate",
    f"{GENERATION}/StreamGenerate",
    f"{TOKENIZATION}/Tokenize",
    f"{TOKENIZATION}/Detokenize",
    f"{TOKENIZATION}/RenderChat",
    "/tokenwire.frontend.v1.ModelService/ListModels",
    "/tokenwire.frontend.v1.ActivityService/WatchActivity",
    "/tokenwire.worker.v1.WorkerService/GetWorkerInfo",
    "/tokenwire.worker.v1.WorkerService/WatchLoad",
]


def address_of(method: str, services) -> str:
    worker, frontend = services
    return worker.address if ".worker." in method else frontend.address


async def read_to_end(call: Any) -> tuple[list[bytes], grpc.aio.AioRpcError | None]:
    """Returns every message, and how the call ended where that was no OK."""
    messages: list[bytes] = []
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            messages.append(message)
    except grpc.aio.AioRpcError as error:
        return messages, error
    return messages, None


async def end_of(
    channel: grpc.aio.Channel, method: str, sent: list[bytes], *, read_first: int, hold: bool
) -> tuple[grpc.aio.AioRpcError, float]:
    """Sends bytes on a stream; returns how it ended, and the seconds from the last write on.

    Args:
        read_first: answers to wait for before the last bytes are sent.
        hold: leaves the stream open, as a caller that has more to say.
    """
    call = channel.stream_stream(method)(timeout=WAIT_S)
    for data in sent[:-1]:
        await call.write(data)
    for _ in range(read_first):
        assert await call.read() is not grpc.aio.EOF
    await call.write(sent[-1])
    began_s = time.monotonic()
    if not hold:
        await call.done_writing()
    _, error = await read_to_end(call)
    assert error is not None, f"{method} ended with OK"
    return error, time.monotonic() - began_s


@pytest.mark.parametrize("hold", [False, True], ids=["closed", "held"])
@pytest.mark.parametrize("answered", [False, True], ids=["at once", "after an answer"])
@pytest.mark.parametrize(("method", "sent"), STREAMS, ids=STREAM_NAMES)
async def test_malformed_bytes_end_a_stream(services, worker, method, sent, answered, hold):
    data = [*(message.SerializeToString() for message in sent), MALFORMED]
    async with grpc.aio.insecure_channel(address_of(method, services)) as channel:
        error, took_s = await end_of(
            channel, method, data, read_first=min(len(sent), answered), hold=hold
        )
    refusal = refusal_of(error)
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE",
    )  # fmt: skip
    assert took_s < SOON_S
    await asyncio.to_thread(worker.wait_until_idle)


@pytest.mark.parametrize("hold", [False, True], ids=["closed", "held"])
@pytest.mark.parametrize(("method", "sent"), STREAMS, ids=STREAM_NAMES)
async def test_malformed_bytes_end_each_of_many_streams(services, worker, method, sent, hold):
    data = [*(message.SerializeToString() for message in sent), MALFORMED]
    async with grpc.aio.insecure_channel(address_of(method, services)) as channel:
        ends = await asyncio.gather(
            *(end_of(channel, method, data, read_first=0, hold=hold) for _ in range(60))
        )
    assert {refusal_of(error).reason for error, _ in ends} == {"MALFORMED_MESSAGE"}
    assert max(took_s for _, took_s in ends) < SOON_S
    await asyncio.to_thread(worker.wait_until_idle)


async def test_malformed_bytes_behind_many_long_texts_of_a_stream_end_it_at_once(services):
    data = [*[LONG_TEXT.SerializeToString()] * 60, MALFORMED]
    method = f"{TOKENIZATION}/StreamTokenize"
    async with grpc.aio.insecure_channel(address_of(method, services)) as channel:
        error, took_s = await end_of(channel, method, data, read_first=0, hold=True)
    assert refusal_of(error).reason == "MALFORMED_MESSAGE"
    assert took_s < SOON_S


@pytest.mark.parametrize("method", UNARY)
async def test_a_malformed_request_is_refused(services, method):
    async with grpc.aio.insecure_channel(address_of(method, services)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_stream(method)(MALFORMED, timeout=WAIT_S).read()
    assert refusal_of(error.value).reason == "MALFORMED_MESSAGE"


# --- any handler ---------------------------------------------------------------------------------

ODD = object()

Handler = Callable[[Any, Any], Awaitable[None]]


def _serialized(message: object) -> bytes:
    raise ValueError(f"{message} can't be sent")


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[tuple[Any, RpcBoundary]]:
    """A server with one method of raw bytes; yields the caller's side of it, and the boundary."""
    boundary = RpcBoundary()
    server = grpc.aio.server(interceptors=[boundary])
    methods = {"Method": grpc.stream_stream_rpc_method_handler(handler, bytes, _serialized)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tests.Service", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel.stream_stream("/tests.Service/Method"), boundary
    finally:
        await server.stop(None)


def ends_with(ending: BaseException | None) -> Handler:
    """Returns a handler that ends while its last write is in flight, by itself or cancelled."""

    async def handler(requests: Any, context: Any) -> None:
        how = (await anext(requests)).decode()
        if how.startswith("second"):
            await context.write(b"1")
        writing = asyncio.ensure_future(context.write(b"x" * 200_000))
        await asyncio.sleep(0)  # it has begun, and gRPC's thread has not told of its end yet
        assert not writing.done()
        if how.endswith("cancelled"):
            writing.cancel()
        if ending is not None:
            raise ending

    return handler


@pytest.mark.parametrize("how", ["first", "first cancelled", "second", "second cancelled"])
@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (None, None),
        (ServiceError(Code.NOT_FOUND, "NOWHERE", "it is not there"), "NOWHERE"),
        (ZeroDivisionError("a fault"), "INTERNAL_FAULT"),
    ],
    ids=["OK", "refusal", "fault"],
)
async def test_a_status_reaches_the_caller_though_a_write_is_in_flight(how, ending, reason):
    async with serving(ends_with(ending)) as (method, _):
        call = method(timeout=WAIT_S)
        await call.write(how.encode())
        messages, error = await read_to_end(call)
    assert messages[-1] == b"x" * 200_000
    assert (refusal_of(error).reason if error else None) == reason


async def test_a_stream_that_is_cut_off_while_it_first_writes_hears_why():
    async def handler(_requests: Any, context: Any) -> None:
        writing.set()
        await context.write(b"x" * 200_000)
        await asyncio.Event().wait()

    writing = asyncio.Event()
    async with serving(handler) as (method, boundary):
        call = method(timeout=WAIT_S)
        reading = asyncio.ensure_future(read_to_end(call))
        await writing.wait()
        await boundary.close(0.0)
        _, error = await reading
    assert refusal_of(error).reason == "DRAINING"


async def test_a_handler_that_heeds_nothing_still_ends_as_it_is_told():
    """A handler may have its own thoughts on being cancelled."""

    async def handler(_requests: Any, _context: Any) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    running = asyncio.Event()
    async with serving(handler) as (method, boundary):
        reading = asyncio.ensure_future(read_to_end(method(timeout=WAIT_S)))
        await running.wait()
        await boundary.close(0.0)
        _, error = await reading
    assert refusal_of(error).reason == "DRAINING"


@pytest.mark.parametrize("begun", [False, True], ids=["at once", "after an answer"])
async def test_somebody_elses_cancellation_is_no_bare_cancelled(begun):
    """What a handler awaits may be cancelled, such as a call that it reads."""

    async def handler(_requests: Any, context: Any) -> None:
        if begun:
            await context.write(b"1")
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other

    async with serving(handler) as (method, _):
        _, error = await read_to_end(method(timeout=WAIT_S))
    assert refusal_of(error).reason == "INTERNAL_FAULT"


async def test_a_failed_write_is_its_handlers_to_know():
    """What can't be sent is told to who sends it, the first message as any later one."""
    told: list[bool] = []

    async def handler(_requests: Any, context: Any) -> None:
        for _ in range(2):
            with pytest.raises(ValueError, match="sent"):
                await context.write(ODD)
            told.append(True)
            await context.write(b"bytes")

    async with serving(handler) as (method, _):
        call = method(timeout=WAIT_S)
        await call.done_writing()
        assert await read_to_end(call) == ([b"bytes", b"bytes"], None)
    assert told == [True, True]


async def test_a_caller_that_hangs_up_while_a_stream_first_writes_ends_it():
    async def handler(_requests: Any, context: Any) -> None:
        try:
            await context.write(b"x" * 200_000)
            await asyncio.Event().wait()
        finally:
            over.set()

    over = asyncio.Event()
    async with serving(handler) as (method, _):
        call = method(timeout=WAIT_S)
        await call.initial_metadata()
        call.cancel()
        await over.wait()
