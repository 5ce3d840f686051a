"""What a worker is asked for, and what a client is given, where a request truncates its prompt,
biases tokens, bans words, or asks for log probabilities of its prompt."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import generation_pb2_grpc, prompt_pb2
from tokenwire.frontend.v1 import tokenization_pb2 as tk
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_frontend.core.request import GenerationRequest, Sampling, TextPrompt
from tokenwire_frontend.generation import prompt
from tokenwire_frontend.workers.link import LinkState
from tokenwire_service.errors import invalid
from tokenwire_service.status import to_status

from tests.frontend.frontend_here import FrontendHere, frontend_of, refused, until
from tests.frontend.generations import LIMITS
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.frontend.tokenizer_kinds import kinds
from tests.services.calls import SMALL_WINDOW, Streamed, generation

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE_BYTES = 2**20
STORY = "Once upon a time there was a small dog. "


class Here:
    """A frontend and its scripted worker."""

    def __init__(self, worker: ScriptedWorker, frontend: FrontendHere, stream: Stream) -> None:
        self.worker, self.frontend, self.stream = worker, frontend, stream

    async def tokenize(self, text: str, **fields: Any) -> list[int]:
        request = tk.TokenizeRequest(text=text, **fields)
        return list((await self.frontend.tokenization.Tokenize(request)).token_ids)

    async def asked(self, what: fg.Generation) -> tuple[pb.Request, fg.GenerateResponse]:
        """Returns what the worker is asked for, and the answer, once it has given one token."""
        call = self.frontend.generate(what)
        submit = await self.stream.submit()
        self.stream.generate(submit.handle, 300)
        return submit.request, await call


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def here() -> AsyncIterator[Here]:
    async with ScriptedWorker() as worker:
        worker.info.limits.context_tokens = worker.info.limits.prompt_tokens = 60_000
        worker.info.capabilities.extend(
            [
                worker_pb2.CAPABILITY_LOGIT_BIAS,
                worker_pb2.CAPABILITY_BANNED_SEQUENCES,
                worker_pb2.CAPABILITY_PROMPT_LOGPROBS,
                worker_pb2.CAPABILITY_LOGPROBS,
            ]
        )
        async with frontend_of(worker, worker_answer_s=60) as frontend:
            await frontend.wait_for(worker, LinkState.READY)
            yield Here(worker, frontend, await worker.stream())


# --- truncation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "token_ids", "chat"])
async def test_a_truncated_prompt_of_any_form_is_its_last_tokens(here, form):
    asked: dict[str, Any] = {"text": STORY * 3}
    if form == "token_ids":
        asked = {"token_ids": {"ids": await here.tokenize(STORY * 3)}}
    elif form == "chat":
        user = prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_USER, content=STORY * 3)
        asked = {"chat": {"messages": [user]}}
    whole, _ = await here.asked(generation({**asked}))
    what = generation({**asked, "truncate_prompt_tokens": 7}, output={"echo": True})
    request, answer = await here.asked(what)
    assert list(request.prompt_token_ids) == list(whole.prompt_token_ids)[-7:]
    assert answer.usage.prompt_tokens == 7
    shown = await here.frontend.tokenization.Detokenize(
        tk.DetokenizeRequest(token_ids=request.prompt_token_ids, skip_special_tokens=False)
    )
    assert answer.sequences[0].text.startswith(shown.text)


async def test_a_prompt_that_is_not_too_long_is_kept_whole(here):
    ids = await here.tokenize(STORY)
    for most in (len(ids), len(ids) + 1):
        asked = {"text": STORY, "truncate_prompt_tokens": most}
        request, answer = await here.asked(generation(asked, output={"echo": True}))
        assert list(request.prompt_token_ids) == ids
        assert answer.sequences[0].text.startswith(STORY)


async def test_what_would_not_fit_is_truncated_and_what_is_beyond_all_bounds_is_refused(here):
    text = STORY * 8000  # 80,000 tokens
    request, _ = await here.asked(generation({"text": text, "truncate_prompt_tokens": 59_000}))
    assert len(request.prompt_token_ids) == 59_000
    untold = await refused(here.frontend.generate(generation(text)))
    assert (untold.reason, untold.fields) == ("PROMPT_TOO_LONG", ["generation.prompt"])
    for ids in ([5] * 262_145, [5] * 900_000):
        asked = {"token_ids": {"ids": ids}, "truncate_prompt_tokens": 5}
        refusal = await refused(here.frontend.generate(generation(asked)))
        assert (refusal.reason, refusal.fields) == ("PROMPT_TOO_LONG", ["generation.prompt"])
        assert "262144" in refusal.message


# --- biases and banned words ---------------------------------------------------------------------


async def test_biases_reach_the_worker(here):
    biases = [{"token_id": 7, "bias": -100.0}, {"token_id": 4095, "bias": 2.5}]
    request, _ = await here.asked(generation(sampling={"logit_bias": biases}))
    assert [(each.token_id, each.bias) for each in request.sampling.logit_bias] == [
        (7, -100.0), (4095, 2.5)
    ]  # fmt: skip


async def test_a_banned_word_is_the_ids_of_both_its_forms_each_once(here):
    words = ["dog", " dog", "once upon a time"]
    request, _ = await here.asked(generation(sampling={"banned_words": words}))
    forms = ["dog", " dog", "once upon a time", " once upon a time"]
    expected = [await here.tokenize(form, add_special_tokens=False) for form in forms]
    assert [list(each.ids) for each in request.sampling.banned_sequences] == expected


class Pool:
    """Tokenises here."""

    def __init__(self, kind: str) -> None:
        self.tokenizer = kinds()[kind]

    async def encode_each(self, _key: str, texts: list[str]) -> list[array[int]]:
        ids = [self.tokenizer.encode_ids(text, add_special_tokens=False) for text in texts]
        return [array("I", each) for each in ids]


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "without_strip", "unigram"])
async def test_a_banned_word_has_no_form_that_is_not_banned(kind):
    pool = Pool(kind)
    vocabulary = pool.tokenizer.vocabulary_size
    model = SimpleNamespace(key="", limits=replace(LIMITS, vocabulary_size=vocabulary))
    words = ("the", "Wort")
    request = GenerationRequest(TextPrompt("a"), sampling=Sampling(banned_words=words))
    banned = [list(ids) for ids in await prompt.banned_sequences(pool, model, request)]
    assert len(banned) <= 6
    for text in ("the", "a the", "a\nthe b", "a Wort", "Wort\n", "\nWort"):
        ids = pool.tokenizer.encode_ids(text, add_special_tokens=False)
        runs = [ids[start:end] for end in range(1, len(ids) + 1) for start in range(end)]
        assert any(run in banned for run in runs), text
    for text in ("a hat", "wo", "a\nb"):
        ids = pool.tokenizer.encode_ids(text, add_special_tokens=False)
        runs = [ids[start:end] for end in range(1, len(ids) + 1) for start in range(end)]
        assert not any(run in banned for run in runs), text


async def test_a_banned_word_of_too_many_tokens_is_refused_by_its_place(here):
    words = ["dog", "\U0001f9ff\u1234" * 100]
    refusal = await refused(here.frontend.generate(generation(sampling={"banned_words": words})))
    assert refusal.fields == ["generation.sampling.banned_words[1]"]
    assert "at most 256" in refusal.message


async def test_a_worker_that_bans_fewer_is_quoted_by_the_callers_field(here):
    call = here.frontend.generate(generation(sampling={"banned_words": ["dog"]}))
    submit = await here.stream.submit()
    status = to_status(invalid("request.sampling.banned_sequences", "2000 ids; at most 1024"))
    here.stream.send(failures=[pb.Failure(handle=submit.handle, status=status)])
    refusal = await refused(call)
    assert refusal.fields == ["generation.sampling.banned_words"]


# --- log probabilities of the prompt -------------------------------------------------------------


def scored(ids: list[int], alternatives: int = 0) -> list[pb.TokenLogprob]:
    others = [pb.Alternative(token_id=300 + each, logprob=-1.5) for each in range(alternatives)]
    first = [pb.TokenLogprob(token_id=ids[0])]
    return first + [
        pb.TokenLogprob(token_id=each, logprob=-0.5, alternatives=others) for each in ids[1:]
    ]


def give(stream: Stream, submit: pb.Submit, size: int = 700) -> None:
    """Sends log probabilities of the prompt in several frames, and then all that is asked for."""
    ids = list(submit.request.prompt_token_ids)
    tokens, handle = scored(ids, submit.request.prompt_logprobs), submit.handle
    stream.accept(handle)
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        told = pb.PromptLogprobs(handle=handle, token_offset=start, tokens=part)
        stream.send(prompt_logprobs=[told])
    stream.tokens(handle, 300, 301)
    stream.end(handle)
    stream.complete(handle)


def check(streamed: Streamed, ids: list[int]) -> None:
    told = streamed.prompt_logprobs
    assert [each.token_id for each in told] == ids
    assert told[0].logprob == 0
    assert {each.logprob for each in told[1:]} == {-0.5}
    assert streamed.ids() == [300, 301]


async def test_they_come_before_the_first_delta_in_every_call(here):
    ids = await here.tokenize(STORY * 300)
    what = generation(ids, 2, output={"prompt_logprobs": 0})
    call = here.frontend.stream(what)
    give(here.stream, await here.stream.submit())
    streamed = Streamed()
    async for event in call:
        streamed.take(event)
    check(streamed, ids)
    async with here.frontend.session() as session:
        await session.open(1, what)
        give(here.stream, await here.stream.submit())
        [streamed] = await session.finish(1)
    check(streamed, ids)
    whole = here.frontend.generate(what)
    give(here.stream, await here.stream.submit())
    answer = await whole
    assert list(answer.prompt_logprobs) == streamed.prompt_logprobs
    raw = b"".join(each.token for each in answer.prompt_logprobs)
    assert raw.decode() == STORY * 300


async def test_a_late_reader_gets_them_in_small_messages_and_little_is_held(here):
    ids = [300 + place % 3000 for place in range(20_000)]
    call = here.frontend.stream(generation(ids, 2, output={"prompt_logprobs": 20}))
    give(here.stream, await here.stream.submit())
    [live] = here.frontend.generator._live
    await until(lambda: live.done)
    assert 100_000 < live.prompt_log.bytes_held <= 20_000 * (20 + 20 * 8)
    streamed, messages = Streamed(), 0
    async for event in call:
        assert event.ByteSize() < MESSAGE_BYTES
        messages += 1
        streamed.take(event)
    check(streamed, ids)
    assert len(streamed.prompt_logprobs[1].alternatives) == 20
    assert messages > 20
    assert live.prompt_log.bytes_held == 0


async def test_a_late_reader_gets_them_before_the_tokens_of_what_goes_on(here):
    ids = [300 + place % 3000 for place in range(4000)]
    what = generation(ids, 2, output={"prompt_logprobs": 20})
    async with grpc.aio.insecure_channel(here.frontend.server.address, SMALL_WINDOW) as channel:
        late = generation_pb2_grpc.GenerationServiceStub(channel)
        call = late.StreamGenerate(fg.StreamGenerateRequest(generation=what))
        handle = (await here.stream.submit()).handle
        here.stream.accept(handle)
        told = pb.PromptLogprobs(handle=handle, tokens=scored(ids, 20))
        here.stream.send(prompt_logprobs=[told])
        here.stream.tokens(handle, 300)
        [live] = here.frontend.generator._live
        await until(lambda: live.logs and live.logs[0].token_count)
        streamed = Streamed()
        async for event in call:
            streamed.take(event)
            if streamed.ids() == [300]:
                here.stream.tokens(handle, 301)
                here.stream.end(handle)
                here.stream.complete(handle)
    check(streamed, ids)


async def test_an_answer_that_they_would_make_too_large_is_refused_before_the_work(here):
    what = generation([300] * 20_000, 2, output={"prompt_logprobs": 20})
    refusal = await refused(here.frontend.generate(what))
    assert refusal.reason == "ANSWER_TOO_LARGE"
    assert refusal.fields == ["generation.output.prompt_logprobs"]
    assert not here.frontend.link(here.worker).in_flight


async def test_more_of_them_than_are_kept_for_a_client_are_refused(here):
    what = generation([300] * 30_000, 2, output={"prompt_logprobs": 20})
    refusal = await refused(here.frontend.stream(what).read())
    assert refusal.fields == ["generation.output.prompt_logprobs"]
    assert "524288" in refusal.message


async def test_a_worker_that_leaves_some_out_ends_the_generation(here):
    call = here.frontend.generate(generation([5, 6, 7], 2, output={"prompt_logprobs": 0}))
    submit = await here.stream.submit()
    here.stream.accept(submit.handle)
    told = pb.PromptLogprobs(handle=submit.handle, tokens=scored([5, 6]))
    here.stream.send(prompt_logprobs=[told])
    here.stream.tokens(submit.handle, 300)
    refusal = await refused(call)
    assert refusal.reason == "WORKER_PROTOCOL"
    assert (await here.stream.cancel()).handle == submit.handle
    here.stream.complete(submit.handle)


async def test_where_they_are_not_asked_for_there_are_none(here):
    request, answer = await here.asked(generation([5, 6], 2))
    assert not request.HasField("prompt_logprobs")
    assert not answer.prompt_logprobs
