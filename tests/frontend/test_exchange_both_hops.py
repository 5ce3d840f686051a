"""Bad frames of a worker, as the callers of a frontend see them."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.link_state import LinkState

from tests.frontend.exchange_here import (
    BAD_FRAMES,
)
from tests.frontend.frontend_here import frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker
from tests.services.calls import generation, refusal_of


async def test_a_bad_frame_harms_no_other_caller():
    """Each bad frame in turn, while another generation runs on the same stream to its end."""
    async with ScriptedWorker() as worker, frontend_of(worker) as frontend:
        link = await frontend.wait_for(worker, LinkState.READY)
        stream = await worker.stream()

        async def begin() -> tuple[Any, int]:
            what = fg.GenerateRequest(generation=generation([7, 8], max_tokens=9))
            call = frontend.generations.Generate(what)
            handle = (await stream.submit()).handle
            stream.accept(handle)
            return call, handle

        good, good_handle = await begin()
        for name, frame in BAD_FRAMES.items():
            bad, handle = await begin()
            for each in ({k: v for k, v in frame.items() if k != "then"}, frame.get("then")):
                if each:
                    stream.send(renumbered(pb.ExchangeResponse(**each), handle))
            assert await outcome(bad) == ("OK" if name in ENDED_BEFORE else "WORKER_PROTOCOL"), name
            stream.fail(handle)
        stream.tokens(good_handle, 5)
        stream.end(good_handle)
        stream.complete(good_handle, cached_prompt_tokens=3)
        answer = await good
        assert answer.sequences[0].token_ids == [5]
        assert not answer.usage.HasField("cached_prompt_tokens"), "more than the prompt has"
        await until(lambda: link.in_flight == 0)
        assert len(worker.streams) == 1


ENDED_BEFORE = {"two ends of a sequence", "tokens after the end"}
"""What is wrong comes once the caller has all that there was to have."""


async def outcome(call: Any) -> str:
    try:
        await asyncio.wait_for(call, 10)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason
    return "OK"


def renumbered(frame: pb.ExchangeResponse, handle: int) -> pb.ExchangeResponse:
    """Returns the frame about another generation than that of handle 1."""
    for column in (frame.handles, frame.accepted):
        column[:] = [handle for _ in column]
    for each in (*frame.endings, *frame.completions, *frame.failures):
        each.handle = handle
    return frame
