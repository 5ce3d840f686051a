"""Many ids of a message are read and written in slices; one outside the vocabulary has a place."""

from __future__ import annotations

import asyncio
from array import array

import pytest
from tokenwire.frontend.v1 import tokenization_pb2
from tokenwire_frontend.models.token_ids import SLICE_IDS, read_ids, write_ids
from tokenwire_service.errors import InvalidRequestError


@pytest.mark.parametrize("place", [0, 1, SLICE_IDS - 1, SLICE_IDS, 3 * SLICE_IDS + 7])
async def test_an_id_outside_the_vocabulary_is_refused_by_its_place(place):
    ids = [49] * (3 * SLICE_IDS + 8)
    ids[place] = 50
    with pytest.raises(InvalidRequestError) as refused:
        await read_ids(ids, 50, "prompt.token_ids.ids")
    [violation] = refused.value.violations
    assert violation.field == f"prompt.token_ids.ids[{place}]"
    assert "50 ids" in violation.description


@pytest.mark.parametrize("count", [0, 1, SLICE_IDS, SLICE_IDS + 1, 5 * SLICE_IDS])
async def test_ids_are_read_and_written_as_they_are(count):
    ids = [place % 4096 for place in range(count)]
    message = tokenization_pb2.DetokenizeRequest(token_ids=ids)
    read = await read_ids(message.token_ids, 4096, "token_ids")
    assert read.tolist() == ids
    answer = tokenization_pb2.TokenizeResponse()
    await write_ids(read, answer.token_ids)
    assert list(answer.token_ids) == ids


async def test_others_run_between_the_slices():
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(other())
        ids = await read_ids(array("I", [1]) * (10 * SLICE_IDS), 2, "token_ids")
        read_turns = turns
        await write_ids(ids, [])
        task.cancel()
    assert read_turns >= 9
    assert turns >= 2 * 9
