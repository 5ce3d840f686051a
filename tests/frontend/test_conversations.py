"""Conversations: a request brings the new turn alone, and the worker gets the whole chat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import prompt_pb2, tokenization_pb2
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.generation.conversation import Conversations

from tests.frontend.frontend_here import FrontendHere, frontend_of, refused, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import Streamed, generation, refusal_of_status

pytestmark = pytest.mark.asyncio(loop_scope="module")

END = 6
"""The demo model's `<|end|>`."""

QUESTION, ANSWER, NEXT = "Who is there?", "It is I.", "And who are you?"


class Here:
    """A frontend and a worker that answers each prompt with the same ids."""

    def __init__(self, frontend: FrontendHere, worker: ScriptedWorker) -> None:
        self.frontend = frontend
        self.prompts: list[list[int]] = []
        """Ids of each prompt that the worker got."""
        self.answer: list[int] = []
        self.reason = pb.FINISH_REASON_STOP
        self.waits = False
        """The worker accepts and generates nothing."""
        self.handles: list[tuple[Stream, int]] = []
        worker.script = self._generate

    def _generate(self, stream: Stream, submit: pb.Submit) -> None:
        self.prompts.append(list(submit.request.prompt_token_ids))
        self.handles.append((stream, submit.handle))
        stream.accept(submit.handle)
        if not self.waits:
            self.finish()

    def finish(self) -> None:
        stream, handle = self.handles[-1]
        stream.tokens(handle, *self.answer)
        stream.end(handle, reason=self.reason)
        stream.complete(handle, completion_tokens=len(self.answer))

    async def ids(self, text: str) -> list[int]:
        asked = tokenization_pb2.TokenizeRequest(text=text, add_special_tokens=False)
        return list((await self.frontend.tokenization.Tokenize(asked)).token_ids)

    async def says(self, text: str) -> None:
        """Has the worker answer with this, a character at a time."""
        ids = [each for letter in text for each in await self.ids(letter)]
        self.answer = [*ids, END]

    async def rendered(self, *messages: dict[str, Any]) -> tuple[str, list[int]]:
        asked = tokenization_pb2.RenderChatRequest(chat={"messages": messages})
        made = await self.frontend.tokenization.RenderChat(asked)
        return made.text, list(made.token_ids)

    async def text(self, ids: list[int]) -> str:
        asked = tokenization_pb2.DetokenizeRequest(token_ids=ids, skip_special_tokens=False)
        return (await self.frontend.tokenization.Detokenize(asked)).text

    async def turn(self, held: int, *messages: dict[str, Any], **fields: Any) -> Streamed:
        """Streams a turn of the conversation `c`."""
        streamed = Streamed()
        for place, each in enumerate(fields.get("output_so_far", ())):
            streamed._counts[place] = len(each["token_ids"])
        async for event in self.frontend.stream(turn(held, *messages, **fields)):
            streamed.take(event)
        return streamed

    @property
    def conversations(self) -> Conversations:
        return self.frontend.generator.conversations


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lasting() -> AsyncIterator[Here]:
    async with ScriptedWorker() as worker:
        worker.info.contract_revision = 4
        async with frontend_of(worker) as frontend:
            await frontend.wait_for(worker, LinkState.READY)
            yield Here(frontend, worker)


@pytest_asyncio.fixture(loop_scope="module")
async def here(lasting: Here) -> AsyncIterator[Here]:
    """No conversation is held, and the worker answers ANSWER."""
    lasting.prompts, lasting.reason, lasting.waits = [], pb.FINISH_REASON_STOP, False
    await lasting.says(ANSWER)
    for name in [*lasting.conversations._held]:
        lasting.conversations._drop(name)
    yield lasting
    assert not lasting.conversations._in_turn


def user(content: str) -> dict[str, Any]:
    return {"role": prompt_pb2.ROLE_USER, "content": content}


def assistant(content: str, **fields: Any) -> dict[str, Any]:
    return {"role": prompt_pb2.ROLE_ASSISTANT, "content": content, **fields}


