"""Generations that outlive their calls: what a client reads in pieces, wherever it was cut off and
whichever frontend it asks, is what it would have read in one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import generation_pb2_grpc, options_pb2
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.core.resume_token import ResumeToken, TokenSigner

from tests.frontend.fleet_here import KEY, RETAINED_BYTES, TOKENS, Here, Joined, detached, ids_of
from tests.frontend.frontend_here import SessionHere, frontend_of, refused, until
from tests.frontend.scripted_worker import ScriptedWorker
from tests.services.calls import SMALL_WINDOW, duration, endless, generation, refusal_of_status
from tests.services.processes import WAIT_S, free_address

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the fleet's key."""
    file = tmp_path_factory.mktemp("fleet") / "key"
    file.write_bytes(KEY + b"\n")
    return file


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def started(key: Path) -> AsyncIterator[Here]:
    first_at, second_at = free_address(), free_address()
    async with ScriptedWorker() as worker:
        worker.info.capabilities.extend(
            [worker_pb2.CAPABILITY_LOGPROBS, worker_pb2.CAPABILITY_PROMPT_LOGPROBS]
        )
        common = {"fleet_key": key, "retained_bytes": RETAINED_BYTES, "worker_answer_s": 60}
        async with frontend_of(
            worker, listen=first_at, advertise_address=first_at, peer=[second_at], **common
        ) as first:
            await first.wait_for(worker, LinkState.READY)
            stream = await worker.stream()
            async with frontend_of(
                worker, listen=second_at, advertise_address=second_at, peer=[first_at], **common
            ) as second:
                await second.wait_for(worker, LinkState.READY)
                here = Here(worker, first, second)
                here.streams = {first: stream, second: await worker.stream()}
                yield here


@pytest_asyncio.fixture(loop_scope="module")
async def here(started: Here) -> AsyncIterator[Here]:
    for stream in started.streams.values():
        for queue in (stream._submits, stream._cancels):
            while queue.qsize():
                queue.get_nowait()
    yield started
    started.worker.script = None
    for task in started.tasks:
        task.cancel()
    for frontend in started.frontends:
        for kept in list(frontend.generator.keeper._every.values()):
            frontend.generator.keeper._expire(kept)
    for frontend, stream in started.streams.items():
        while frontend.generator.admission.held:
            stream.complete((await stream.cancel()).handle)
            await asyncio.sleep(0.01)


async def test_100_generations_whose_readers_are_cut_at_random_are_read_exactly(here):
    """Each is read in pieces through either frontend; what is kept never exceeds its bound."""
    here.play()
    wholes = [await here.whole(prompt) for prompt in range(20, 28)]
    chosen, most, reads = random.Random(7), 0, 0
    turn = asyncio.Semaphore(32)

    async def client(number: int) -> None:
        nonlocal most, reads
        prompt, joined = 20 + number % 8, Joined()
        async with turn:
            owner = here.frontends[number % 2]
            await joined.read(owner.stream(detached([7, prompt])), chosen.randrange(1, 9))
            while joined.completed is None:
                most = max(most, *(each.generator.keeper.held_bytes for each in here.frontends))
                at = chosen.choice(here.frontends)
                call = here.attach(joined.token, len(joined.ids), at=at)
                await joined.read(call, chosen.randrange(1, 9))
                reads += 1
        whole = wholes[number % 8]
        assert (joined.ids, joined.text) == (whole.ids, whole.text)
        assert joined.completed.usage.completion_tokens == TOKENS

    async with asyncio.TaskGroup() as clients:
        for number in range(100):
            clients.create_task(client(number))
    assert reads > 100
    assert 2**20 < most <= RETAINED_BYTES


async def test_a_reader_may_begin_after_any_id(here):
    """The text that is certain there is what a client has that was given so many ids."""
    here.play()
    whole, first = await here.whole(33), Joined()
    await first.read(here.first.stream(detached([7, 33])))
    for offset in range(1, TOKENS):
        part = Joined()
        part.ids = whole.ids[:offset]
        call = here.attach(first.token, offset)
        accepted, delta = await call.read(), (await call.read()).delta
        assert accepted.accepted.resume_token == first.token
        assert delta.token_offset == offset
        assert delta.text.encode() == whole.text[delta.text_offset :]
        assert delta.token_ids == whole.ids[offset:]
        call.cancel()


