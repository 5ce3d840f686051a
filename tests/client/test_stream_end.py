"""A session whose stream the server ends while the client writes to it."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import pytest
from tokenwire import AsyncClient, RetryPolicy, TokenwireError
from tokenwire._ending import Ending as Kept
from tokenwire.frontend.v1 import generation_pb2_grpc
from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.status import abort

ROUNDS = 20
"""One is enough on a quiet machine: without care nearly each ends with gRPC's own words."""


class Ending(generation_pb2_grpc.GenerationServiceServicer):
    """Ends each session after some messages, with nothing said of what it opened."""

    def __init__(self, refusal):
        self.refusal = refusal

    async def Session(self, request_iterator, context):
        read = 0
        async for _ in request_iterator:
            read += 1
            if read == 20:
                break
        if self.refusal is None:
            return
        await abort(context, self.refusal)


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (ServiceError(Code.UNAVAILABLE, "DRAINING", "soon"), ("UNAVAILABLE", "soon")),
        (ServiceError(Code.INVALID_ARGUMENT, "X", "odd"), ("INVALID_ARGUMENT", "odd")),
        (None, ("UNAVAILABLE", "the session has ended")),
    ],
    ids=["drain", "refusal", "OK"],
)
async def test_a_session_hears_how_it_ended_though_it_was_writing(refusal, told):
    server = grpc.aio.server()
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(Ending(refusal), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ends: Counter[tuple[str, str]] = Counter()

    async def user(session) -> None:
        first = asyncio.create_task(anext(session.open("hello")))
        while not first.done():
            session.open("hello")
            await asyncio.sleep(0)
        try:
            await first
        except TokenwireError as error:
            ends[error.code.name, str(error)] += 1

    async with AsyncClient(f"127.0.0.1:{port}", retry=RetryPolicy(attempts=1)) as client:
        for _ in range(ROUNDS):
            async with client.session() as session:
                await user(session)
    await server.stop(None)
    assert dict(ends) == {told: ROUNDS}


class Call:
    """A call of grpc.aio whose status changes."""

    def add_done_callback(self, callback):
        self.callback = callback

    def ends(self, code, details):
        async def value(of):
            return of

        self.code, self.details = lambda: value(code), lambda: value(details)
        self.initial_metadata = self.trailing_metadata = lambda: value(grpc.aio.Metadata())
        self.callback(self)


GRPCS_OWN = (grpc.StatusCode.INTERNAL, "Internal error from Core")


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ([(grpc.StatusCode.UNAVAILABLE, "soon"), GRPCS_OWN], grpc.StatusCode.UNAVAILABLE),
        ([GRPCS_OWN, (grpc.StatusCode.UNAVAILABLE, "soon")], grpc.StatusCode.UNAVAILABLE),
        ([GRPCS_OWN, (grpc.StatusCode.OK, "")], None),
        ([(grpc.StatusCode.INTERNAL, "a fault")], grpc.StatusCode.INTERNAL),
        ([GRPCS_OWN], grpc.StatusCode.ABORTED),
    ],
    ids=["replaced", "late", "late OK", "the server's own INTERNAL", "never told"],
)
def test_the_servers_status_counts_wherever_grpcs_own_comes(statuses, told):
    call = Call()
    kept = Kept(call)
    for status in statuses:
        call.ends(*status)
    metadata = grpc.aio.Metadata()
    raised = grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, metadata, metadata)
    real = kept.real(raised)
    assert (None if real is None else real.code()) is told