def turn(held: int, *messages: dict[str, Any], name: str = "c", **fields: Any) -> fg.Generation:
    chat = {"messages": messages, **fields.pop("chat", {})}
    prompt = {"chat": chat, **fields.pop("prompt", {})}
    conversation = {"id": name, "messages": held}
    return generation(prompt, 64, conversation=conversation, **fields)


async def test_the_worker_gets_the_whole_chat_with_the_ids_that_it_has_seen(here):
    first = await here.turn(0, user(QUESTION))
    told = first.accepted.conversation
    assert (told.messages, told.kept_tokens) == (0, 0)
    assert told.encoded_tokens == first.accepted.prompt_token_count
    second = await here.turn(2, user(NEXT))
    told = second.accepted.conversation
    one, two = here.prompts
    assert one + here.answer == two[: told.kept_tokens]
    assert (told.messages, told.kept_tokens) == (2, len(one) + len(here.answer))
    assert told.kept_tokens + told.encoded_tokens == len(two) == second.accepted.prompt_token_count
    text, ids = await here.rendered(user(QUESTION), assistant(ANSWER), user(NEXT))
    assert await here.text(two) == text
    # The tokenizer would have split the answer otherwise.
    assert two != ids


async def test_every_entry_point_tells_how_the_prompt_was_made(here):
    await here.turn(0, user(QUESTION))
    answer = await here.frontend.generate(turn(2, user(NEXT)))
    kept = len(here.prompts[0]) + len(here.answer)
    assert (answer.conversation.messages, answer.conversation.kept_tokens) == (2, kept)
    async with here.frontend.session() as session:
        await session.open(1, turn(4, user("Oh.")))
        [third] = await session.finish(1)
    assert third.accepted.conversation.messages == 4
    assert third.accepted.conversation.kept_tokens > kept
    plain = await here.frontend.generate(generation("Hello", 64))
    assert not plain.HasField("conversation")


async def test_the_answer_is_held_as_a_caller_would_send_it_back(here):
    tools = [{"name": "f", "parameters": '{"properties": {"a": {"type": "integer"}}}'}]
    chat = {"tools": tools, "template_arguments": '{"enable_thinking": true}'}
    await here.says('Why not?\n</think>\n{"name": "f", "arguments": {"a": 1}}')
    first = await here.turn(0, user(QUESTION), chat=chat)
    [(call_id, name, arguments)] = first.calls()
    assert (first.reasoning(), name, arguments) == ("Why not?", "f", '{"a": 1}')
    result = {"role": prompt_pb2.ROLE_TOOL, "content": "2", "tool_call_id": call_id}
    await here.turn(2, result, chat=chat)
    call = {"id": call_id, "name": "f", "arguments": arguments}
    told = {"role": prompt_pb2.ROLE_ASSISTANT, "reasoning": "Why not?", "tool_calls": [call]}
    await here.frontend.generate(
        generation({"chat": {"messages": [user(QUESTION), told, result], **chat}}, 64)
    )
    turned, whole = here.prompts[1:]
    assert await here.text(turned) == await here.text(whole)


@pytest.mark.parametrize("reason", [pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_STOP])
async def test_a_turn_that_ends_by_itself_is_held(here, reason):
    here.reason = reason
    await here.turn(0, user(QUESTION), output={"echo": True})
    assert (await here.turn(2, user(NEXT))).completed
    text, _ = await here.rendered(user(QUESTION), assistant(ANSWER), user(NEXT))
    assert await here.text(here.prompts[1]) == text


async def test_a_stop_string_ends_the_answer_that_is_held(here):
    await here.turn(0, user(QUESTION), stop={"stop": [" is"]})
    second = await here.turn(2, user(NEXT))
    text, _ = await here.rendered(user(QUESTION), assistant("It"), user(NEXT))
    assert await here.text(here.prompts[1]) == text
    assert second.accepted.conversation.kept_tokens == len(here.prompts[0]) + 2