async def test_several_readers_at_once_each_at_its_own_pace(here):
    token, stream, handle = await here.begun(detached(tokens=2000))
    ids = ids_of(3, 2000)
    async with grpc.aio.insecure_channel(here.second.server.address, SMALL_WINDOW) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        slow = stub.Attach(fg.AttachRequest(resume_token=token), timeout=WAIT_S)
        quick = here.attach(token)
        late_tokens, joined = Joined(), Joined()
        for place in range(0, 2000, 50):
            stream.tokens(handle, *ids[place : place + 50])
            while len(joined.ids) < place + 50:
                joined.take(await quick.read())
        windowed = here.attach(token, 1000, stream={"max_delay": duration(5)})
        stream.end(handle)
        stream.complete(handle)
        await joined.read(quick)
        late_tokens.ids, late_tokens.text = ids[:1000], b""
        events = [event async for event in windowed]
        slow_one = Joined()
        await slow_one.read(slow)
    assert joined.ids == slow_one.ids == ids
    assert joined.text == slow_one.text
    assert [i for each in events for i in each.delta.token_ids] == ids[1000:]
    assert events[1].delta.token_offset == 1000
    assert joined.text.endswith("".join(each.delta.text for each in events).encode())


async def test_a_deadline_that_passes_ends_the_call_alone(here):
    stream = here.streams[here.first]
    call = here.first.generations.StreamGenerate(
        fg.StreamGenerateRequest(generation=detached(tokens=2)), timeout=0.3
    )
    submit = await stream.submit()
    assert not submit.request.HasField("time_budget")
    stream.accept(submit.handle)
    stream.tokens(submit.handle, 300)
    joined = Joined()
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await joined.read(call)
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    stream.tokens(submit.handle, 301)
    stream.end(submit.handle)
    stream.complete(submit.handle)
    await joined.read(here.attach(joined.token, 1))
    assert joined.ids == [300, 301]


async def test_cancelled_at_another_frontend(here):
    token, stream, handle = await here.begun(endless([7, 8], on_disconnect=fg.ON_DISCONNECT_DETACH))
    stream.tokens(handle, 300, 301)
    reader = here.attach(token)
    assert (await reader.read()).accepted.trace_id
    assert (await reader.read()).delta.token_ids == [300, 301]
    request = fg.CancelGenerationRequest(resume_token=token)
    await here.second.generations.CancelGeneration(request, timeout=WAIT_S)
    assert (await stream.cancel()).handle == handle
    stream.end(handle, reason=pb.FINISH_REASON_CANCELLED)
    stream.complete(handle)
    assert (await reader.read()).delta.end.reason == fg.FINISH_REASON_CANCELLED
    assert (await reader.read()).HasField("completed")
    # A second time is allowed and changes nothing.
    await here.first.generations.CancelGeneration(request, timeout=WAIT_S)
    events = [event async for event in here.attach(token, 1, at=here.second)]
    assert [event.WhichOneof("event") for event in events] == ["accepted", "delta", "completed"]
    assert events[1].delta.token_ids == [301]


@pytest.mark.parametrize("at", [0, 1], ids=["here", "elsewhere"])
async def test_in_a_session(here, at):
    """A session's end leaves it running; its cancel ends it."""
    token, stream, handle = await here.begun(endless([7, 8], on_disconnect=fg.ON_DISCONNECT_DETACH))
    stream.tokens(handle, 300)

    async def attach(session: SessionHere, number: int, *offsets: int) -> None:
        session.expect(number)
        asked = {"resume_token": token, "token_offsets": offsets}
        await session.call.write(fg.SessionRequest(attaches=[{"id": number, "generation": asked}]))

    async with here.frontends[at].session() as session:
        await attach(session, 4)
        await session.read_until(lambda: session[4].ids() == [300])
        assert session[4].accepted.resume_token == token
    keeper = here.first.generator.keeper
    await until(lambda: not any(each.readers for each in keeper._every.values()))
    stream.tokens(handle, 301)
    async with here.frontends[at].session() as session:
        await attach(session, 1)
        await session.read_until(lambda: session[1].ids() == [300, 301])
        await session.call.write(fg.SessionRequest(cancels=[{"id": 1}]))
        assert (await stream.cancel()).handle == handle
        stream.end(handle, reason=pb.FINISH_REASON_CANCELLED)
        stream.complete(handle)
        [ended] = await session.finish(1)
        assert ended.reason == fg.FINISH_REASON_CANCELLED
        # The number is free again, and what is refused ends alone.
        await attach(session, 1, 3)
        await session.finish(1)
        refusal = refusal_of_status(session[1].error)
        assert refusal.fields == ["attach.generation.token_offsets[0]"]
        await attach(session, 1)
        [again] = await session.finish(1)
        assert again.ids() == [300, 301]


