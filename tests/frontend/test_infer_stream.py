"""ModelStreamInfer, step by step: many requests at once, a fault in one of them, a drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.edge.kserve import stream as kserve
from tokenwire_frontend.edge.kserve.outputs import FINAL, Responses
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2 as pb
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2_grpc

from tests.frontend.frontend_here import FrontendHere, frontend_of
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.bad_values_of_inference import TEXT, tensor
from tests.services.calls import refusal_of
from tests.services.processes import WAIT_S


@pytest.fixture
async def here() -> AsyncIterator[tuple[FrontendHere, Stream]]:
    async with ScriptedWorker() as worker, frontend_of(worker) as frontend:
        await frontend.wait_for(worker, LinkState.READY)
        yield frontend, await worker.stream()


class Call:
    """One ModelStreamInfer call."""

    def __init__(self, frontend: FrontendHere) -> None:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(frontend.channel)
        self.call = stub.ModelStreamInfer(timeout=WAIT_S)

    async def ask(self, request_id: str) -> None:
        inputs = [TEXT, tensor("stream", "BOOL", True), tensor("max_tokens", "INT32", 50)]
        await self.call.write(pb.ModelInferRequest(id=request_id, inputs=inputs))

    async def next(self) -> pb.ModelStreamInferResponse:
        response = await self.call.read()
        assert response is not grpc.aio.EOF
        return response

    async def status(self) -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await self.next()
        return refusal_of(failure.value)


async def begun(call: Call, stream: Stream, request_id: str) -> int:
    """Asks, and returns the handle of the generation once a token of it has come."""
    await call.ask(request_id)
    handle = (await stream.submit()).handle
    stream.accept(handle)
    stream.tokens(handle, 300)
    assert (await call.next()).infer_response.id == request_id
    return handle


def finish(stream: Stream, handle: int) -> None:
    """Ends a generation, in two frames: what the first brings has to wait for the second."""
    stream.end(handle)
    stream.complete(handle)


async def test_one_more_than_may_be_open_is_refused_and_harms_no_other(here, monkeypatch):
    monkeypatch.setattr(kserve, "OPEN_LIMIT", 2)
    frontend, stream = here
    call = Call(frontend)
    first, second = await begun(call, stream, "a"), await begun(call, stream, "b")
    await call.ask("c")
    refused = await call.next()
    assert refused.infer_response.id == "c"
    assert refused.error_message == "this stream holds 2 generations already"
    finish(stream, first)
    ended = await call.next()
    assert (ended.infer_response.id, ended.infer_response.parameters[FINAL].bool_param) == (
        "a",
        True,
    )
    third = await begun(call, stream, "d")
    for handle in (second, third):
        finish(stream, handle)
    await call.call.done_writing()
    assert {(await call.next()).infer_response.id for _ in range(2)} == {"b", "d"}
    assert await call.call.read() is grpc.aio.EOF


async def test_a_fault_ends_its_request_alone(here, monkeypatch):
    frontend, stream = here
    call = Call(frontend)
    first = await begun(call, stream, "a")
    monkeypatch.setattr(Responses, "streamed", lambda *_: 1 / 0)
    await call.ask("b")
    handle = (await stream.submit()).handle
    stream.accept(handle)
    finish(stream, handle)
    failed = await call.next()
    assert failed.infer_response.id == "b"
    assert failed.error_message.startswith("internal fault (ZeroDivisionError)")
    monkeypatch.undo()
    finish(stream, first)
    assert (await call.next()).infer_response.id == "a"
    call.call.cancel()


async def test_a_drain_ends_a_stream_once_nothing_is_open(here):
    frontend, stream = here
    call, idle = Call(frontend), Call(frontend)
    handle = await begun(call, stream, "a")
    await idle.call.wait_for_connection()
    drain = asyncio.create_task(frontend.generator.drain(WAIT_S))
    assert (await idle.status()).reason == "DRAINING"
    await call.ask("b")
    assert "draining" in (await call.next()).error_message
    finish(stream, handle)
    assert (await call.next()).infer_response.id == "a"
    assert (await call.status()).reason == "DRAINING"
    await drain
