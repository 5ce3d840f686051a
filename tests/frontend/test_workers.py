"""Workers that come and go behind one frontend, and what is told of them and of what they had."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import model_pb2, tokenization_pb2
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.workers.outgoing import WAITING_BYTES

from tests.frontend.frontend_here import FrontendHere, frontend_of, refused, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import (
    Refusal,
    Streamed,
    endless,
    generation,
    refusal_of_status,
)
from tests.services.processes import NOT_SERVING, SERVING

SERVICES = [
    "",
    "tokenwire.frontend.v1.ActivityService",
    "tokenwire.frontend.v1.GenerationService",
    "tokenwire.frontend.v1.TokenizationService",
    "tokenwire.frontend.v1.ModelService",
]


def whole(stream: Stream, submit: pb.Submit) -> None:
    """A script: every generation has the tokens that it asks for."""
    stream.generate(submit.handle, *[300] * submit.request.stopping.max_tokens)


def one_token(stream: Stream, submit: pb.Submit) -> None:
    """A script: every generation has a token and goes on."""
    stream.accept(submit.handle)
    stream.tokens(submit.handle, 300)


async def read(call: Any, begun: Streamed | None = None) -> Streamed:
    """Reads a StreamGenerate call to its end, from its beginning or from where it was left."""
    streamed = begun or Streamed()
    while (event := await call.read()) is not grpc.aio.EOF:
        streamed.take(event)
    assert streamed.completed is not None, "the stream ended before Completed"
    return streamed


async def read_to_first_token(call: Any) -> Streamed:
    streamed = Streamed()
    while not streamed.deltas:
        streamed.take(await call.read())
    return streamed


async def both_ways(
    frontend: FrontendHere, what: Callable[[], fg.Generation]
) -> tuple[Refusal, Refusal]:
    """Returns how Generate and StreamGenerate refuse it."""
    return (
        await refused(frontend.generate(what())),
        await refused(read(frontend.stream(what()))),
    )


async def model(frontend: FrontendHere) -> model_pb2.Model:
    return (await frontend.models.GetModel(model_pb2.GetModelRequest())).model


async def served_by(frontend: FrontendHere, count: int, **fields: Any) -> set[str]:
    """Returns the names of the workers that serve the next requests."""
    answers = [await frontend.generate(generation(max_tokens=2, **fields)) for _ in range(count)]
    return {answer.timings.worker for answer in answers}


# --- a worker dies -------------------------------------------------------------------------------


def check_lost(refusal: Refusal) -> None:
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.reason == "WORKER_LOST"
    assert refusal.info.domain == "tokenwire"
    assert refusal.retry_after_s is not None


async def test_what_a_worker_that_dies_had_is_lost_by_name(worker, frontend):
    worker.script = one_token
    async with frontend.session() as session:
        await session.open(1, endless())
        streamed, unary = frontend.stream(endless()), frontend.generate(endless())
        await read_to_first_token(streamed)
        await session.read_until(lambda: bool(session[1].deltas))
        await until(lambda: frontend.link(worker).in_flight == 3)
        worker.report(running_sequences=3, waiting_requests=2, kv_cache_usage=0.5)
        await until(lambda: frontend.link(worker).load.running_sequences == 3)
        before = await frontend.listed(worker)
        assert (before.running, before.waiting, before.in_flight) == (3, 2, 3)
        await worker.stop()
        [lost] = await session.finish(1)
        check_lost(refusal_of_status(lost.error))
        check_lost(await refused(read(streamed)))
        check_lost(await refused(unary))
    await frontend.wait_for(worker, LinkState.CONNECTING)
    gone = await frontend.listed(worker)
    assert gone.state == model_pb2.WORKER_STATE_CONNECTING
    assert gone.state_reason
    assert (gone.running, gone.waiting, gone.in_flight, gone.kv_cache_usage) == (0, 0, 0, 0)


async def test_when_all_workers_are_down_requests_are_refused_until_one_is_back(worker, frontend):
    for service in SERVICES:
        await frontend.wait_for_health(SERVING, service)
    await worker.stop()
    for service in SERVICES:
        await frontend.wait_for_health(NOT_SERVING, service)
    async with frontend.session() as session:
        await session.open(1, generation())
        [refusal] = await session.finish(1)
        assert refusal.error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    for refusal in await both_ways(frontend, generation):
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        assert refusal.reason == "NO_WORKER"
        assert refusal.retry_after_s is not None
    # What needs no engine goes on, and an unknown model is still unknown.
    asked = tokenization_pb2.TokenizeRequest(text="as ever")
    tokens = await frontend.tokenization.Tokenize(asked)
    ids = tokenization_pb2.DetokenizeRequest(token_ids=tokens.token_ids)
    assert (await frontend.tokenization.Detokenize(ids)).text == "as ever"
    assert (await model(frontend)).ready_worker_count == 0
    unknown = await refused(frontend.generate(generation(model="nope")))
    assert unknown.reason == "UNKNOWN_MODEL"
    worker.script = whole
    await worker.start()
    await frontend.wait_for_health(SERVING)
    assert len((await read(frontend.stream(generation(max_tokens=5)))).ids()) == 5
    async with frontend.session() as session:
        for number in range(1, 11):
            await session.open(number, generation(max_tokens=5))
        assert {len(each.ids()) for each in await session.finish(*range(1, 11))} == {5}


async def test_a_frontend_starts_before_its_workers():
    async with frontend_of("127.0.0.1:1") as frontend:
        await frontend.wait_for_health(NOT_SERVING)
        refusal = await refused(frontend.generate(generation()))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")
        for call in (
            model(frontend),
            frontend.tokenization.Tokenize(tokenization_pb2.TokenizeRequest(text="x")),
            frontend.tokenization.Detokenize(tokenization_pb2.DetokenizeRequest(token_ids=[1])),
        ):
            assert (await refused(call)).code is grpc.StatusCode.UNAVAILABLE
        listed = await frontend.listed("127.0.0.1:1")
        assert not listed.name
        assert listed.state == model_pb2.WORKER_STATE_CONNECTING


# --- draining ------------------------------------------------------------------------------------


async def test_a_draining_worker_finishes_what_it_has_and_gets_nothing_new(worker, other):
    async with frontend_of(worker, other) as frontend:
        for each in (worker, other):
            await frontend.wait_for(each, LinkState.READY)
            each.script = one_token
        calls = [frontend.stream(generation(max_tokens=300)) for _ in range(4)]
        streams = [await read_to_first_token(call) for call in calls]
        assert [(await frontend.listed(each)).in_flight for each in (worker, other)] == [2, 2]
        worker.report(draining=True)
        await frontend.wait_for(worker, LinkState.DRAINING)
        listed = await frontend.listed(worker)
        assert listed.state == model_pb2.WORKER_STATE_DRAINING
        assert listed.state_reason
        other.script = whole
        assert await served_by(frontend, 4) == {"other"}
        for each in (worker, other):
            exchange = await each.stream()
            for _ in range(2):
                handle = (await exchange.submit()).handle
                exchange.tokens(handle, *[300] * 299)
                exchange.end(handle)
                exchange.complete(handle)
        for call, stream in zip(calls, streams, strict=True):
            await read(call, stream)
            assert len(stream.ids()) == 300
            assert stream.reason == fg.FINISH_REASON_LENGTH


# --- workers that do not go together -------------------------------------------------------------


def write_otherwise(worker: ScriptedWorker) -> None:
    """The same tokenizer written otherwise: another fingerprint."""
    worker.files["tokenizer.json"] = json.dumps(
        json.loads(worker.files["tokenizer.json"]), indent=1
    ).encode()


async def test_a_worker_with_another_tokenizer_is_refused(worker, other):
    worker.script = whole
    write_otherwise(other)
    await other.stop()
    async with frontend_of(worker, other) as frontend:
        await frontend.wait_for(worker, LinkState.READY)
        await other.start()
        await frontend.wait_for(other, LinkState.REFUSED)
        listed = await frontend.listed(other)
        assert listed.state == model_pb2.WORKER_STATE_REFUSED
        assert "tokenizer" in listed.state_reason
        assert (await frontend.listed(worker)).state == model_pb2.WORKER_STATE_READY
        assert await served_by(frontend, 4) == {"scripted"}
        assert (await model(frontend)).ready_worker_count == 1


async def test_of_two_that_differ_and_come_together_one_is_refused(worker, other):
    write_otherwise(other)
    async with frontend_of(worker, other) as frontend:
        states = {LinkState.READY, LinkState.REFUSED}
        await until(lambda: {link.state for link in frontend.pool.links} == states)
        assert (await model(frontend)).ready_worker_count == 1


async def test_two_models_are_told_apart_by_name(worker, other):
    other.info.model = "other"
    async with frontend_of(worker, other) as frontend:
        for each in (worker, other):
            each.script = whole
            await frontend.wait_for(each, LinkState.READY)
        models = (await frontend.models.ListModels(model_pb2.ListModelsRequest())).models
        assert [each.name for each in models] == ["demo", "other"]
        assert await served_by(frontend, 2, model="demo") == {"scripted"}
        assert await served_by(frontend, 2, model="other") == {"other"}
        refusal = await refused(frontend.generate(generation()))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.fields == ["generation.model"]
        assert "demo" in refusal.message
        assert "other" in refusal.message


async def test_a_model_is_known_as_long_as_a_worker_is_that_of_it(worker, frontend, at_once):
    """A worker that comes back with another model each time leaves none behind."""
    for number in range(5):
        name = f"model {number}"
        worker.info.model = name
        await worker.restart()
        worker.script = whole
        await until(lambda named=name: list(frontend.pool.models) == [named])
        await frontend.wait_for(worker, LinkState.READY)
        assert await served_by(frontend, 1, model=name) == {"scripted"}
        gone = await refused(frontend.generate(generation(model=f"model {number - 1}")))
        assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
        gc.collect()
        assert len(frontend.generator.tokenizers._sources) == 1
    await worker.stop()
    await frontend.wait_for(worker, LinkState.CONNECTING)
    down = await refused(frontend.generate(generation(model="model 4")))
    assert (down.code, down.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")


async def test_a_model_whose_worker_is_refused_with_another_is_gone(worker, frontend):
    worker.info.model = "broken"
    worker.files["tokenizer.json"] = b"{}"
    await worker.restart()
    await frontend.wait_for(worker, LinkState.REFUSED)
    await until(lambda: not frontend.pool.models)
    refusal = await refused(frontend.generate(generation(model="demo")))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")


# --- workers that can't be sent to ---------------------------------------------------------------


async def test_what_cannot_be_sent_to_a_worker_goes_to_the_next_however_many_there_are():
    async with AsyncExitStack() as stack:
        behind = [await stack.enter_async_context(ScriptedWorker()) for _ in range(4)]
        good = await stack.enter_async_context(ScriptedWorker())
        good.info.worker_name, good.script = "good", whole
        frontend = await stack.enter_async_context(frontend_of(*behind, good))
        for each in (*behind, good):
            await frontend.wait_for(each, LinkState.READY)
        for each in behind:
            frontend.link(each)._connections[-1].exchange._outgoing._waiting_bytes = WAITING_BYTES
        assert await served_by(frontend, 5) == {"good"}
        assert not any(stream.messages for each in behind for stream in each.streams)
        frontend.link(good)._connections[-1].exchange._outgoing._waiting_bytes = WAITING_BYTES
        refusal = await refused(frontend.generate(generation()))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "WORKER_BEHIND",
        )
        assert frontend.generator.admission.held == 0


async def test_a_worker_whose_connection_is_just_over_is_passed_over(worker, other, monkeypatch):
    """Its state says READY until its link has taken note."""
    other.script = whole
    async with frontend_of(worker, other) as frontend:
        for each in (worker, other):
            await frontend.wait_for(each, LinkState.READY)
        link = frontend.link(worker)
        connections, link._connections = link._connections, []
        assert await served_by(frontend, 3) == {"other"}
        link._connections = connections


# --- others ---------------------------------------------------------------------------------------


async def test_a_frontend_in_the_place_of_a_worker_is_told_from_one(frontend):
    async with frontend_of(frontend.server.address) as second:
        await second.wait_for(frontend.server.address, LinkState.REFUSED)
        listed = await second.listed(frontend.server.address)
    assert listed.state == model_pb2.WORKER_STATE_REFUSED
    assert "no worker, such as another frontend" in listed.state_reason


# --- bounds --------------------------------------------------------------------------------------


async def test_overload_of_the_frontend_is_told_with_its_bound(worker):
    worker.script = one_token
    async with frontend_of(worker, generations_limit=2) as frontend:
        await frontend.wait_for(worker, LinkState.READY)
        calls = [frontend.stream(endless()) for _ in range(2)]
        for call in calls:
            await read_to_first_token(call)
        for refusal in await both_ways(frontend, generation):
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.reason == "TOO_MANY_GENERATIONS"
            assert refusal.retry_after_s is not None
            assert refusal.quotas == ["frontend/generations"]
        calls[0].cancel()
        exchange = await worker.stream()
        cancelled = await exchange.cancel()
        exchange.fail(cancelled.handle, grpc.StatusCode.CANCELLED, "CANCELLED")
        await until(lambda: frontend.link(worker).in_flight == 1)
        worker.script = whole
        assert len((await read(frontend.stream(generation(max_tokens=3)))).ids()) == 3