async def test_sequences_beyond_the_offsets_begin_anew(here):
    what = detached(tokens=2, sequence_count=2, sampling={"temperature": 1.0, "seed": 1})
    token, stream, handle = await here.begun(what)
    for sequence, ids in enumerate([(300, 301), (310, 311)]):
        stream.tokens(handle, *ids, sequence=sequence)
        stream.end(handle, sequence)
    stream.complete(handle)
    rest: dict[int, list[int]] = {0: [], 1: []}
    async for event in here.attach(token, 1):
        rest[event.delta.sequence].extend(event.delta.token_ids)
    assert rest == {0: [301], 1: [310, 311]}


@pytest.mark.parametrize("at", [0, 1], ids=["here", "elsewhere"])
async def test_in_a_session_with_credit(here, at):
    token, stream, handle = await here.begun(endless([7, 8], on_disconnect=fg.ON_DISCONNECT_DETACH))
    stream.tokens(handle, 300, 301, 302)
    async with here.frontends[at].session() as session:
        session.expect(1)
        attach = fg.Attach(id=1, generation={"resume_token": token}, credit_tokens=1)
        await session.call.write(fg.SessionRequest(attaches=[attach]))
        await session.read_until(lambda: session[1].ids() == [300])
        await session.call.write(fg.SessionRequest(credits=[{"id": 1, "amount": 1}]))
        await session.read_until(lambda: session[1].ids() == [300, 301])
        session.expect(2)
        attach = fg.Attach(id=2, generation={"resume_token": token}, credit_tokens=1)
        attach.generation.stream.content = options_pb2.STREAM_CONTENT_TEXT
        await session.call.write(fg.SessionRequest(attaches=[attach]))
        await session.finish(2)
        assert refusal_of_status(session[2].error).fields == ["attach.credit_tokens"]


@pytest.mark.parametrize("at", [0, 1], ids=["here", "elsewhere"])
@pytest.mark.parametrize(
    ("offsets", "code", "reason", "fields"),
    [
        ([3], grpc.StatusCode.OUT_OF_RANGE, "OFFSET_BEYOND", ["token_offsets[0]"]),
        ([1, 1], grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", ["token_offsets"]),
    ],
    ids=["beyond the end", "too many"],
)
async def test_places_that_there_are_not(here, at, offsets, code, reason, fields):
    token, stream, handle = await here.begun(detached(tokens=2))
    stream.generate(handle, 300, 301)
    await until(lambda: here.first.generator.keeper._ended)
    refusal = await refused(here.attach(token, *offsets, at=here.frontends[at]).read())
    assert (refusal.code, refusal.reason, refusal.fields) == (code, reason, fields)


def signed(key: bytes = KEY, **fields: str) -> str:
    told = {"owner": "", "frontend": "f", "process": "", "generation": "g", **fields}
    return TokenSigner(key).write(ResumeToken(**told))


async def test_no_token_looks_like_an_option():
    tokens = [
        signed(bytes([key]) * 32, owner=owner) for key in range(256) for owner in ("", "[::1]:1")
    ]
    assert not any(each.startswith("-") for each in tokens)


async def test_tokens_that_are_not_good(here):
    first, second = here.frontends
    owners = first.owners
    changed = "z" + owners.token("g")[1:]
    cases = {
        "": (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        "x" * 2000: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        "not a token": (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        changed: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        signed(b"another key" * 4): (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        owners.token("g"): (grpc.StatusCode.NOT_FOUND, "UNKNOWN_GENERATION"),
        signed(): (grpc.StatusCode.FAILED_PRECONDITION, "UNKNOWN_OWNER"),
        signed(owner="127.0.0.1:9"): (grpc.StatusCode.FAILED_PRECONDITION, "UNKNOWN_OWNER"),
        signed(owner=first.server.address): (grpc.StatusCode.NOT_FOUND, "OWNER_GONE"),
    }
    for token, expected in cases.items():
        for at in here.frontends:
            asked = fg.CancelGenerationRequest(resume_token=token)
            for call in (here.attach(token, at=at).read(), at.generations.CancelGeneration(asked)):
                refusal = await refused(call)
                assert (refusal.code, refusal.reason) == expected, token
                if expected[1] == "INVALID_FIELD":
                    assert refusal.fields == ["resume_token"]
    # What was sent on is not sent on again.
    sent_on = second.generations.Attach(
        fg.AttachRequest(resume_token=owners.token("g")),
        metadata=[("tokenwire-sender", "frontend")],
    )
    assert (await refused(sent_on.read())).reason == "UNKNOWN_OWNER"


async def test_an_owner_that_does_not_answer(here):
    nobody = free_address()
    here.first.owners.peers.append(nobody)
    refusal = await refused(here.attach(signed(owner=nobody)).read())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "OWNER_UNREACHABLE")
    assert refusal.retry_after_s


async def test_what_a_late_reader_is_given_of_log_probabilities(here):
    """All that a first one was; with some ids, none of the prompt's."""
    what = detached(tokens=2, output={"logprobs": True, "prompt_logprobs": 0})
    token, stream, handle = await here.begun(what)
    scored = [pb.TokenLogprob(token_id=each, logprob=-0.5) for each in (7, 8)]
    stream.send(prompt_logprobs=[pb.PromptLogprobs(handle=handle, tokens=scored)])
    for each in (300, 301):
        tokens = [pb.TokenLogprob(token_id=each, logprob=-0.5)]
        stream.tokens(handle, each, logprobs=[pb.EntryLogprobs(entry=0, tokens=tokens)])
    stream.end(handle)
    stream.complete(handle)
    await until(lambda: not here.first.link(here.worker).in_flight)
    for _ in range(2):
        events = [event async for event in here.attach(token)]
        kinds = [event.WhichOneof("event") for event in events]
        assert kinds == ["accepted", "prompt_logprobs", "delta", "completed"]
        assert [each.token_id for each in events[1].prompt_logprobs.tokens] == [7, 8]
        assert [each.token_id for each in events[2].delta.logprobs] == [300, 301]
    events = [event async for event in here.attach(token, 1)]
    assert [event.WhichOneof("event") for event in events] == ["accepted", "delta", "completed"]
    assert [each.token_id for each in events[1].delta.logprobs] == [301]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"detach_ttl": duration(5)}, "detach_ttl"),
        ({"on_disconnect": fg.ON_DISCONNECT_DETACH, "detach_ttl": duration(0)}, "detach_ttl"),
        ({"on_disconnect": 7}, "on_disconnect"),
        ({"idempotency_key": "no spaces"}, "idempotency_key"),
        ({"idempotency_key": "x" * 129}, "idempotency_key"),
    ],
)
async def test_terms_that_are_refused(here, fields, field):
    refusal = await refused(here.first.stream(generation([7, 8], 1, **fields)).read())
    assert (refusal.code, refusal.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        [f"generation.{field}"],
    )


