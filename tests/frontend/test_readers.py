"""What clients are given when they read late, or not at all: everything, in messages of a bounded
size, at a bounded cost for whoever else there is."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
import structlog
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import generation_pb2_grpc
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_frontend.edge.grpc.session import OPEN_LIMIT
from tokenwire_frontend.generation import reader as reader_module
from tokenwire_frontend.generation.queues import QueueLimits
from tokenwire_frontend.workers.link import LinkState
from tokenwire_service.limits import MESSAGE_COMMANDS

from tests.frontend.frontend_here import FrontendHere, frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import (
    SMALL_WINDOW,
    Streamed,
    endless,
    generation,
    refusal_of,
    refusal_of_status,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE_BYTES = 2**20
"""What the contract promises of every streamed message."""

ALTERNATIVES = [pb.Alternative(token_id=300 + place, logprob=-1.5) for place in range(5)]


class Here:
    """A frontend and its scripted worker."""

    def __init__(self, worker: ScriptedWorker, frontend: FrontendHere, stream: Stream) -> None:
        self.worker = worker
        self.frontend = frontend
        self.stream = stream

    @property
    def live(self) -> list[Any]:
        return list(self.frontend.generator._live)

    async def until_all_came(self) -> None:
        """Waits until the worker has nothing left of what was asked for."""
        link = self.frontend.link(self.worker)
        await until(lambda: self.live and not link.in_flight)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def late(started: Here) -> AsyncIterator[Any]:
    """Stubs of a client that takes little before it reads."""
    async with grpc.aio.insecure_channel(started.frontend.server.address, SMALL_WINDOW) as channel:
        yield generation_pb2_grpc.GenerationServiceStub(channel)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def started() -> AsyncIterator[Here]:
    async with ScriptedWorker() as worker:
        worker.info.limits.context_tokens = worker.info.limits.prompt_tokens = 200_000
        worker.info.limits.running_sequences = worker.info.limits.waiting_requests = 5000
        worker.info.capabilities.extend(
            [worker_pb2.CAPABILITY_LOGPROBS, worker_pb2.CAPABILITY_TOP_LOGPROBS]
        )
        # One loop for client, frontend and worker: on a busy machine each waits for the others.
        async with frontend_of(worker, generations_limit=2000, worker_answer_s=60) as frontend:
            await frontend.wait_for(worker, LinkState.READY)
            yield Here(worker, frontend, await worker.stream())


@pytest_asyncio.fixture(loop_scope="module")
async def here(started: Here) -> AsyncIterator[Here]:
    for queue in (started.stream._submits, started.stream._cancels):
        while queue.qsize():  # what scripts have answered
            queue.get_nowait()
    yield started
    started.worker.script = None
    await until(lambda: not started.frontend.generator.admission.held)
    assert not started.frontend.link(started.worker).in_flight


def ids_of(count: int) -> list[int]:
    return [300 + place % 3000 for place in range(count)]


def give(stream: Stream, submit: pb.Submit) -> None:
    """Gives every sequence all that was asked for, with log probabilities."""
    asked, handle = submit.request, submit.handle
    ids = ids_of(asked.stopping.max_tokens)
    stream.accept(handle)
    for sequence in range(asked.sequence_count or 1):
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            tokens = [
                pb.TokenLogprob(token_id=each, logprob=-0.5, alternatives=ALTERNATIVES)
                for each in part
            ]
            logprobs = [pb.EntryLogprobs(entry=0, tokens=tokens)] if asked.logprobs else []
            stream.tokens(handle, *part, sequence=sequence, logprobs=logprobs)
        stream.end(handle, sequence)
    stream.complete(handle)


def heavy(tokens: int, **fields: Any) -> fg.Generation:
    return generation([7, 8], tokens, output={"logprobs": True, "top_logprobs": 5}, **fields)


def check_whole(streamed: Streamed, tokens: int, sequence: int = 0) -> None:
    assert streamed.ids(sequence) == ids_of(tokens)
    assert len(streamed.logprobs(sequence)) == tokens
    read = 0
    for delta in streamed.of(sequence):
        assert delta.text_offset == read
        assert len(delta.logprobs) == len(delta.token_ids)
        read += len(delta.text.encode())


async def test_a_session_that_reads_late_gets_everything_in_small_messages(here, late):
    here.worker.script, tokens, numbers = give, 4000, range(1, 16)
    call = late.Session()
    opens = [{"id": number, "generation": heavy(tokens)} for number in numbers]
    await call.write(fg.SessionRequest(opens=opens))
    await here.until_all_came()
    read: dict[int, Streamed] = defaultdict(Streamed)
    total = 0
    while sum(each.over for each in read.values()) < len(numbers):
        message = await call.read()
        assert message.ByteSize() < MESSAGE_BYTES
        total += message.ByteSize()
        for event in message.events:
            read[event.id].take(event)
    assert total > 3 * MESSAGE_BYTES
    for number in numbers:
        check_whole(read[number], tokens)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_stream_that_reads_late_gets_everything_in_small_messages(here, late):
    here.worker.script, tokens, sequences = give, 4000, 8
    request = fg.StreamGenerateRequest(generation=heavy(tokens, sequence_count=sequences))
    call = late.StreamGenerate(request)
    await here.until_all_came()
    streamed = Streamed()
    async for message in call:
        assert message.ByteSize() < MESSAGE_BYTES
        streamed.take(message)
    for sequence in range(sequences):
        check_whole(streamed, tokens, sequence)


async def test_what_a_client_does_not_read_stays_in_the_log_and_leaves_with_it(here, late):
    """The transport is given only what it has room for; no fault is logged when the client goes."""
    request = fg.StreamGenerateRequest(generation=heavy(40_000))
    stuck = late.StreamGenerate(request)
    handle = (await here.stream.submit()).handle
    here.stream.accept(handle)
    tokens = [
        pb.TokenLogprob(token_id=300, logprob=-0.5, alternatives=ALTERNATIVES) for _ in range(500)
    ]
    columns = {"logprobs": [pb.EntryLogprobs(entry=0, tokens=tokens)]}
    for _ in range(40):
        here.stream.tokens(handle, *[300] * 500, **columns)
    await until(lambda: here.live and here.live[0].logs[0].token_count == 20_000)
    [log] = here.live[0].logs
    assert log.bytes_held > 0.9 * 20_000 * 60
    with structlog.testing.capture_logs() as lines:
        stuck.cancel()
        assert (await here.stream.cancel()).handle == handle
        here.stream.end(handle, reason=pb.FINISH_REASON_CANCELLED)
        here.stream.complete(handle)
        await until(lambda: not here.frontend.generator.admission.held)
    assert {each["event"] for each in lines} == {"generation"}
    assert [each["reason"] for each in lines] == ["client_gone"]


def send_scored(stream: Stream, handle: int, tokens: int) -> None:
    """Sends tokens that have five alternatives each."""
    each = pb.TokenLogprob(token_id=300, logprob=-0.5, alternatives=ALTERNATIVES)
    logprobs = [pb.EntryLogprobs(entry=0, tokens=[each] * tokens)]
    stream.tokens(handle, *[300] * tokens, logprobs=logprobs)


async def test_a_client_that_leaves_too_much_unread_is_given_up(here, late, monkeypatch):
    """What there was is its to read, and then why it ended."""
    monkeypatch.setattr(reader_module, "UNREAD_BYTES_LIMIT", 2**20)
    call = late.StreamGenerate(fg.StreamGenerateRequest(generation=heavy(40_000)))
    handle = (await here.stream.submit()).handle
    here.stream.accept(handle)
    for _ in range(80):
        send_scored(here.stream, handle, 500)
    assert (await here.stream.cancel()).handle == handle
    here.stream.end(handle, reason=pb.FINISH_REASON_CANCELLED)
    here.stream.complete(handle)
    [generation] = here.live
    assert generation.logs[0].bytes_held < 2 * 2**20
    read = 0

    async def read_on() -> None:
        nonlocal read
        async for message in call:
            read += len(message.delta.token_ids)

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await read_on()
    refusal = refusal_of(ended.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "NOT_READING")
    assert refusal.quotas == ["generation/unread"]
    assert read == generation.logs[0].token_count


async def test_a_client_that_reads_may_have_more_than_that_in_all(here, late, monkeypatch):
    monkeypatch.setattr(reader_module, "UNREAD_BYTES_LIMIT", 2**20)
    call = late.StreamGenerate(fg.StreamGenerateRequest(generation=heavy(40_000)))
    handle = (await here.stream.submit()).handle
    here.stream.accept(handle)
    read = size = 0
    while size < 3 * 2**20:
        send_scored(here.stream, handle, 500)
        want = read + 500
        while read < want:
            message = await call.read()
            read, size = read + len(message.delta.token_ids), size + message.ByteSize()
    here.stream.end(handle)
    here.stream.complete(handle)
    last = message
    while (message := await call.read()) is not grpc.aio.EOF:
        last = message
    assert last.HasField("completed")


async def test_thousands_of_opens_in_one_message_hold_nobody_up(here, monkeypatch):
    """As many as a session may hold are started, the others refused, and others are served between
    them. The time is the thread's, of one turn of the loop, in which the client has its part; it
    is several times as much where other cores are busy, for a while."""
    here.worker.script = lambda stream, submit: stream.generate(submit.handle, 300)
    for _ in range(3):
        longest_s = await longest_turn_s(here, monkeypatch)
        if longest_s < 0.1:
            break
    assert longest_s < 0.1


async def longest_turn_s(here: Here, monkeypatch: pytest.MonkeyPatch) -> float:
    """Opens thousands of generations, reads them, and returns the loop's longest turn."""
    opened, turns_s = MESSAGE_COMMANDS, [0.0]
    loop = asyncio.get_running_loop()
    turn = loop._run_once  # type: ignore[attr-defined]

    def timed() -> None:
        began_s = time.thread_time()
        turn()
        turns_s.append(time.thread_time() - began_s)

    opens = [{"id": number, "generation": generation([7, 8], 1)} for number in range(1, opened + 1)]
    message = fg.SessionRequest(opens=opens)
    call = here.frontend.generations.Session()
    await call.wait_for_connection()
    gc.collect()
    gc.freeze()  # what the tests hold is not the frontend's
    monkeypatch.setattr(loop, "_run_once", timed)
    await call.write(message)
    completed = refused = 0
    while completed + refused < opened:
        for event in (await call.read()).events:
            completed += event.HasField("completed")
            if event.HasField("error"):
                refused += 1
                refusal = refusal_of_status(event.error)
                assert refusal.quotas == ["session/generations"], refusal
    monkeypatch.undo()
    gc.unfreeze()
    assert completed >= OPEN_LIMIT
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    return max(turns_s)


