"""Reasoning over both services with a real model: apart from the text, before a call or a form."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
from tokenwire import Client
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import prompt_pb2 as pb
from tokenwire.frontend.v1 import tokenization_pb2

from tests.services.calls import Streamed, read
from tests.services.processes import WAIT_S

SUM = {"role": pb.ROLE_USER, "content": "What is 345 + 678?"}
WORKING = "345 + 600 = 945, 945 + 70 = 1015, 1015 + 8 = 1023."
WEATHER = {"name": "get_weather", "parameters": '{"properties": {"city": {"type": "string"}}}'}
QUESTION = {"role": pb.ROLE_USER, "content": "What is the weather in Paris?"}
RESULT = '{"temperature": 21, "sky": "sunny"}'
THINKS = json.dumps({"enable_thinking": True})


class Answer(NamedTuple):
    reasoning: str
    text: str
    calls: list[tuple[str, str, str]]


def asked(*messages: dict, guided: dict | None = None, **chat) -> fg.Generation:
    """Returns a greedy generation whose model reasons first."""
    fields = {"messages": messages, "template_arguments": THINKS, **chat}
    return fg.Generation(
        prompt={"chat": fields},
        stop={"max_tokens": 200},
        sampling={"temperature": 0},
        guided=guided,
    )


def told(streamed: Streamed) -> Answer:
    return Answer(streamed.reasoning(), streamed.text(), streamed.calls())


def through_generate(frontend, what):
    [sequence] = frontend.generate(what).sequences
    calls = [(each.id, each.name, each.arguments) for each in sequence.tool_calls]
    return Answer(sequence.reasoning, sequence.text, calls)


def through_stream(frontend, what):
    return told(read(frontend.start(what)))


def through_session(frontend, what):
    with frontend.session() as session:
        session.open(1, what)
        [streamed] = session.finish(1)
    return told(streamed)


EVERY_WAY = pytest.mark.parametrize("through", [through_generate, through_stream, through_session])


@EVERY_WAY
def test_reasoning_comes_apart_from_the_text_where_it_is_asked_for(frontend, through):
    assert through(frontend, asked(SUM)) == (WORKING, "345 + 678 = 1023.", [])
    plain = asked(SUM, template_arguments="")
    assert through(frontend, plain) == ("", "345 + 678 = 1023.", [])


@EVERY_WAY
def test_a_call_and_the_answer_to_its_result_come_after_reasoning(frontend, through):
    reasoning, text, [call] = through(frontend, asked(QUESTION, tools=[WEATHER]))
    assert (reasoning, text) == ("The tool get_weather can answer this.", "")
    call_id, name, arguments = call
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Paris"})
    called = {
        "role": pb.ROLE_ASSISTANT,
        "reasoning": reasoning,
        "tool_calls": [{"id": call_id, "name": name, "arguments": arguments}],
    }
    result = {"role": pb.ROLE_TOOL, "tool_call_id": call_id, "content": RESULT}
    answer = through(frontend, asked(QUESTION, called, result, tools=[WEATHER]))
    assert answer == ("The tool has answered.", "It is 21 degrees and sunny in Paris.", [])


def test_what_is_held_to_a_form_is_held_after_the_reasoning(frontend):
    choice = asked(SUM, guided={"choice": {"options": ["1023", "1024"]}})
    assert through_stream(frontend, choice) == (WORKING, "1023", [])
    required = {"mode": pb.TOOL_CHOICE_MODE_REQUIRED}
    held = asked(QUESTION, tools=[WEATHER], tool_choice=required)
    reasoning, text, [(_, name, arguments)] = through_stream(frontend, held)
    assert (reasoning, text) == ("The tool get_weather can answer this.", "")
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Paris"})


def test_the_template_leaves_earlier_reasoning_out(frontend):
    def rendered(**answer) -> str:
        turn = {"role": pb.ROLE_ASSISTANT, **answer}
        chat = {"messages": [SUM, turn, SUM], "template_arguments": THINKS}
        request = tokenization_pb2.RenderChatRequest(chat=chat)
        return frontend.tokenization.RenderChat(request, timeout=WAIT_S).text

    plain = rendered(content="1023.")
    assert rendered(content="1023.", reasoning=WORKING) == plain
    assert rendered(content=f"<think>\n{WORKING}\n</think>\n\n1023.") == plain
    assert plain.endswith("<|assistant|><think>\n")


def test_the_clients_deltas_have_the_reasoning_before_the_text(frontend):
    chat = [{"role": "user", "content": SUM["content"]}]
    options = {"template_arguments": {"enable_thinking": True}, "temperature": 0}
    with (
        Client(frontend.address, timeout=WAIT_S) as client,
        client.stream(chat=chat, **options) as stream,
    ):
        kinds = "".join("r" * bool(each.reasoning) + "t" * bool(each.text) for each in stream)
        answer = stream.result
    assert kinds == "r" * kinds.count("r") + "t" * kinds.count("t")
    assert (answer.reasoning, answer.text) == (WORKING, "345 + 678 = 1023.")
    assert answer.message().reasoning == WORKING
