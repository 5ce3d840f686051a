"""Conversations over both services with a real model: turn by turn the same as whole chats."""

from __future__ import annotations

import pytest
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import prompt_pb2 as pb

from tests.services.calls import read
from tests.services.prompts import STOP

QUESTIONS = (
    "Hello, who are you?",
    "What is the capital of France?",
    "What is 345 + 678?",
)


def asked(messages: list[dict], conversation: dict | None = None) -> fg.Generation:
    return fg.Generation(
        prompt={"chat": {"messages": messages}},
        stop={"max_tokens": 80},
        sampling={"temperature": 0},
        conversation=conversation,
    )


def through_generate(frontend, what):
    answer = frontend.generate(what)
    [sequence] = answer.sequences
    return sequence.text, sequence.end.reason, answer.usage, answer.conversation


def through_stream(frontend, what):
    told = read(frontend.start(what))
    return told.text(), told.reason, told.completed.usage, told.accepted.conversation


def through_session(frontend, what):
    with frontend.session() as session:
        session.open(1, what)
        [told] = session.finish(1)
    return told.text(), told.reason, told.completed.usage, told.accepted.conversation


@pytest.mark.parametrize("through", [through_generate, through_stream, through_session])
def test_turn_by_turn_is_as_with_whole_chats(frontend, through):
    chat, seen_tokens = [], 0
    for question in QUESTIONS:
        new = {"role": pb.ROLE_USER, "content": question}
        conversation = {"id": f"three:{through.__name__}", "messages": len(chat)}
        text, reason, usage, made = through(frontend, asked([new], conversation))
        assert reason == STOP
        whole = frontend.generate(asked([*chat, new]))
        assert text == whole.sequences[0].text
        assert text
        assert (made.messages, made.kept_tokens) == (len(chat), seen_tokens)
        assert usage.prompt_tokens == whole.usage.prompt_tokens
        assert made.kept_tokens + made.encoded_tokens == usage.prompt_tokens
        chat += [new, {"role": pb.ROLE_ASSISTANT, "content": text}]
        seen_tokens = usage.prompt_tokens + usage.completion_tokens
