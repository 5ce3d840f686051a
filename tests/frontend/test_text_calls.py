"""Bounds of the calls about text: what exceeds one is refused by name, and holds up nobody."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import pytest
import pytest_asyncio
from google.rpc import status_pb2
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import options_pb2, prompt_pb2
from tokenwire.frontend.v1 import tokenization_pb2 as tk
from tokenwire_frontend.edge.grpc import tokenization_servicer
from tokenwire_frontend.workers.link import LinkState
from tokenwire_service.status import from_status

from tests.frontend.frontend_here import FrontendHere, frontend_of
from tests.frontend.scripted_worker import ScriptedWorker

HELD_CPU_S = 0.2
"""CPU time of the loop in one piece: 20 ms of its own, and gRPC's parsing of a request, which takes
0.1 s where it is a million empty messages."""

TRIES = 3
"""The same work takes several times as much CPU time where other cores are busy, for a while."""

T = TypeVar("T")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def frontend() -> AsyncIterator[FrontendHere]:
    async with ScriptedWorker() as worker, frontend_of(worker, text_processes=True) as frontend:
        await frontend.wait_for(worker, LinkState.READY)
        yield frontend


async def refusal(call: Any) -> tuple[str, list[str], str]:
    """Returns the reason, the fields and the message that a call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await (call if hasattr(call, "__await__") else call.read())
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = refused.value.trailing_metadata()["grpc-status-details-bin"]
    error = from_status(status_pb2.Status.FromString(details))
    return error.reason, [each.field for each in error.violations], error.message


async def holds_nobody_up(work: Callable[[], Awaitable[T]]) -> T:
    """Does it; fails where it holds the loop for too long in one piece, each time."""
    for _ in range(TRIES):
        held_s, done = await watched(work)
        if held_s < HELD_CPU_S:
            return done
    raise AssertionError(f"the loop was held for {held_s} s")


async def watched(work: Callable[[], Awaitable[T]]) -> tuple[float, T]:
    """Does it; returns as well for how long it held the loop in one piece, by its CPU time."""
    longest_s = 0.0

    async def tick() -> None:
        nonlocal longest_s
        last_s = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now_s = time.thread_time()
            longest_s, last_s = max(longest_s, now_s - last_s), now_s

    # What the test runner itself holds is not for the collector to go through meanwhile; a frontend
    # freezes what it has imported likewise.
    gc.collect()
    gc.freeze()
    try:
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(tick())
            done = await work()
            ticking.cancel()
    finally:
        gc.unfreeze()
    return longest_s, done


WIDE = 1_300_000

HEAVY: dict[str, tuple[Callable[[FrontendHere], Any], str, str]] = {
    "ids to text": (
        lambda frontend: frontend.tokenization.Detokenize(
            tk.DetokenizeRequest(token_ids=[30] * 4_000_000)
        ),
        "INVALID_FIELD",
        "token_ids",
    ),
    "ids to text, streamed": (
        lambda frontend: frontend.tokenization.StreamDetokenize(
            iter([tk.StreamDetokenizeRequest(token_ids=[30] * 4_000_000, end=True)])
        ),
        "INVALID_FIELD",
        "token_ids",
    ),
    "messages": (
        lambda frontend: frontend.tokenization.RenderChat(
            tk.RenderChatRequest(chat=prompt_pb2.Chat(messages=[prompt_pb2.ChatMessage()] * WIDE))
        ),
        "INVALID_FIELD",
        "chat.messages",
    ),
    "tools": (
        lambda frontend: frontend.tokenization.RenderChat(
            tk.RenderChatRequest(
                chat=prompt_pb2.Chat(messages=[USER], tools=[prompt_pb2.Tool()] * WIDE)
            )
        ),
        "INVALID_FIELD",
        "chat.tools",
    ),
    "documents": (
        lambda frontend: frontend.tokenization.RenderChat(
            tk.RenderChatRequest(
                chat=prompt_pb2.Chat(messages=[USER], documents=[prompt_pb2.Document()] * WIDE)
            )
        ),
        "INVALID_FIELD",
        "chat.documents",
    ),
    "calls of tools": (
        lambda frontend: frontend.tokenization.RenderChat(
            tk.RenderChatRequest(
                chat=prompt_pb2.Chat(
                    messages=[prompt_pb2.ChatMessage(tool_calls=[prompt_pb2.ToolCall()] * WIDE)]
                )
            )
        ),
        "INVALID_FIELD",
        "chat.messages",
    ),
    "stop strings": (
        lambda frontend: generated(frontend, stop=options_pb2.StopConditions(stop=[""] * WIDE)),
        "INVALID_FIELD",
        "generation.stop.stop",
    ),
    "stop ids": (
        lambda frontend: generated(
            frontend, stop=options_pb2.StopConditions(stop_token_ids=[1] * 4_000_000)
        ),
        "INVALID_FIELD",
        "generation.stop.stop_token_ids",
    ),
    "a prompt of ids": (
        lambda frontend: generated(
            frontend,
            prompt=prompt_pb2.Prompt(token_ids=prompt_pb2.TokenIds(ids=[30] * 4_000_000)),
            output=options_pb2.OutputOptions(echo=True),
        ),
        "PROMPT_TOO_LONG",
        "generation.prompt",
    ),
    "a prompt of text": (
        lambda frontend: generated(frontend, prompt=prompt_pb2.Prompt(text="ab " * WIDE)),
        "PROMPT_TOO_LONG",
        "generation.prompt",
    ),
    "a prompt of a chat": (
        lambda frontend: generated(
            frontend,
            prompt=prompt_pb2.Prompt(
                chat=prompt_pb2.Chat(
                    messages=[prompt_pb2.ChatMessage(role=2, content="ab " * WIDE)]
                )
            ),
        ),
        "PROMPT_TOO_LONG",
        "generation.prompt",
    ),
    "JSON": (
        lambda frontend: frontend.tokenization.RenderChat(
            tk.RenderChatRequest(
                chat=prompt_pb2.Chat(
                    messages=[USER], template_arguments='{"a": [' + "1," * 1_900_000 + "]}"
                )
            )
        ),
        "INVALID_FIELD",
        "chat.template_arguments",
    ),
}