async def test_a_turn_that_is_cancelled_fails_or_runs_out_of_time_leaves_it_as_it_was(here):
    await here.turn(0, user(QUESTION))
    here.waits = True
    async with here.frontend.session() as session:
        await session.open(1, turn(2, user(NEXT)))
        await session.read_until(lambda: session[1].accepted is not None)
        busy = await refused(here.frontend.generate(turn(2, user(NEXT))))
        assert (busy.code, busy.reason) == (grpc.StatusCode.ABORTED, "CONVERSATION_BUSY")
        await session.call.write(fg.SessionRequest(cancel=fg.Cancel(id=1)))
        stream, handle = here.handles[-1]
        await stream.cancel()
        stream.end(handle, reason=pb.FINISH_REASON_CANCELLED)
        stream.complete(handle)
        await session.finish(1)
        await session.open(2, turn(2, user(NEXT)))
        await session.read_until(lambda: session[2].accepted is not None)
        stream, handle = here.handles[-1]
        stream.fail(handle, grpc.StatusCode.INTERNAL, "BROKEN")
        [failed] = await session.finish(2)
        assert refusal_of_status(failed.error).reason == "BROKEN"
    late = await here.turn(2, user(NEXT), time_budget={"nanos": 1_000_000})
    assert late.reason == fg.FINISH_REASON_TIME_BUDGET
    here.waits = False
    assert (await here.turn(2, user(NEXT))).accepted.conversation.messages == 2
    assert (await here.turn(4, user("Oh."))).accepted.conversation.messages == 4


async def test_a_turn_that_goes_on_without_its_caller_is_held(here):
    here.waits = True
    detached = turn(0, user(QUESTION), on_disconnect=fg.ON_DISCONNECT_DETACH)
    call = here.frontend.stream(detached)
    assert (await call.read()).accepted.conversation.encoded_tokens
    call.cancel()
    here.waits = False
    here.finish()
    await until(lambda: not here.conversations._in_turn)
    assert (await here.turn(2, user(NEXT))).accepted.conversation.messages == 2


async def test_a_turn_that_goes_on_after_output_is_held_whole(here):
    await here.turn(0, user(QUESTION))
    known, here.answer = here.answer[:4], here.answer[4:]
    so_far = [{"token_ids": known}]
    rest = await here.turn(2, user(NEXT), output_so_far=so_far, output={"echo": True})
    assert rest.text() == ANSWER[4:]
    await here.turn(4, user("Oh."))
    chat = [user(QUESTION), assistant(ANSWER), user(NEXT), assistant(ANSWER), user("Oh.")]
    text, _ = await here.rendered(*chat)
    assert await here.text(here.prompts[-1]) == text


async def test_an_answer_that_was_cut_off_within_a_call_is_not_held(here):
    tools = [{"name": "f", "parameters": "{}"}]
    await here.says('{"name": "f", "arguments": {"a": ')
    here.reason, here.answer = pb.FINISH_REASON_LENGTH, here.answer[:-1]
    cut = await here.turn(0, user(QUESTION), chat={"tools": tools})
    assert cut.calls()
    gone = await refused(here.frontend.generate(turn(2, user(NEXT))))
    assert gone.reason == "CONVERSATION_GONE"


async def test_the_last_turn_may_be_repeated_and_others_not(here):
    await here.turn(0, user(QUESTION))
    await here.turn(2, user(NEXT))
    for count in (1, 3, 6):
        fault = await refused(here.frontend.generate(turn(count, user("Oh."))))
        assert (fault.code, fault.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "CONVERSATION_MISMATCH",
        )
        assert "has 4 messages here" in fault.message
        assert f"is {count}" in fault.message
    again = await here.turn(2, user("Say it again."))
    assert again.accepted.conversation.messages == 2
    text, _ = await here.rendered(user(QUESTION), assistant(ANSWER), user("Say it again."))
    assert await here.text(here.prompts[-1]) == text
    anew = await here.turn(0, user(NEXT))
    assert anew.accepted.conversation.kept_tokens == 0
    assert (await here.turn(2, user("Oh."))).completed


