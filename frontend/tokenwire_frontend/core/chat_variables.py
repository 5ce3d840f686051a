"""A chat as the variables of a chat template: JSON text is read here."""

from __future__ import annotations

from typing import Any

from tokenwire_service.errors import FieldViolation, InvalidRequestError

from tokenwire_frontend.core.json_text import JsonTextError, json_object
from tokenwire_frontend.core.request import ChatPrompt

_OWN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
)
"""What the chat's own fields say."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning, first the one that templates read most."""


def chat_variables(chat: ChatPrompt, field: str) -> dict[str, Any]:
    """Returns the variables of a chat that stands at `field`.

    Raises:
        InvalidRequestError: JSON text that can't be read, or an argument that is one of the chat's
            own fields; names each.
    """
    faults: list[FieldViolation] = []

    def read(text: str, at: str) -> dict[str, Any]:
        try:
            return json_object(text)
        except JsonTextError as error:
            faults.append(FieldViolation(f"{field}.{at}", str(error)))
            return {}

    def with_json(function: dict[str, Any], name: str, at: str) -> dict[str, Any]:
        """Returns a tool, or a call of one, with what it has as JSON text read."""
        inner = function["function"]
        if name not in inner:
            return function
        return {**function, "function": {**inner, name: read(inner[name], f"{at}.{name}")}}

    messages = [
        {
            **message,
            "tool_calls": [
                with_json(call, "arguments", f"messages[{index}].tool_calls[{place}]")
                for place, call in enumerate(message["tool_calls"])
            ],
        }
        if "tool_calls" in message
        else message
        for index, message in enumerate(map(_with_reasoning, chat.messages), -chat.held)
    ]
    tools = [
        with_json(tool, "parameters", f"tools[{index}]") for index, tool in enumerate(chat.tools)
    ]
    arguments = read(chat.template_arguments, "template_arguments")
    faults.extend(
        FieldViolation(
            f"{field}.template_arguments", f"has `{name}`, which is the chat's own field"
        )
        for name in sorted(_OWN & arguments.keys())
    )
    if faults:
        raise InvalidRequestError(faults)
    return {
        **arguments,
        "messages": messages,
        "tools": tools or None,
        "documents": chat.documents or None,
        "add_generation_prompt": chat.add_generation_prompt,
    }


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Returns a message with its reasoning under the names that transformers gives it."""
    told = [message[name] for name in _REASONING if message.get(name) is not None]
    if not told:
        return message
    return {"thinking": told[0], **message, "reasoning_content": told[0]}
