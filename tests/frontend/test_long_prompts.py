"""A prompt of a hundred thousand tokens on its way to a worker: whole, and nobody waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.generation import sending
from tokenwire_frontend.models.token_ids import SLICE_IDS
from tokenwire_frontend.workers import messages

from tests.frontend.frontend_here import FrontendHere, frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker
from tests.services.calls import generation

COUNT = 100_000


@pytest.fixture
async def frontend(worker: ScriptedWorker) -> Any:
    worker.info.limits.context_tokens = 2 * COUNT
    worker.info.limits.prompt_tokens = 2 * COUNT - 1
    async with frontend_of(worker) as started:
        await started.wait_for(worker, LinkState.READY)
        yield started


async def test_it_reaches_the_worker_as_it_is_and_others_run_while_it_is_written(
    frontend: FrontendHere, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
):
    turns = []

    async def counted(prompt: Any, *so_far: Any) -> Any:
        turns.append(0)
        other = asyncio.create_task(_count(turns))
        message = await messages.prompt_request(prompt, *so_far)
        other.cancel()
        return message

    monkeypatch.setattr(sending, "prompt_request", counted)
    ids = [place % 4000 for place in range(COUNT)]
    call = frontend.generate(generation(ids, max_tokens=1))
    stream = await worker.stream()
    submit = await stream.submit()
    assert list(submit.request.prompt_token_ids) == ids
    assert turns[0] >= COUNT // SLICE_IDS
    stream.generate(submit.handle, 5)
    assert (await call).usage.prompt_tokens == COUNT


async def test_one_that_is_cancelled_while_it_is_written_reaches_no_worker(
    frontend: FrontendHere, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
):
    async def cancelled(prompt: Any, *so_far: Any) -> Any:
        message = await messages.prompt_request(prompt, *so_far)
        if list(prompt) == [7, 8]:  # in the turn in which it has been written
            [live] = frontend.generator._live
            live.cancel()
        return message

    monkeypatch.setattr(sending, "prompt_request", cancelled)
    async with frontend.session() as session:
        await session.open(1, generation([7, 8]))
        await session.finish(1)
        await session.open(2, generation([9]))
        stream = await worker.stream()
        submit = await stream.submit()
        assert list(submit.request.prompt_token_ids) == [9]
    await until(lambda: not frontend.generator.admission.held)


async def _count(turns: list[int]) -> None:
    while True:
        turns[0] += 1
        await asyncio.sleep(0)