async def test_what_is_not_held_is_gone(here):
    await here.turn(0, user(QUESTION))
    never = await refused(here.frontend.generate(turn(2, user(NEXT), name="other")))
    assert never.code is grpc.StatusCode.FAILED_PRECONDITION
    assert never.reason == "CONVERSATION_GONE"
    [(name, held)] = here.conversations._held.items()
    here.conversations._held[name] = replace(held, model="another")
    of_another_model = await refused(here.frontend.generate(turn(2, user(NEXT))))
    assert of_another_model.reason == "CONVERSATION_GONE"


@pytest.mark.parametrize(
    ("what", "field"),
    [
        (turn(0, user("hi"), prompt={"add_special_tokens": True}), "prompt.add_special_tokens"),
        (
            turn(0, user("hi"), prompt={"truncate_prompt_tokens": 9}),
            "prompt.truncate_prompt_tokens",
        ),
        (
            turn(0, user("hi"), chat={"continue_final_message": True}),
            "prompt.chat.continue_final_message",
        ),
        (
            turn(0, user("hi"), chat={"add_generation_prompt": False}),
            "prompt.chat.add_generation_prompt",
        ),
    ],
)
async def test_what_does_not_go_with_a_conversation_is_refused_by_name(here, what, field):
    fault = await refused(here.frontend.generate(what))
    assert (fault.code, fault.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        [f"generation.{field}"],
    )


async def test_a_frontend_may_keep_none(here, monkeypatch):
    monkeypatch.setattr(here.conversations, "_limit_bytes", 0)
    fault = await refused(here.frontend.generate(turn(0, user("hi"))))
    assert fault.fields == ["generation.conversation"]


async def test_the_least_recently_used_makes_room(here, monkeypatch):
    conversations = here.conversations
    for name in "abc":
        await here.frontend.generate(turn(0, user(QUESTION), name=name))
    assert len(conversations) == 3
    held_bytes = conversations.bytes_held
    await here.frontend.generate(turn(2, user(NEXT), name="a"))
    monkeypatch.setattr(conversations, "_limit_bytes", held_bytes)
    await here.frontend.generate(turn(0, user(QUESTION), name="d"))
    assert conversations.bytes_held <= held_bytes
    gone = await refused(here.frontend.generate(turn(2, user(NEXT), name="b")))
    assert gone.reason == "CONVERSATION_GONE"
    await here.frontend.generate(turn(4, user(NEXT), name="a"))


async def test_one_that_is_too_large_drops_no_other(here, monkeypatch):
    await here.frontend.generate(turn(0, user(QUESTION), name="small"))
    monkeypatch.setattr(here.conversations, "_limit_bytes", 2 * here.conversations.bytes_held)
    await here.frontend.generate(turn(0, user(QUESTION * 100), name="large"))
    gone = await refused(here.frontend.generate(turn(2, user(NEXT), name="large")))
    assert gone.reason == "CONVERSATION_GONE"
    assert (await here.frontend.generate(turn(2, user(NEXT), name="small"))).sequences


async def test_what_is_idle_is_dropped_by_itself(here, monkeypatch):
    conversations = here.conversations
    monkeypatch.setattr(conversations, "_ttl_s", 0.01)
    conversations.close()
    conversations._expiry = None
    await here.frontend.generate(turn(0, user(QUESTION)))
    await until(lambda: not len(conversations))
    assert conversations.bytes_held == 0
    assert conversations.metrics.evictions.count("idle").value == 1


async def test_a_turn_goes_to_the_worker_that_has_its_blocks():
    async with (
        ScriptedWorker() as worker,
        ScriptedWorker() as other,
        frontend_of(worker, other) as frontend,
    ):
        for each in (worker, other):
            await frontend.wait_for(each, LinkState.READY)
        taken: list[str] = []

        def answers(each: ScriptedWorker) -> Any:
            def script(stream: Stream, submit: pb.Submit) -> None:
                taken.append(each.address)
                stream.generate(submit.handle, 300)

            return script

        worker.script, other.script = answers(worker), answers(other)
        for held in (0, 2, 4, 6):
            await frontend.generate(turn(held, user(QUESTION)))
        assert len(set(taken)) == 1
        taken.clear()
        for _ in range(4):
            await frontend.generate(generation({"chat": {"messages": [user(QUESTION)]}}, 64))
        assert len(set(taken)) == 2
