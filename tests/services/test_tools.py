"""Tools over both services with a real model: the call, its result, the answer; held calls."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from tokenwire import Answer, AsyncClient, Client, FinishReason
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import prompt_pb2 as pb

from tests.services.calls import duration, read, refused
from tests.services.processes import WAIT_S

WEATHER = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": json.dumps(
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    ),
}
TIME = {
    "name": "get_time",
    "description": "Get the time in a city.",
    "parameters": '{"type": "object", "properties": {"city": {"type": "string"}}}',
}
RESULT = '{"temperature": 21, "sky": "sunny"}'
QUESTION = {"role": pb.ROLE_USER, "content": "What is the weather in Paris?"}


def asked(*further: dict, **chat) -> fg.Generation:
    """Returns a greedy generation that goes on with the question."""
    fields = {"messages": [QUESTION, *further], "tools": [WEATHER, TIME], **chat}
    return fg.Generation(
        prompt={"chat": fields}, stop={"max_tokens": 200}, sampling={"temperature": 0}
    )


def through_generate(frontend, what):
    [sequence] = frontend.generate(what).sequences
    return [(c.id, c.name, c.arguments) for c in sequence.tool_calls], sequence.text, sequence.end


def through_stream(frontend, what):
    streamed = read(frontend.start(what))
    return streamed.calls(), streamed.text(), streamed.end()


def through_session(frontend, what):
    with frontend.session() as session:
        session.open(1, what)
        [streamed] = session.finish(1)
    return streamed.calls(), streamed.text(), streamed.end()


@pytest.mark.parametrize("through", [through_generate, through_stream, through_session])
def test_a_call_its_result_and_the_answer(frontend, through):
    made, text, end = through(frontend, asked())
    [(call_id, name, arguments)] = made
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Paris"})
    assert (text, end.reason) == ("", fg.FINISH_REASON_TOOL_CALLS)
    call = {"id": call_id, "name": name, "arguments": arguments}
    made, text, end = through(
        frontend,
        asked(
            {"role": pb.ROLE_ASSISTANT, "tool_calls": [call]},
            {"role": pb.ROLE_TOOL, "tool_call_id": call_id, "content": RESULT},
        ),
    )
    assert not made
    assert text == "It is 21 degrees and sunny in Paris."
    assert end.reason == fg.FINISH_REASON_STOP


def test_the_raw_text_is_there_for_who_asks(frontend):
    what = asked()
    what.output.parse = False
    made, text, end = through_generate(frontend, what)
    assert not made
    assert json.loads(text) == {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert end.reason == fg.FINISH_REASON_STOP


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"mode": pb.TOOL_CHOICE_MODE_REQUIRED}, {"get_weather", "get_time"}),
        ({"name": "get_time"}, {"get_time"}),
        ({"name": "get_weather"}, {"get_weather"}),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_held_call_is_a_call_whatever_the_model_would_say(frontend, choice, names, strict):
    hello = {"role": pb.ROLE_USER, "content": "hi"}
    tools = [{**each, "strict": strict} for each in (WEATHER, TIME)]
    what = asked(messages=[hello], tools=tools, tool_choice=choice)
    made, text, end = through_stream(frontend, what)
    assert made
    assert text == ""
    assert {name for _, name, _ in made} <= names
    assert end.reason == fg.FINISH_REASON_TOOL_CALLS
    for _, name, arguments in made:
        found = json.loads(arguments)
        assert isinstance(found, dict)
        if strict:
            assert set(found) <= {"city"}
            assert name == "get_time" or isinstance(found["city"], str)


def test_none_calls_nothing(frontend):
    made, text, end = through_stream(
        frontend, asked(tool_choice={"mode": pb.TOOL_CHOICE_MODE_NONE})
    )
    assert not made
    assert text
    assert end.reason == fg.FINISH_REASON_STOP


@pytest.mark.parametrize(
    ("chat", "field"),
    [
        ({"tools": [], "tool_choice": {"mode": 3}}, "tool_choice"),
        ({"tool_choice": {"name": "nothing"}}, "tool_choice.name"),
        ({"tools": [WEATHER, WEATHER], "tool_choice": {"mode": 3}}, "tools[1].name"),
        (
            {
                "tools": [
                    WEATHER,
                    {"name": "f", "parameters": '{"properties": {"a": {"not": {"minimum": 1}}}}'},
                    {
                        "name": "g",
                        "strict": True,
                        "parameters": '{"properties": {"a": {"contains": {"type": "string"}}}}',
                    },
                ],
                "tool_choice": {"mode": 3},
            },
            "tools[2].parameters",
        ),
        (
            {
                "tools": [{**WEATHER, "strict": True, "parameters": '{"type": "array"}'}],
                "tool_choice": {"name": "get_weather"},
            },
            "tools[0].parameters",
        ),
    ],
)
def test_what_cannot_be_held_is_refused_by_its_field(frontend, chat, field):
    refusal = refused(lambda: frontend.generate(asked(**chat)))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == [f"generation.prompt.chat.{field}"]
    if field == "tools[2].parameters":
        assert "#/properties/a/contains" in refusal.descriptions[0]


def test_a_call_that_is_stopped_in_the_middle_comes_as_far_as_it_was(frontend):
    what = asked()
    what.stop.max_tokens = 14
    made, _, end = through_stream(frontend, what)
    [(_, name, arguments)] = made
    assert name == "get_weather"
    assert '{"city": "Paris"}'.startswith(arguments)
    assert end.reason == fg.FINISH_REASON_LENGTH


def test_a_cancel_and_a_budget_in_the_middle_of_a_call(frontend):
    many = {"mode": pb.TOOL_CHOICE_MODE_REQUIRED}
    endless = asked(tool_choice=many, tools=[{**TIME, "name": "t" * 200}])
    endless.stop.max_tokens = 3000
    with frontend.session() as session:
        session.open(1, endless)
        session.read_until(lambda: bool(session[1].deltas))
        session.cancel(1)
        [cancelled] = session.finish(1)
    assert cancelled.reason in (fg.FINISH_REASON_CANCELLED, fg.FINISH_REASON_TOOL_CALLS)
    endless.time_budget.CopyFrom(duration(0.02))
    assert read(frontend.start(endless)).reason in (
        fg.FINISH_REASON_TIME_BUDGET,
        fg.FINISH_REASON_TOOL_CALLS,
    )


# --- the Python client ---------------------------------------------------------------------------


def by_generate(address: str, **options: Any) -> Answer:
    with Client(address, timeout=WAIT_S) as client:
        return client.generate(**options)


def by_stream(address: str, **options: Any) -> Answer:
    with Client(address, timeout=WAIT_S) as client, client.stream(**options) as stream:
        for _ in stream:
            pass
        return stream.result


def by_session(address: str, **options: Any) -> Answer:
    async def run() -> Answer:
        async with AsyncClient(address, timeout=WAIT_S) as client, client.session() as session:
            async with session.open(**options) as generation:
                async for _ in generation:
                    pass
            return generation.result

    return asyncio.run(run())


@pytest.mark.parametrize("by", [by_generate, by_stream, by_session])
def test_the_client_goes_round_with_openais_shapes(frontend, by):
    tool = {"type": "function", "function": {**WEATHER, "strict": True}}
    options = {"tools": [tool], "temperature": 0, "max_tokens": 200}
    chat: list[Any] = [{"role": "user", "content": QUESTION["content"]}]
    first = by(frontend.address, chat=chat, **options)
    assert first.sequences[0].finish_reason is FinishReason.TOOL_CALLS
    [call] = first.tool_calls
    assert (call.name, call.arguments) == ("get_weather", '{"city": "Paris"}')
    chat += [first.message(), {"role": "tool", "content": RESULT, "tool_call_id": call.id}]
    last = by(frontend.address, chat=chat, **options)
    assert (last.text, last.tool_calls) == ("It is 21 degrees and sunny in Paris.", [])
    held = by(frontend.address, chat=chat[:1], tool_choice="required", **options)
    assert held.tool_calls[0].name == "get_weather"