@pytest.mark.parametrize("field", ["opens", "cancels", "credits"])
async def test_commands_beyond_the_bound_of_a_message_are_refused_by_one_error(here, field):
    """Those before count, and the session goes on."""
    here.worker.script = lambda stream, submit: stream.generate(submit.handle, 300)
    call = here.frontend.generations.Session()
    what = {"opens": fg.Open(), "cancels": fg.Cancel(id=9), "credits": fg.Credit(id=9)}[field]
    first = fg.Open(id=1, generation=generation([7, 8], 1))
    beyond = fg.SessionRequest(**{field: [what] * 2**20})
    await call.write(fg.SessionRequest(opens=[first]))
    await call.write(beyond)
    await call.write(fg.SessionRequest(opens=[fg.Open(id=2, generation=first.generation)]))
    await call.done_writing()
    ended, refusals = [], []
    async for message in call:
        for event in message.events:
            if event.HasField("completed"):
                ended.append(event.id)
            if event.HasField("error"):
                assert event.id == 0
                refusals.append(refusal_of_status(event.error))
    assert ended == [1, 2]
    assert [refusal.fields for refusal in refusals if refusal.fields != ["open.id"]] == [[field]]
    assert len(refusals) == 1 + (MESSAGE_COMMANDS if field == "opens" else 0)


