"""Texts in the form of the gen_ai conventions, and where they are cut."""

from __future__ import annotations

import json

import pytest
from tokenwire_frontend.core.channels import Channel, Piece
from tokenwire_frontend.core.log import SequenceLog
from tokenwire_frontend.core.request import ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from tokenwire_frontend.generation.span_content import (
    CHARACTERS_LIMIT,
    input_messages,
    output_messages,
)


def contents(messages: str) -> list[str]:
    return [message["parts"][0]["content"] for message in json.loads(messages)]


@pytest.mark.parametrize("excess", [-1, 0, 1, 50_000])
def test_a_prompt_is_cut_at_the_limit(excess):
    text = "é" * (CHARACTERS_LIMIT + excess)
    [told] = contents(input_messages(GenerationRequest(prompt=TextPrompt(text))))
    assert told == text[:CHARACTERS_LIMIT]


def test_the_sequences_of_an_output_share_the_limit():
    half = CHARACTERS_LIMIT // 2
    logs = [SequenceLog(0), SequenceLog(1)]
    logs[1].append([5], "b" * CHARACTERS_LIMIT)
    logs[0].append([5], "a" * half)
    told = output_messages(
        {each.index: each.whole() for each in reversed(logs)}, ["stop", "length"]
    )
    assert contents(told) == ["a" * half, "b" * half]
    assert [each["finish_reason"] for each in json.loads(told)] == ["stop", "length"]
    assert {each["role"] for each in json.loads(told)} == {"assistant"}


def test_reasoning_and_calls_are_parts_of_their_own():
    log = SequenceLog(0)
    log.append(
        [5],
        "",
        pieces=[
            Piece(Channel.REASONING, "hm"),
            Piece(Channel.CALL, opens=("c1", "add")),
            Piece(Channel.CALL, "{}"),
        ],
    )
    [message] = json.loads(output_messages({0: log.whole()}, ["tool_calls"]))
    assert message["parts"] == [
        {"type": "reasoning", "content": "hm"},
        {"type": "tool_call", "id": "c1", "name": "add", "arguments": "{}"},
    ]


def test_ids_are_no_text():
    assert input_messages(GenerationRequest(prompt=TokenPrompt([5, 6]))) == "[]"


def test_a_chat_has_its_texts_in_whatever_form():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "user", "content": "c"},
    ]
    chat = ChatPrompt(messages, [], [], True, False, "")
    assert contents(input_messages(GenerationRequest(prompt=chat))) == ["ab", "", "", "c"]