async def test_a_unary_answer_has_no_token_so_detaching_takes_a_key(here):
    refusal = await refused(here.first.generate(detached()))
    assert refusal.fields == ["generation.on_disconnect"]


async def test_the_time_that_is_granted(here):
    here.play()
    for asked_s, granted_s in ((None, 60), (5, 5), (9000, 3600)):
        fields = {} if asked_s is None else {"detach_ttl": duration(asked_s)}
        event = await here.first.stream(detached(tokens=1, **fields)).read()
        assert event.accepted.detach_ttl.seconds == granted_s


async def test_the_same_request_by_any_call_runs_once(here):
    """In whatever the body has no part, it may differ."""
    stream, key = here.streams[here.first], "order-7"
    body = {"prompt": [7, 8], "max_tokens": 2, "idempotency_key": key}
    unary = here.first.generate(generation(**body, request_id="first"))
    handle = (await stream.submit()).handle
    async with here.first.session() as session:
        await session.open(1, generation(**body, priority=3, time_budget=duration(50)))
        streamed = here.first.stream(generation(**body, on_disconnect=fg.ON_DISCONNECT_DETACH))
        other = await refused(here.first.generate(generation(**{**body, "max_tokens": 3})))
        assert (other.code, other.reason) == (
            grpc.StatusCode.ALREADY_EXISTS,
            "IDEMPOTENCY_CONFLICT",
        )
        stream.generate(handle, 300, 301)
        [opened] = await session.finish(1)
    events = [event async for event in streamed]
    answers = [await unary, await here.first.generate(generation(**body))]
    assert opened.ids() == [300, 301] == events[1].delta.token_ids
    assert [list(each.sequences[0].token_ids) for each in answers] == [[300, 301]] * 2
    assert {each.request_id for each in answers} == {"first"} == {opened.accepted.request_id}
    assert opened.accepted.attached
    assert events[0].accepted.attached
    assert not stream._submits.qsize()


async def test_a_lost_call_of_a_key_is_found_again(here):
    stream = here.streams[here.first]
    what = generation([7, 8], 3, idempotency_key="lost-1")
    lost = here.first.stream(what)
    handle = (await stream.submit()).handle
    stream.accept(handle)
    stream.tokens(handle, 300)
    joined = Joined()
    await joined.read(lost, 2)
    stream.tokens(handle, 301, 302)
    stream.end(handle)
    stream.complete(handle)
    what.output_so_far.add(token_ids=joined.ids)
    await joined.read(here.first.stream(what))
    assert joined.ids == [300, 301, 302]