async def test_several_opens_and_cancels_in_one_message(here):
    call = here.frontend.generations.Session()
    opens = [{"id": number, "generation": endless([7, 8])} for number in (1, 2, 3)]
    await call.write(fg.SessionRequest(opens=opens, cancels=[{"id": 2}, {"id": 9}]))
    handles = [(await here.stream.submit()).handle for _ in range(2)]
    read: dict[int, Streamed] = defaultdict(Streamed)

    async def until_over(*numbers: int) -> None:
        while not all(read[number].over for number in numbers):
            for event in (await call.read()).events:
                read[event.id].take(event)

    await until_over(2)
    assert read[2].end().reason == fg.FINISH_REASON_CANCELLED
    here.stream.accept(*handles)
    await call.write(fg.SessionRequest(cancels=[{"id": 1}, {"id": 3}]))
    for _ in handles:
        handle = (await here.stream.cancel()).handle
        here.stream.end(handle, reason=pb.FINISH_REASON_CANCELLED)
        here.stream.complete(handle)
    await until_over(1, 3)
    assert {each.end().reason for each in read.values()} == {fg.FINISH_REASON_CANCELLED}
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


# --- whole answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "field"),
    [
        (generation([7, 8], 20_000, output={"logprobs": True, "top_logprobs": 20}),
         "generation.output.top_logprobs"),
        (generation([7, 8], 150_000, sequence_count=8), "generation.stop.max_tokens"),
        (generation("word " * 40_000, 1, sequence_count=32, output={"echo": True}),
         "generation.output.echo"),
    ],
    ids=["log probabilities", "tokens", "echo"],
)  # fmt: skip
async def test_an_answer_that_would_be_too_large_is_refused_before_the_work(here, what, field):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await here.frontend.generations.Generate(fg.GenerateRequest(generation=what))
    refusal = refusal_of(failure.value)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (refusal.reason, refusal.fields) == ("ANSWER_TOO_LARGE", [field])
    assert "a stream has no such bound" in refusal.message
    assert not here.frontend.link(here.worker).in_flight


