"""A chat of the contract becomes what chat templates take: JSON as it was written."""

from __future__ import annotations

import json

import pytest
from tokenwire.frontend.v1 import prompt_pb2
from tokenwire_frontend.core.chat_variables import chat_variables
from tokenwire_frontend.edge.grpc import from_proto
from tokenwire_frontend.models.chat_template import ChatTemplate
from tokenwire_frontend.models.tokenizer_pool import SHORT_RENDERING
from tokenwire_service.errors import InvalidRequestError

TEXT = '{"zeta": 9007199254740993, "alpha": 1.0, "n": {"b": 1e2, "a": null}}'


def variables(parameters: str = "", arguments: str = "", template_arguments: str = ""):
    message = prompt_pb2.Chat(
        messages=[
            prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_USER, content="hi"),
            prompt_pb2.ChatMessage(
                role=prompt_pb2.ROLE_ASSISTANT,
                tool_calls=[prompt_pb2.ToolCall(name="f", arguments=arguments)],
            ),
        ],
        tools=[prompt_pb2.Tool(name="f", parameters=parameters)],
        template_arguments=template_arguments,
    )
    return chat_variables(from_proto.chat_prompt(message, "chat"), "chat")


def test_json_keeps_the_order_of_its_keys_and_its_numbers():
    found = variables(TEXT, TEXT, TEXT)
    written = '{"zeta": 9007199254740993, "alpha": 1.0, "n": {"b": 100.0, "a": null}}'
    own = {"messages", "tools", "documents", "add_generation_prompt"}
    for value in (
        found["messages"][1]["tool_calls"][0]["function"]["arguments"],
        found["tools"][0]["function"]["parameters"],
        {name: each for name, each in found.items() if name not in own},
    ):
        assert json.dumps(value) == written


def test_what_is_not_given_is_not_there():
    chat = prompt_pb2.Chat(
        messages=[
            prompt_pb2.ChatMessage(
                role=prompt_pb2.ROLE_ASSISTANT, tool_calls=[prompt_pb2.ToolCall(name="f")]
            )
        ],
        tools=[prompt_pb2.Tool(name="f")],
        documents=[prompt_pb2.Document(text="t")],
    )
    found = chat_variables(from_proto.chat_prompt(chat, "chat"), "chat")
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    assert found["messages"] == [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert found["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert found["documents"] == [{"text": "t"}]


def test_reasoning_has_each_name_that_templates_read():
    chat = prompt_pb2.Chat(
        messages=[
            prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_ASSISTANT, content="4", reasoning="2 and 2")
        ]
    )
    variables = chat_variables(from_proto.chat_prompt(chat, "chat"), "chat")
    source = "{% for m in messages %}{{ m.reasoning_content, m.reasoning, m.thinking }}{% endfor %}"
    text = ChatTemplate(source, {}).render(variables, SHORT_RENDERING)
    assert text == str(("2 and 2",) * 3)


BAD = [
    ("{", "not valid JSON"),
    ("{}x", "not valid JSON"),
    ("[]", "not an object"),
    ("1", "not an object"),
    ("null", "not an object"),
    ('{"a": NaN}', "NaN is not a JSON number"),
    ('{"a": -Infinity}', "-Infinity is not a JSON number"),
    ('{"a": 1e999}', "beyond the range"),
    ('{"a": -1e999}', "beyond the range"),
    ('{"a": 1, "a": 2}', "twice"),
    ('{"b": [{"a": 1, "a": 1}]}', "twice"),
    ('{"a": "\\ud800"}', "surrogate"),
    ('{"\\udfff": 1}', "surrogate"),
    ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ('{"a": ' * 100_000, "nested too deeply"),
    ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
]


@pytest.mark.parametrize(("text", "reason"), BAD)
@pytest.mark.parametrize(
    ("argument", "field"),
    [
        ("parameters", "chat.tools[0].parameters"),
        ("arguments", "chat.messages[1].tool_calls[0].arguments"),
        ("template_arguments", "chat.template_arguments"),
    ],
)
def test_json_that_cannot_be_read_is_refused_by_its_field(argument, field, text, reason):
    with pytest.raises(InvalidRequestError) as refused:
        variables(**{argument: text})
    [violation] = refused.value.violations
    assert violation.field == field
    assert reason in violation.description


def test_every_field_at_fault_is_told_at_once():
    with pytest.raises(InvalidRequestError) as refused:
        variables("[]", "{", '{"messages": 1, "continue_final_message": true}')
    assert [each.field for each in refused.value.violations] == [
        "chat.messages[1].tool_calls[0].arguments",
        "chat.tools[0].parameters",
        "chat.template_arguments",
        "chat.template_arguments",
    ]


@pytest.mark.parametrize(
    "text", ['{"a": "\\ud83d\\ude00"}', '{"a": 1e+308}', '{"a": ' + "9" * 4000 + "}"]
)
def test_json_at_its_bounds_is_read(text):
    assert json.dumps(variables(template_arguments=text)["a"]) in text
