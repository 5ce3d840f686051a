"""Delivery options: the same output, in deltas of the size and content that were asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import accumulate, pairwise
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tokenizers import Tokenizer
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import options_pb2, tokenization_pb2
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.generation.generation import Generation

from tests.frontend.frontend_here import FrontendHere, frontend_of, refused, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.frontend.test_reasoning_and_tools import CALL, TEMPLATE, chat
from tests.services.calls import generation, refusal_of_status
from tests.services.processes import WAIT_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAID = f"Is it <4>?</think>\n\nA 🦊, é! {CALL}"
TEXT_AND_IDS = options_pb2.STREAM_CONTENT_TEXT_AND_IDS
TEXT = options_pb2.STREAM_CONTENT_TEXT
IDS = options_pb2.STREAM_CONTENT_IDS


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def started() -> AsyncIterator[tuple[ScriptedWorker, FrontendHere, Stream]]:
    """A worker that says SAID, by one token a frame for a while, then by three."""
    async with ScriptedWorker() as worker:
        worker.files["chat_template.jinja"] = TEMPLATE.encode()
        worker.info.capabilities.append(worker_pb2.CAPABILITY_LOGPROBS)
        tokenizer = Tokenizer.from_str(worker.files["tokenizer.json"].decode())
        ids = tokenizer.encode(SAID, add_special_tokens=False).ids

        def say(stream: Stream, submit: pb.Submit) -> None:
            handle = submit.handle
            stream.accept(handle)
            places = [*range(16), *range(16, len(ids), 3), len(ids)]
            for start, end in pairwise(places):
                scores = [pb.TokenLogprob(token_id=each, logprob=-1) for each in ids[start:end]]
                entry = pb.EntryLogprobs(entry=0, tokens=scores)
                logprobs = [entry] if submit.request.logprobs else []
                stream.tokens(handle, *ids[start:end], logprobs=logprobs)
            stream.end(handle, reason=pb.FINISH_REASON_STOP)
            stream.complete(handle)

        worker.script = say
        async with frontend_of(worker) as frontend:
            await frontend.wait_for(worker, LinkState.READY)
            yield worker, frontend, await worker.stream()


@pytest.fixture
def frontend(started: tuple[ScriptedWorker, FrontendHere, Stream]) -> FrontendHere:
    """The frontend of that worker."""
    return started[1]


async def deltas_of(
    frontend: FrontendHere, call: str, what: fg.Generation, **stream: Any
) -> list[fg.Delta]:
    """Returns the deltas of a generation that completes."""
    stub = frontend.generations
    if call == "stream":
        request = fg.StreamGenerateRequest(generation=what, stream=stream)
        events = [event async for event in stub.StreamGenerate(request, timeout=WAIT_S)]
    else:
        opening = fg.SessionRequest(open=fg.Open(id=1, generation=what, stream=stream))
        session = stub.Session(iter([opening]), timeout=WAIT_S)
        events = [event async for message in session for event in message.events]
    assert events[-1].HasField("completed"), events[-1]
    return [event.delta for event in events if event.HasField("delta")]


def whole(deltas: list[fg.Delta]) -> tuple[str, str, str]:
    """Returns text, reasoning and the call's arguments, whose offsets fit."""
    for field in ("text", "reasoning"):
        sizes = [len(getattr(each, field).encode()) for each in deltas]
        places = zip(deltas, accumulate(sizes, initial=0), sizes, strict=False)
        assert all(getattr(each, f"{field}_offset") == at for each, at, size in places if size)
    calls = "".join(part.arguments for each in deltas for part in each.tool_calls)
    return "".join(d.text for d in deltas), "".join(d.reasoning for d in deltas), calls


