"""Reasoning and tool calls of an answer, from every kind of call."""

import pytest
from tokenwire import (
    AsyncClient,
    ChatMessage,
    FinishReason,
    SequenceResult,
    ToolCall,
    ToolCallDelta,
)

from tests.client.scripted_server import HELLO, PARSED, Hold, accepted, call_delta, delta, end

CHAT = [{"role": "user", "content": "How is the weather?"}]
CALLS = [ToolCall("add", '{"b": 1e2, "a": 1}', "c-0"), ToolCall("now", "{}", "c-1")]
MESSAGE = ChatMessage("assistant", "It is sunny.", tool_calls=tuple(CALLS), reasoning="let me see")


def check(deltas, answer):
    assert [each.reasoning for each in deltas] == ["let me ", "see", "", "", "", ""]
    assert [list(each.tool_calls) for each in deltas[4:]] == [
        [ToolCallDelta(0, "c-0", "add", '{"b": 1e2')],
        [ToolCallDelta(0, "", "", ', "a": 1}'), ToolCallDelta(1, "c-1", "now", "{}")],
    ]
    assert (answer.text, answer.reasoning, answer.tool_calls) == (
        *("It is sunny.", "let me see"),
        CALLS,
    )
    assert answer.finish_reason is FinishReason.TOOL_CALLS
    assert answer.message() == MESSAGE


async def test_a_stream_has_them_piece_by_piece_and_its_result_whole(twin, server):
    server.play("", *PARSED)
    stream = twin.stream(chat=CHAT)
    check(await twin.read(stream), stream.result)
    assert stream.message() == MESSAGE


async def test_a_session_likewise(server):
    server.play("", *PARSED)
    async with AsyncClient(server.address) as client, client.session() as session:
        generation = session.open(chat=CHAT)
        check([each async for each in generation], generation.result)
        assert (await session.generate(chat=CHAT)).message() == MESSAGE


async def test_a_whole_answer_has_them(twin, server):
    server.play("", *PARSED)
    answer = await twin.call("generate", chat=CHAT)
    assert answer.message() == MESSAGE
    assert answer.finish_reason is FinishReason.TOOL_CALLS
    chat = [*CHAT, answer.message(), {"role": "tool", "tool_call_id": "c-0", "content": "3"}]
    await twin.call("generate", chat=chat)
    sent = server.last.generation.prompt.chat.messages[1]
    assert sent.reasoning == "let me see"
    assert [each.arguments for each in sent.tool_calls] == ['{"b": 1e2, "a": 1}', "{}"]


async def test_a_text_has_them_where_it_is_asked_for(twin, server):
    server.play("hi", *PARSED)
    stream = twin.stream("hi", parse=True)
    await twin.read(stream)
    assert stream.result.tool_calls == CALLS


async def test_sequences_are_kept_apart(twin, server):
    server.play(
        "",
        accepted(),
        delta(ids=[1], sequence=1, reasoning="b"),
        delta(ids=[1], reasoning="a", tool_calls=[call_delta(name="f")], end=end("TOOL_CALLS")),
        delta(ids=[2], offset=1, sequence=1, tool_calls=[call_delta(name="g")], end=end()),
        HELLO[-1],
    )
    stream = twin.stream(chat=CHAT, n=2)
    await twin.read(stream)
    first, second = stream.result.sequences
    assert (first.reasoning, first.tool_calls[0].name) == ("a", "f")
    assert (second.reasoning, second.tool_calls[0].name) == ("b", "g")


async def test_what_had_come_of_a_cancelled_answer_is_a_message(twin, server):
    server.play("", accepted(), delta("It is", [1], reasoning="hm"), Hold())
    stream = twin.stream(chat=CHAT)
    assert stream.message() == ChatMessage("assistant", "")
    await twin.read_one(stream)
    await twin.cancel(stream)
    assert stream.message() == ChatMessage("assistant", "It is", reasoning="hm")
    assert stream.result.message() == stream.message()


@pytest.mark.parametrize("text", ["", "Well."])
def test_a_turn_of_calls_alone_has_no_content(text):
    message = SequenceResult(text, [], [], FinishReason.STOP, tool_calls=CALLS).message()
    assert message.content == (text or None)
