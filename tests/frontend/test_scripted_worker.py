"""The fixtures themselves: a frontend in this process serves what a scripted worker sends."""

from __future__ import annotations

from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire_frontend.core.link_state import LinkState

from tests.frontend.frontend_here import frontend_of
from tests.frontend.scripted_worker import ScriptedWorker
from tests.services.calls import generation


async def test_a_generation_is_what_the_script_says():
    async with ScriptedWorker() as worker, frontend_of(worker) as frontend:
        await frontend.wait_for(worker, LinkState.READY)
        stream = await worker.stream()
        call = frontend.generations.Generate(
            fg.GenerateRequest(generation=generation([7, 8], max_tokens=3))
        )
        submit = await stream.submit()
        assert submit.request.prompt_token_ids == [7, 8]
        stream.generate(submit.handle, 5, 6)
        answer = await call
        assert answer.sequences[0].token_ids == [5, 6]
        assert answer.sequences[0].end.reason == fg.FINISH_REASON_LENGTH