@pytest.mark.parametrize("call", ["stream", "session"])
@pytest.mark.parametrize("parsed", [False, True], ids=["plain", "parsed"])
@pytest.mark.parametrize("max_tokens", [0, 2])
async def test_each_content_is_the_same_output(frontend, call, parsed, max_tokens):
    what = chat(thinks=True) if parsed else generation([7, 8], 200)
    [answer] = (await frontend.generate(what)).sequences
    arguments = "".join(each.arguments for each in answer.tool_calls)
    assert bool(answer.reasoning and arguments) == parsed
    for content in (TEXT_AND_IDS, TEXT, IDS):
        deltas = await deltas_of(frontend, call, what, content=content, max_tokens=max_tokens)
        ids = [token for each in deltas for token in each.token_ids]
        text = ("", "", "") if content == IDS else (answer.text, answer.reasoning, arguments)
        assert whole(deltas) == text
        assert ids == ([] if content == TEXT else answer.token_ids)
        assert deltas[-1].end == answer.end
        offsets = [each.token_offset for each in deltas]
        assert offsets == sorted(offsets)
        if max_tokens:
            assert max(len(each.token_ids) for each in deltas) <= max_tokens
            assert offsets[-1] >= len(answer.token_ids) - max_tokens
        for each in deltas[:-1]:
            assert each.token_ids or each.text or each.reasoning or each.tool_calls


@pytest.mark.parametrize(("content", "deltas"), [(TEXT, 3), (IDS, None)])
async def test_token_by_token_it_is_the_same(started, monkeypatch, content, deltas):
    """What has nothing of the content is not sent: the parts of a character have no text."""
    worker, frontend, stream = started
    monkeypatch.setattr(worker, "script", None)
    while stream._submits.qsize():  # what the script has answered
        stream._submits.get_nowait()
    text = "a🦊b"
    request = tokenization_pb2.TokenizeRequest(text=text, add_special_tokens=False)
    ids = list((await frontend.tokenization.Tokenize(request)).token_ids)
    assert len(ids) > len(text)
    opening = fg.Open(id=1, generation=generation([7, 8], 200), stream={"content": content})
    async with frontend.session() as session:
        await session.call.write(fg.SessionRequest(open=opening))
        handle = (await stream.submit()).handle
        stream.accept(handle)
        read: list[fg.Delta] = []

        async def read_on() -> None:
            events = (await session.call.read()).events
            read.extend(event.delta for event in events if event.HasField("delta"))

        await read_on()
        log = (await live(frontend)).logs[0]
        for count, token in enumerate(ids, 1):
            stream.tokens(handle, token)
            await until(lambda count=count: log.token_count == count)
            if content == IDS or log.cut[-1] > log.cut[-2]:
                await read_on()
        stream.end(handle)
        stream.complete(handle)
        while not read[-1].HasField("end"):
            await read_on()
    assert whole(read)[0] == (text if content == TEXT else "")
    assert [token for each in read for token in each.token_ids] == (ids if content == IDS else [])
    assert len(read) == (deltas or len(ids)) + 1


async def live(frontend: FrontendHere) -> Generation:
    """Returns the only live generation."""
    await until(lambda: len(frontend.generator._live) == 1)
    [found] = frontend.generator._live
    return found


async def test_stop_strings_end_a_sequence_whose_text_is_not_sent(frontend):
    what = generation([7, 8], 200, stop={"stop": ["tool"]})
    [answer] = (await frontend.generate(what)).sequences
    deltas = await deltas_of(frontend, "stream", what, content=IDS)
    assert [token for each in deltas for token in each.token_ids] == answer.token_ids
    assert deltas[-1].end.stop == "tool"


async def test_log_probabilities_come_with_text_alone_too(frontend):
    what = generation([7, 8], 200, output={"logprobs": True})
    deltas = await deltas_of(frontend, "stream", what, content=TEXT)
    [answer] = (await frontend.generate(what)).sequences
    assert [each for delta in deltas for each in delta.logprobs] == list(answer.logprobs)
    assert not any(each.token_ids for each in deltas)


@pytest.mark.parametrize(
    ("output", "stream", "field"),
    [
        ({"echo": True}, {"content": IDS}, "generation.output.echo"),
        ({}, {"content": 9}, "stream.content"),
    ],
)
async def test_what_contradicts_itself_or_is_unknown_is_refused(frontend, output, stream, field):
    what = generation([7, 8], output=output)
    request = fg.StreamGenerateRequest(generation=what, stream=stream)
    call = frontend.generations.StreamGenerate(request, timeout=WAIT_S)
    refusal = await refused(call.read())
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == [field]
    async with frontend.session() as session:
        session.expect(1)
        opening = fg.Open(id=1, generation=what, stream=stream)
        await session.call.write(fg.SessionRequest(open=opening))
        [ended] = await session.finish(1)
        assert refusal_of_status(ended.error).fields == [f"open.{field}"]
