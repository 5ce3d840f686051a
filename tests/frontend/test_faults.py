"""A fault of the frontend's own, anywhere on a generation's way, ends that generation as INTERNAL,
at once and with its trace id, and no other one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.decoder import SequenceDecoder
from tokenwire_frontend.edge.grpc import from_proto, to_proto, wire
from tokenwire_frontend.generation import sending
from tokenwire_frontend.generation.reader import Reader
from tokenwire_frontend.generation.record import GenerationRecord
from tokenwire_frontend.workers.link import LinkState

from tests.frontend.frontend_here import FrontendHere, frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import generation

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIRST_BAD_ID, BAD_ID = 665, 262
"""The second is a part of a character: it goes through the decoder whatever came before."""
"""Come only for the generation that is to meet the fault."""

SOON_S = 10.0
"""Far longer than an answer takes, and shorter than any deadline would be."""


class OddError(Exception):
    """Nobody foresaw it."""


def failing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, meets: Any) -> None:
    """Has a function raise where `meets` holds of its arguments."""
    real = getattr(owner, name)

    def replaced(*arguments: Any, **named: Any) -> Any:
        if meets(*arguments):
            raise OddError
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, replaced)


def of_bad(record: Any) -> bool:
    return bool(record.request_id == "bad")


PLACES = {
    "reading": (from_proto, "generation_request", lambda message: message.request_id == "bad"),
    "building the worker's request": (
        sending,
        "fill_request",
        lambda _message, _request, request_id, *_: request_id == "bad",
    ),
    "the acceptance": (GenerationRecord, "accepted", lambda record, _: of_bad(record)),
    "telling of the acceptance": (to_proto, "accepted", lambda each: of_bad(each.record)),
    "the first token": (GenerationRecord, "first_token", lambda record, _: of_bad(record)),
    "detokenising": (SequenceDecoder, "push", lambda _, ids, *__: FIRST_BAD_ID in ids),
    "detokenising an id alone": (SequenceDecoder, "push_one", lambda _, each: each == BAD_ID),
    "what is left of the text": (
        SequenceDecoder,
        "finish",
        lambda each, *_: BAD_ID in each.log.ids,
    ),
    "taking the news": (Reader, "take_plain", lambda each, _: of_bad(each._generation.record)),
    "telling of the end of a sequence": (
        to_proto,
        "put_delta",
        lambda delta, *_: delta.token_offset + len(delta.token_ids) == 3,
    ),
    "telling of the whole": (to_proto, "sequence", lambda delta: BAD_ID in delta.token_ids),
    "telling of the end": (wire, "timings", lambda done: done.completion_tokens == 3),
}
UNARY = {"taking the news", "telling of the end of a sequence", "telling of the acceptance"}
"""Places that a unary call does not pass."""
STREAMED = {"telling of the whole"}
"""Places that a stream does not pass."""


def script(stream: Stream, submit: pb.Submit) -> None:
    """Gives the bad one three tokens, each by itself, and others two."""
    handle = submit.handle
    if submit.request.request_id != "bad":
        stream.generate(handle, 300, 301)
        return
    stream.accept(handle)
    for token_id in (FIRST_BAD_ID, BAD_ID, 301):
        stream.send(handles=[handle], token_ids=[token_id])
    stream.end(handle)
    stream.complete(handle, completion_tokens=3)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def started() -> AsyncIterator[FrontendHere]:
    async with ScriptedWorker() as worker, frontend_of(worker) as frontend:
        worker.script = script
        await frontend.wait_for(worker, LinkState.READY)
        yield frontend


@pytest_asyncio.fixture(loop_scope="module")
async def frontend(started: FrontendHere) -> AsyncIterator[FrontendHere]:
    yield started
    await until(lambda: not started.generator.admission.held)
    assert not any(link.in_flight for link in started.pool.links)


def check_refusal(code: int, message: str) -> None:
    assert code == grpc.StatusCode.INTERNAL.value[0]
    assert "OddError" in message
    assert len(message.rpartition("trace id ")[2]) == 32


@pytest.mark.parametrize("place", sorted(PLACES.keys() - STREAMED))
async def test_in_a_session_it_ends_alone(frontend, monkeypatch, place):
    failing(monkeypatch, *PLACES[place])
    async with asyncio.timeout(SOON_S):
        call = frontend.generations.Session()
        for number, name in ((1, "good"), (2, "bad"), (3, "good-too")):
            opened = {"id": number, "generation": generation("Hello", 10, request_id=name)}
            await call.write(fg.SessionRequest(open=opened))
        errors, completed = {}, set()
        while len(errors) + len(completed) < 3:
            for event in (await call.read()).events:
                if event.HasField("error"):
                    errors[event.id] = event.error
                elif event.HasField("completed"):
                    completed.add(event.id)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
    assert completed == {1, 3}
    check_refusal(errors[2].code, errors[2].message)


@pytest.mark.parametrize("place", sorted(PLACES.keys() - STREAMED))
async def test_a_stream_ends_with_it(frontend, monkeypatch, place):
    failing(monkeypatch, *PLACES[place])
    request = fg.StreamGenerateRequest(generation=generation("Hello", 10, request_id="bad"))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in frontend.generations.StreamGenerate(request, timeout=SOON_S):
            pass
    check_refusal(failure.value.code().value[0], failure.value.details())


@pytest.mark.parametrize("place", sorted(PLACES.keys() - UNARY))
async def test_a_unary_call_ends_with_it(frontend, monkeypatch, place):
    failing(monkeypatch, *PLACES[place])
    request = fg.GenerateRequest(generation=generation("Hello", 10, request_id="bad"))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await frontend.generations.Generate(request, timeout=SOON_S)
    check_refusal(failure.value.code().value[0], failure.value.details())


async def test_a_fault_of_the_tokenizer_ends_it(frontend, monkeypatch):
    async def fails(*_: Any, **__: Any) -> Any:
        raise OddError

    monkeypatch.setattr(frontend.generator.tokenizers, "encode", fails)
    request = fg.GenerateRequest(generation=generation("Hello", 10))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await frontend.generations.Generate(request, timeout=SOON_S)
    check_refusal(failure.value.code().value[0], failure.value.details())


async def test_a_fault_of_writing_it_down_costs_no_answer(frontend, monkeypatch):
    for name in ("complete", "refuse"):
        failing(monkeypatch, GenerationRecord, name, lambda record, *_: of_bad(record))
    what = generation("Hello", 10, request_id="bad")
    answer = await frontend.generations.Generate(fg.GenerateRequest(generation=what))
    assert len(answer.sequences[0].token_ids) == 3
