"""/v1/chat/completions, as OpenAI's client sees it."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from tokenwire.worker.v1 import execution_pb2 as pb

MODEL = "demo"
ASKED: list[Any] = [{"role": "user", "content": "2+2?"}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {"zeta": {"type": "integer"}, "alpha": {"const": 2**70}},
        },
    },
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
THOUGHTS = "Is it 4?</think>\n\n"
THINKING = {"chat_template_kwargs": {"enable_thinking": True}}


async def test_an_answer(deployment):
    deployment.says("Four é.")
    got = await deployment.client.chat.completions.create(
        model=MODEL, messages=ASKED, temperature=0, seed=7, extra_headers={"x-request-id": "r-1"}
    )
    [choice] = got.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Four é.")
    assert (choice.finish_reason, choice.index, got.model) == ("stop", 0, MODEL)
    assert (got.id, got._request_id, got.object) == ("chatcmpl-r-1", "r-1", "chat.completion")
    [asked] = deployment.asked
    assert got.usage.prompt_tokens == len(asked.prompt_token_ids)
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens
    assert got.usage.prompt_tokens_details.cached_tokens == 1
    assert (asked.sampling.temperature, asked.sampling.seed, asked.request_id) == (0, 7, "r-1")


async def test_a_stream(deployment):
    deployment.says('Four \u2028 "é" \\ 😀.', each=1)
    stream = await deployment.client.chat.completions.create(
        model=MODEL, messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    first, *middle, last, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert len(middle) > 3
    told = "".join(chunk.choices[0].delta.content or "" for chunk in (*middle, last))
    assert told == 'Four \u2028 "é" \\ 😀.'
    assert {chunk.choices[0].finish_reason for chunk in middle} == {None}
    assert last.choices[0].finish_reason == "stop"
    assert (usage.choices, usage.usage.completion_tokens > 3) == ([], True)
    assert {chunk.usage for chunk in chunks[:-1]} == {None}
    assert {(chunk.id, chunk.object) for chunk in chunks} == {(first.id, "chat.completion.chunk")}


@pytest.mark.parametrize("stream", [False, True])
async def test_several_sequences(deployment, stream):
    deployment.says("Four.")
    ask = {"model": MODEL, "messages": ASKED, "n": 3, "temperature": 1, "seed": 1}
    texts: dict[int, str] = {}
    if stream:
        async for chunk in await deployment.client.chat.completions.create(**ask, stream=True):
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    else:
        got = await deployment.client.chat.completions.create(**ask)
        texts = {choice.index: choice.message.content for choice in got.choices}
    assert texts == dict.fromkeys(range(3), "Four.")


async def test_reasoning_and_a_call(deployment):
    deployment.says(THOUGHTS + "Adding.\n" + CALL)
    got = await deployment.client.chat.completions.create(
        model=MODEL, messages=ASKED, tools=[ADD], extra_body=THINKING
    )
    message = got.choices[0].message
    assert message.reasoning_content.strip() == "Is it 4?"
    assert message.content.strip() == "Adding."
    [call] = message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == (
        "function",
        "add",
        '{"a": 2}',
    )
    assert got.choices[0].finish_reason == "tool_calls"
    # The template has the parameters as they were written: order of keys, digits of numbers.
    prompt = deployment.prompt()
    assert prompt.index("zeta") < prompt.index("alpha")
    assert str(2**70) in prompt
    # What a client does next: it sends the answer back, with the result.
    sent = [*ASKED, message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "4"}]
    deployment.says("It is 4.")
    got = await deployment.client.chat.completions.create(model=MODEL, messages=sent, tools=[ADD])
    assert got.choices[0].message.content == "It is 4."


async def test_a_call_in_a_stream(deployment):
    deployment.says(THOUGHTS + "Adding.\n" + CALL, each=1)
    ids, arguments, reasoning, content, finishes = [], [], "", "", set()
    stream = await deployment.client.chat.completions.create(
        model=MODEL, messages=ASKED, tools=[ADD], stream=True, extra_body=THINKING
    )
    async for chunk in stream:
        [choice] = chunk.choices
        finishes.add(choice.finish_reason)
        reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        content += choice.delta.content or ""
        for part in choice.delta.tool_calls or []:
            assert part.index == 0
            if part.id:
                ids.append((part.id, part.type, part.function.name))
            arguments.append(part.function.arguments)
    assert (reasoning.strip(), content.strip()) == ("Is it 4?", "Adding.")
    [(_, kind, name)] = ids
    assert (kind, name, "".join(arguments)) == ("function", "add", '{"a": 2}')
    assert len(arguments) > 2
    assert finishes == {None, "tool_calls"}


async def test_a_refusal_that_is_sent_back(deployment):
    deployment.says("Four.")
    refused = {"role": "assistant", "content": None, "refusal": "I will not."}
    await deployment.client.chat.completions.create(model=MODEL, messages=[*ASKED, refused, *ASKED])
    assert "<|assistant|>I will not.<|end|>" in deployment.prompt()


async def test_tool_choice(deployment):
    ask = {"model": MODEL, "messages": ASKED, "tools": [ADD]}
    chosen = {"type": "function", "function": {"name": "add"}}
    deployment.says('{"name": "add", "arguments": {"a": 2}}')
    for choice in (chosen, "required"):
        got = await deployment.client.chat.completions.create(**ask, tool_choice=choice)
        assert [call.function.name for call in got.choices[0].message.tool_calls] == ["add"]
        assert "add" in deployment.asked[-1].guide.json_schema
    other = {"type": "function", "function": {"name": "subtract"}}
    only = {"mode": "required", "tools": [{"type": "function", "function": {"name": "add"}}]}
    got = await deployment.client.chat.completions.create(
        **{**ask, "tools": [other, ADD]},
        tool_choice={"type": "allowed_tools", "allowed_tools": only},
    )
    assert [call.function.name for call in got.choices[0].message.tool_calls] == ["add"]
    assert "subtract" not in deployment.asked[-1].guide.json_schema + deployment.prompt()
    deployment.says(CALL)
    got = await deployment.client.chat.completions.create(**ask, tool_choice="none")
    assert (got.choices[0].message.content, got.choices[0].message.tool_calls) == (CALL, None)
    assert "zeta" not in deployment.prompt()


class Sum(BaseModel):
    """What an answer is parsed as."""

    total: int
    unit: Literal["apples"]


async def test_structured_output(deployment):
    deployment.says('{"total": 4, "unit": "apples"}')
    got = await deployment.client.chat.completions.parse(
        model=MODEL, messages=ASKED, response_format=Sum
    )
    assert got.choices[0].message.parsed == Sum(total=4, unit="apples")
    [asked] = deployment.asked
    assert list(json.loads(asked.guide.json_schema)["properties"]) == ["total", "unit"]
    guides = {
        "json_object": ({"response_format": {"type": "json_object"}}, "json_object"),
        "regex": ({"guided_regex": "a+"}, "regex"),
        "choice": ({"structured_outputs": {"choice": ["a", "b"]}}, "choice"),
        "text": ({"response_format": {"type": "text"}}, None),
    }
    for told, form in guides.values():
        await deployment.client.chat.completions.create(
            model=MODEL, messages=ASKED, extra_body=told
        )
        assert deployment.asked[-1].guide.WhichOneof("form") == form


async def test_log_probabilities(deployment):
    deployment.says("Four é.", each=1)
    ask = {"model": MODEL, "messages": ASKED, "logprobs": True, "top_logprobs": 2}
    got = await deployment.client.chat.completions.create(**ask)
    content = got.choices[0].logprobs.content
    assert bytes(byte for each in content for byte in each.bytes).decode() == "Four é."
    assert {each.logprob for each in content} == {-0.5}
    assert all(each.top_logprobs[0].token == each.token for each in content)
    assert {len(each.top_logprobs) for each in content} == {2}
    stream = await deployment.client.chat.completions.create(**ask, stream=True)
    streamed = [
        each
        async for chunk in stream
        if chunk.choices[0].logprobs
        for each in chunk.choices[0].logprobs.content
    ]
    assert streamed == content


async def test_log_probabilities_of_a_long_answer(deployment):
    """It is written in parts, and in one piece for the client."""
    deployment.says("word " * 2000, each=50)
    got = await deployment.client.chat.completions.create(
        model=MODEL, messages=ASKED, logprobs=True, top_logprobs=20
    )
    [choice] = got.choices
    content = choice.logprobs.content
    assert "".join(each.token for each in content).strip() == choice.message.content.strip()
    assert len(content) == got.usage.completion_tokens > 2000


async def test_what_a_worker_is_asked(deployment):
    deployment.says("Four.", reason=pb.FINISH_REASON_LENGTH)
    got = await deployment.client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "developer", "content": "Be short."}, *ASKED],
        max_completion_tokens=50,
        stop=["\n\n"],
        top_p=0.5,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"300": -100},
        user="u",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        verbosity="medium",
        seed=-2,
        extra_body={"top_k": -1, "min_p": 0.125, "cache_salt": "s", "priority": 3, "min_tokens": 1},
    )
    assert got.choices[0].finish_reason == "length"
    [asked] = deployment.asked
    told = asked.sampling
    assert (told.top_p, told.top_k, told.min_p) == (0.5, 0, 0.125)
    assert told.seed == 2**64 - 2
    assert (told.presence_penalty, told.frequency_penalty) == (0.5, -0.5)
    assert [(each.token_id, each.bias) for each in told.logit_bias] == [(300, -100)]
    assert (asked.stopping.max_tokens, asked.cache_salt, asked.priority) == (50, "s", 3)


async def test_a_stop_string(deployment):
    deployment.says("One. Two. Three.")
    got = await deployment.client.chat.completions.create(
        model=MODEL, messages=ASKED, stop=[" Two"]
    )
    [choice] = got.choices
    assert (choice.message.content, choice.finish_reason) == ("One.", "stop")
    assert choice.stop_reason == " Two"
