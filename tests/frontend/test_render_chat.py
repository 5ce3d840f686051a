"""A chat over the contract, and a model's files as its worker sends them, become one text."""

from __future__ import annotations

import json

import grpc
import pytest
from tokenwire.frontend.v1 import prompt_pb2
from tokenwire.frontend.v1 import tokenization_pb2 as tk
from tokenwire_frontend.core.link_state import LinkState

from tests.frontend.frontend_here import frontend_of
from tests.services.calls import refusal_of

TURNS = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content if 'content' in m else '-' }}"
    "{% endfor %}{% if documents %}{{ documents | tojson }}{% endif %}"
)
CALLS = (
    "{{ tools | tojson }}{% for m in messages if m.content is none %}"
    "{% for call in m.tool_calls %}{{ call | tojson }}{% endfor %}{% endfor %}"
)
SCHEMA = '{"zeta": {"b": 9007199254740993, "a": "é"}, "alpha": 1.0}'
USER = prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_USER, content="Hi")
CALL = prompt_pb2.ToolCall(id="1", name="f", arguments=SCHEMA)
FUNCTION = '{"type": "function", "function": {"name": "f", '
TOOL_AND_CALL = (
    f'[{FUNCTION}"description": "d<", "parameters": {SCHEMA}}}}}]'
    f'{{"id": "1", {FUNCTION[1:]}"arguments": {SCHEMA}}}}}'
)


def assistant(**fields):
    return prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_ASSISTANT, **fields)


CHATS = {
    "text": ({"messages": [USER, assistant(content="")]}, "<s><user>Hi<assistant>"),
    "no content": ({"messages": [assistant(tool_calls=[CALL])]}, "<s><assistant>None"),
    "content left out": ({"messages": [assistant(omit_content=True)]}, "<s><assistant>-"),
    "parts": (
        {"messages": [assistant(content_parts=[prompt_pb2.ContentPart(text="a ")])]},
        "<s><assistant>[{'type': 'text', 'text': 'a '}]",
    ),
    "an end that is said before": (
        {"messages": [USER, assistant(content="s>")], "continue_final_message": True},
        "<s><user>Hi<assistant>s>",
    ),
    "documents": (
        {"messages": [USER], "documents": [prompt_pb2.Document(text="t")]},
        '<s><user>Hi[{"text": "t"}]',
    ),
    "arguments before special tokens": (
        {"messages": [USER], "template_arguments": '{"bos_token": "!"}'},
        "!<user>Hi",
    ),
    "tools": (
        {
            "messages": [USER, assistant(tool_calls=[CALL])],
            "tools": [prompt_pb2.Tool(name="f", description="d<", parameters=SCHEMA)],
        },
        TOOL_AND_CALL,
    ),
}


@pytest.fixture
async def render(worker):
    """Renders a chat of these fields with the templates above."""
    worker.files["tokenizer_config.json"] = json.dumps(
        {
            "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False},
            "chat_template": [{"name": "default", "template": "never read"}],
        }
    ).encode()
    worker.files["chat_template.jinja"] = TURNS.encode()
    worker.files["additional_chat_templates/tool_use.jinja"] = CALLS.encode()
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, LinkState.READY)

        async def text(**fields):
            request = tk.RenderChatRequest(chat=prompt_pb2.Chat(**fields))
            return (await frontend.tokenization.RenderChat(request)).text

        yield text


async def test_each_form_of_a_chat_is_rendered(render):
    texts = {name: await render(**fields) for name, (fields, _) in CHATS.items()}
    assert texts == {name: text for name, (_, text) in CHATS.items()}


async def test_a_chat_that_the_template_refuses_is_told_why(render):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await render(messages=[assistant(tool_calls=[CALL])], continue_final_message=True)
    refusal = refusal_of(error.value)
    assert refusal.reason == "CHAT_TEMPLATE_FAILED"
    assert "no text to continue" in refusal.message