USER = prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_USER, content="hi")


def generated(frontend: FrontendHere, **fields: Any) -> Any:
    fields.setdefault("prompt", prompt_pb2.Prompt(text="a"))
    return frontend.generations.Generate(fg.GenerateRequest(generation=fg.Generation(**fields)))


@pytest.mark.parametrize("name", HEAVY)
async def test_what_fills_a_request_is_refused_by_name_and_holds_up_nobody(frontend, name):
    call, reason, field = HEAVY[name]
    told, fields, message = await holds_nobody_up(lambda: refusal(call(frontend)))
    assert told == reason
    assert field in fields
    assert len(message) < 4096


@pytest.mark.parametrize("with_offsets", [False, True])
async def test_many_tokens_come_whole_and_hold_up_nobody(frontend, with_offsets):
    text = "ab " * 100_000

    async def there_and_back() -> tuple[tk.TokenizeResponse, tk.DetokenizeResponse]:
        answer = await frontend.tokenization.Tokenize(
            tk.TokenizeRequest(text=text, with_offsets=with_offsets)
        )
        ids = tk.DetokenizeRequest(token_ids=answer.token_ids)
        return answer, await frontend.tokenization.Detokenize(ids)

    answer, again = await holds_nobody_up(there_and_back)
    assert again.text == text
    assert len(answer.offset_starts) == len(answer.offset_ends)
    assert len(answer.offset_starts) == (len(answer.token_ids) if with_offsets else 0)


async def test_a_prompt_that_cannot_fit_is_not_tokenised(frontend, monkeypatch):
    async def encode(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(frontend.generator.tokenizers, "encode", encode)
    longest = 4095 * 200
    prompt = prompt_pb2.Prompt(text="x" * longest)
    reason, fields, message = await refusal(generated(frontend, prompt=prompt))
    assert (reason, fields) == ("PROMPT_TOO_LONG", ["generation.prompt"])
    assert "at least" in message


async def test_an_answer_that_would_be_too_large_names_the_call_to_use(frontend, monkeypatch):
    monkeypatch.setattr(tokenization_servicer, "ANSWER_BYTES_LIMIT", 1000)
    text = "word " * 1200
    told = await refusal(frontend.tokenization.Tokenize(tk.TokenizeRequest(text=text)))
    assert told[:2] == ("ANSWER_TOO_LARGE", ["text"])
    assert "StreamTokenize" in told[2]
    with_offsets = tk.TokenizeRequest(text=text[:2000], with_offsets=True)
    assert (await refusal(frontend.tokenization.Tokenize(with_offsets)))[1] == ["text"]
    ids = (await frontend.tokenization.Tokenize(tk.TokenizeRequest(text=text[:2000]))).token_ids
    told = await refusal(frontend.tokenization.Detokenize(tk.DetokenizeRequest(token_ids=ids)))
    assert told[:2] == ("ANSWER_TOO_LARGE", ["token_ids"])
    assert "StreamDetokenize" in told[2]
    chat = prompt_pb2.Chat(messages=[prompt_pb2.ChatMessage(role=2, content=text)])
    told = await refusal(frontend.tokenization.RenderChat(tk.RenderChatRequest(chat=chat)))
    assert told[:2] == ("ANSWER_TOO_LARGE", ["chat"])


async def test_a_streamed_response_that_would_be_too_large_is_refused(frontend, monkeypatch):
    ids = (await frontend.tokenization.Tokenize(tk.TokenizeRequest(text="word " * 500))).token_ids
    monkeypatch.setattr(tokenization_servicer, "STREAMED_BYTES_LIMIT", 1000)
    told = await refusal(
        frontend.tokenization.StreamTokenize(iter([tk.StreamTokenizeRequest(text="word " * 1000)]))
    )
    assert told[:2] == ("ANSWER_TOO_LARGE", ["text"])
    told = await refusal(
        frontend.tokenization.StreamDetokenize(iter([tk.StreamDetokenizeRequest(token_ids=ids)]))
    )
    assert told[:2] == ("ANSWER_TOO_LARGE", ["token_ids"])
