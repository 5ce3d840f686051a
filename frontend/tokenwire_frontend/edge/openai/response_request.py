"""What /v1/responses is asked: items of input as a chat's messages, and the names of its fields."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tokenwire_service.errors import invalid

from tokenwire_frontend.core.request import ChatPrompt, Guide, Output, ToolChoice, ToolMode
from tokenwire_frontend.core.validation import MESSAGES_LIMIT, TOOLS_LIMIT
from tokenwire_frontend.edge.openai import messages, options
from tokenwire_frontend.edge.openai.errors import Paths
from tokenwire_frontend.edge.openai.fields import Fields, fields
from tokenwire_frontend.edge.openai.generations import Ask
from tokenwire_frontend.edge.openai.options import Names

TEXTS = ("input_text", "output_text", "text")
"""Types of a part that is a text."""


@dataclass(frozen=True, slots=True)
class ResponseForm:
    """A request that was read."""

    ask: Ask
    stream: bool
    told: dict[str, Any]
    """What the answer repeats of the request."""


def read(body: Fields, request_id: str) -> ResponseForm:
    """Reads a request.

    Raises:
        InvalidRequestError: a member is at fault, or is not supported; names it.
    """
    names = Names(max_tokens="max_output_tokens")
    stream = body.flag("stream")
    body.accept("n", 1)
    metadata = body.peek("metadata")
    general = options.general(body, request_id)
    _accept_what_is_done_anyway(body)
    instructions = body.text("instructions")
    items = _messages(body)
    if instructions:
        items.insert(0, {"role": "system", "content": instructions})
    tools = [_tool(each) for each in body.each("tools", TOOLS_LIMIT)]
    given_choice = body.peek("tool_choice") or "auto"
    told_of, choice = messages.offered(body, tools, names)
    prompt = ChatPrompt(
        messages=items,
        tools=told_of,
        documents=[],
        add_generation_prompt=True,
        continue_final_message=False,
        template_arguments=messages.template_arguments(body, _effort(body)),
    )
    max_tokens = body.whole("max_output_tokens")
    request = general.request(
        prompt,
        sampling=options.sampling(body, names),
        stopping=options.stopping(body, max_tokens),
        output=Output(parse=True),
        guide=_guide(body, names),
        tool_choice=choice,
    )
    body.end()
    told = {
        "metadata": metadata if type(metadata) is dict else {},
        "instructions": instructions or None,
        "max_output_tokens": max_tokens,
        "parallel_tool_calls": choice.parallel,
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "tool_choice": _shown_choice(given_choice, choice, told_of),
        "tools": [_shown(each["function"], strict=is_strict) for each, is_strict in tools],
    }
    return ResponseForm(Ask(request, _paths(names)), stream, told)


def _accept_what_is_done_anyway(body: Fields) -> None:
    body.accept("background", False)  # noqa: FBT003 - a value of JSON
    body.accept("truncation", "disabled")
    body.accept("include", [], ["reasoning.encrypted_content"])
    streamed = body.inner("stream_options")
    if streamed is not None:
        streamed.accept("include_obfuscation", False)  # noqa: FBT003 - a value of JSON
        streamed.end()
    for name in ("previous_response_id", "conversation"):
        if body.take(name) is not None:
            raise invalid(name, "is not supported: answers are not stored; send all of `input`")


def _effort(body: Fields) -> str:
    reasoning = body.inner("reasoning")
    if reasoning is None:
        return ""
    effort = reasoning.text("effort")
    reasoning.accept("summary", "auto")
    reasoning.end()
    return effort


def _guide(body: Fields, names: Names) -> Guide | None:
    text = body.inner("text")
    if text is None:
        return None
    text.accept("verbosity", "medium")
    found = options.text_format(text, "format", flat=True)
    text.end()
    for path, guide in found:
        names.given[guide.form.value] = path
        return guide
    return None


def _tool(given: Fields) -> messages.Tool:
    if given.text("type") != "function":
        raise invalid(given.at("type"), "must be function; others are not supported")
    return messages.function_tool(given)


def _shown(function: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    """Returns a tool as the answer repeats it."""
    parameters = json.loads(function["parameters"]) if "parameters" in function else None
    return {"type": "function", **function, "parameters": parameters, "strict": strict}


def _shown_choice(given: Any, choice: ToolChoice, tools: list[dict[str, Any]]) -> Any:
    """Returns the choice as the answer repeats it."""
    if type(given) is str:
        return given
    if choice.mode is ToolMode.NAMED:
        return {"type": "function", "name": choice.name}
    allowed = [{"type": "function", "name": each["function"]["name"]} for each in tools]
    return {"type": "allowed_tools", "mode": choice.mode.value, "tools": allowed}


def _messages(body: Fields) -> list[dict[str, Any]]:
    """Reads the input. What one turn of the assistant was told in several items is one message."""
    value = body.take("input")
    if type(value) is str:
        return [{"role": "user", "content": value}]
    if type(value) is not list or not value:
        raise invalid("input", "must be a string or an array of items")
    if len(value) > MESSAGES_LIMIT:
        raise invalid("input", f"has {len(value)} items; at most {MESSAGES_LIMIT}")
    told: list[dict[str, Any]] = []
    for place, each in enumerate(value):
        item = fields(each, f"input[{place}]")
        kind = item.text("type", "message")
        item.ignore("id", "status")
        if kind == "message":
            told.append(
                {"role": item.text("role"), "content": messages.content(item, "content", *TEXTS)}
            )
        elif kind == "function_call_output":
            output = messages.content(item, "output", *TEXTS)
            call_id = item.text("call_id")
            told.append({"role": "tool", "content": output, "tool_call_id": call_id})
        elif kind == "function_call":
            _assistant(told).setdefault("tool_calls", []).append(_call(item))
        elif kind == "reasoning":
            told.append(
                {"role": "assistant", "content": None, "reasoning_content": _reasoning(item)}
            )
        else:
            raise invalid(item.at("type"), "is not supported")
        item.end()
    return _merged(told)


def _assistant(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the assistant's message that is being told, which may begin here."""
    if not told or told[-1]["role"] != "assistant":
        told.append({"role": "assistant", "content": None})
    return told[-1]


def _merged(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins reasoning to the message or the calls that follow it."""
    merged: list[dict[str, Any]] = []
    for each in told:
        last = merged[-1] if merged else {}
        bare = "reasoning_content" in last and last["content"] is None and "tool_calls" not in last
        if bare and each["role"] == "assistant" and "reasoning_content" not in each:
            last |= each
        else:
            merged.append(each)
    return merged


def _call(item: Fields) -> dict[str, Any]:
    function = {"name": item.text("name"), "arguments": item.text("arguments")}
    return {"id": item.text("call_id"), "type": "function", "function": function}


def _reasoning(item: Fields) -> str:
    """Returns reasoning that a client sends back; a summary and what is encrypted say nothing."""
    item.ignore("summary", "encrypted_content")
    text = messages.content(item, "content", "reasoning_text")
    return text or ""


def _paths(names: Names) -> Paths:
    return Paths(
        names.given,
        {
            "stop.max_tokens": names.max_tokens,
            "stop.": "",
            "sampling.": "",
            "output.": "",
            "prompt.chat.messages": "input",
            "prompt.chat.template_arguments": "chat_template_kwargs",
            "prompt.chat.": "",
            "prompt.": "",
            "prompt": "input",
        },
        flat=True,
    )