async def test_an_answer_that_becomes_too_large_is_given_up(here):
    what = generation([7, 8], None, output={"logprobs": True, "top_logprobs": 5})
    call = here.frontend.generations.Generate(fg.GenerateRequest(generation=what))
    handle = (await here.stream.submit()).handle
    here.stream.accept(handle)
    tokens = [
        pb.TokenLogprob(token_id=300, logprob=-0.5, alternatives=ALTERNATIVES) for _ in range(500)
    ]
    columns = {"logprobs": [pb.EntryLogprobs(entry=0, tokens=tokens)]}
    for _ in range(120):
        here.stream.tokens(handle, *[300] * 500, **columns)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    refusal = refusal_of(failure.value)
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.reason == "ANSWER_TOO_LARGE"
    assert "a stream has no such bound" in refusal.message
    assert (await here.stream.cancel()).handle == handle
    here.stream.complete(handle)


# --- refusals ------------------------------------------------------------------------------------


async def test_where_every_queue_is_full_nothing_is_read_or_tokenised(here, monkeypatch):
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(here.frontend.generator.tokenizers, "encode", never)
    monkeypatch.setattr("tokenwire_frontend.edge.grpc.from_proto.generation_request", never)
    monkeypatch.setattr(here.frontend.generator.admission.queues, "limits", QueueLimits())
    here.worker.report(running_sequences=5000, waiting_requests=5000)
    await until(lambda: not here.frontend.pool.has_room("demo", 1, None))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await here.frontend.generations.Generate(fg.GenerateRequest(generation=generation()))
    refusal = refusal_of(failure.value)
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.reason == "QUEUE_FULL"
    assert refusal.retry_after_s
    here.worker.report()
    await until(lambda: here.frontend.pool.has_room("demo", 1, None))
