"""A chat of the contract becomes what chat templates take: JSON as it was written."""

from __future__ import annotations

import json

from tokenwire.frontend.v1 import prompt_pb2
from tokenwire_frontend.edge import from_proto

TEXT = '{"zeta": 9007199254740993, "alpha": 1.0, "n": {"b": 1e2, "a": null}}'


def test_json_keeps_the_order_of_its_keys_and_its_numbers():
    chat = from_proto.chat_prompt(
        prompt_pb2.Chat(
            messages=[
                prompt_pb2.ChatMessage(
                    role=prompt_pb2.ROLE_ASSISTANT,
                    tool_calls=[prompt_pb2.ToolCall(name="f", arguments=TEXT)],
                )
            ],
            tools=[prompt_pb2.Tool(name="f", parameters=TEXT)],
            template_arguments=TEXT,
        ),
        "chat",
    )
    written = '{"zeta": 9007199254740993, "alpha": 1.0, "n": {"b": 100.0, "a": null}}'
    for value in (
        chat.messages[0]["tool_calls"][0]["function"]["arguments"],
        chat.tools[0]["function"]["parameters"],
        chat.template_arguments,
    ):
        assert json.dumps(value) == written


def test_absent_json_is_an_empty_object():
    chat = from_proto.chat_prompt(prompt_pb2.Chat(tools=[prompt_pb2.Tool(name="f")]), "chat")
    assert chat.tools[0]["function"]["parameters"] == {}
    assert chat.template_arguments == {}
