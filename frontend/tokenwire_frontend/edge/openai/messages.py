"""A chat's messages and tools, in the form that chat templates take."""

from __future__ import annotations

import json
from typing import Any

from tokenwire_service.errors import invalid

from tokenwire_frontend.core.json_text import JsonTextError, json_object
from tokenwire_frontend.core.request import ChatPrompt, ToolChoice, ToolMode
from tokenwire_frontend.core.validation import (
    CONTENT_PARTS_LIMIT,
    DOCUMENTS_LIMIT,
    MESSAGES_LIMIT,
    TOOL_CALLS_LIMIT,
    TOOLS_LIMIT,
)
from tokenwire_frontend.edge.openai.fields import Fields, fields
from tokenwire_frontend.edge.openai.options import Names

_MODES = {"auto": ToolMode.AUTO, "none": ToolMode.NONE, "required": ToolMode.REQUIRED}

Tool = tuple[dict[str, Any], bool]
"""As templates take it, and whether its calls' arguments are held to its parameters."""

_NEW = "use `tools` and `tool_choice`"


def chat(body: Fields, names: Names) -> tuple[ChatPrompt, ToolChoice]:
    """Reads what the prompt of a chat is made of.

    Raises:
        InvalidRequestError: a member is at fault; names it.
    """
    for name in ("functions", "function_call"):
        if body.take(name) is not None:
            raise invalid(body.at(name), f"is not supported; {_NEW}")
    messages = [message(each) for each in body.each("messages", MESSAGES_LIMIT)]
    _check_counts(messages)
    tools, choice = offered(body, [tool(each) for each in body.each("tools", TOOLS_LIMIT)], names)
    goes_on = body.flag("continue_final_message")
    prompt = ChatPrompt(
        messages=messages,
        tools=tools,
        documents=[_document(each) for each in body.each("documents", DOCUMENTS_LIMIT)],
        add_generation_prompt=body.flag("add_generation_prompt", default=not goes_on),
        continue_final_message=goes_on,
        template_arguments=template_arguments(body, body.text("reasoning_effort")),
        escape_control_tokens=body.flag("escape_control_tokens"),
    )
    return prompt, choice


def message(given: Fields) -> dict[str, Any]:
    """Reads one message of a chat."""
    plain: dict[str, Any] = {"role": given.text("role"), "content": content(given, "content")}
    refusal = given.text("refusal")
    if refusal and plain["content"]:
        raise invalid(given.at("refusal"), "does not go with `content`")
    if refusal:  # the model's words in either case
        plain["content"] = refusal
    reasoning = given.text("reasoning_content") or given.text("reasoning")
    given.ignore("reasoning")
    plain |= _known(
        name=given.text("name"),
        tool_call_id=given.text("tool_call_id"),
        reasoning_content=reasoning,
    )
    calls = [_call(each) for each in given.each("tool_calls", TOOL_CALLS_LIMIT)]
    if calls:
        plain["tool_calls"] = calls
    # What an answer of OpenAI's has and a client sends back with it.
    given.accept("annotations", [])
    given.end()
    return plain


def content(given: Fields, name: str, *kinds: str) -> str | None:
    """Reads the content of a message: a text, or none. Parts are joined by line breaks.

    Not every template takes parts, and clients send them for a single text.

    Args:
        given: the message.
        name: of the member that has it.
        kinds: types of a part that is a text.
    """
    value = given.take(name)
    if value is None or isinstance(value, str):
        return value
    if type(value) is not list:
        raise invalid(given.at(name), "must be a string or an array of parts")
    if len(value) > CONTENT_PARTS_LIMIT:
        raise invalid(given.at(name), f"has {len(value)} parts; at most {CONTENT_PARTS_LIMIT}")
    parts = [fields(each, f"{given.at(name)}[{place}]") for place, each in enumerate(value)]
    return "\n".join(_part(each, kinds or ("text",)) for each in parts)


def _part(part: Fields, kinds: tuple[str, ...]) -> str:
    kind = part.text("type")
    if kind not in kinds:
        raise invalid(part.at("type"), f"must be {' or '.join(kinds)}; others are not supported")
    text = part.text("text")
    part.ignore("annotations", "logprobs")
    part.end()
    return text


def _call(given: Fields) -> dict[str, Any]:
    given.accept("type", "function")
    given.ignore("index")
    function = given.inner("function")
    if function is None:
        raise invalid(given.at("function"), "is required")
    call = {
        **_known(id=given.text("id")),
        "type": "function",
        "function": {"name": function.text("name"), "arguments": function.text("arguments")},
    }
    function.end()
    given.end()
    return call


def tool(given: Fields) -> Tool:
    """Reads a tool."""
    given.accept("type", "function")
    function = given.inner("function")
    if function is None:
        raise invalid(given.at("function"), "is required")
    made = function_tool(function)
    given.end()
    return made


def function_tool(function: Fields) -> Tool:
    """Reads a tool of the members that describe its function."""
    described = {
        "name": function.text("name"),
        **_known(
            description=function.text("description"), parameters=function.json_text("parameters")
        ),
    }
    strict = function.flag("strict")
    function.end()
    return {"type": "function", "function": described}, strict


def offered(
    body: Fields, tools: list[Tool], names: Names
) -> tuple[list[dict[str, Any]], ToolChoice]:
    """Reads whether the model calls tools; returns those that it is told of, and the choice."""
    parallel = body.flag("parallel_tool_calls", default=True)
    value, path = body.take("tool_choice"), body.at("tool_choice")
    mode, name, places = ToolMode.AUTO, "", list(range(len(tools)))
    if type(value) is str and value in _MODES:
        mode = _MODES[value]
        if mode is ToolMode.NONE:
            places = []
    elif value is not None:
        if type(value) is not dict:
            raise invalid(path, "must be auto, none, required or an object")
        given = Fields(value, path)
        kind = given.take("type")
        if kind == "function":
            mode, (name, _) = ToolMode.NAMED, _function_name(given)
        elif kind == "allowed_tools":
            mode, places = _allowed(given, tools)
            for at, place in enumerate(places):
                names.given[f"prompt.chat.tools[{at}]"] = f"tools[{place}]"
        else:
            raise invalid(given.at("type"), "must be function or allowed_tools")
        given.end()
    strict = frozenset(at for at, each in enumerate(places) if tools[each][1])
    choice = ToolChoice(mode, name, parallel=parallel, strict=strict)
    return [tools[each][0] for each in places], choice


def _allowed(given: Fields, tools: list[Tool]) -> tuple[ToolMode, list[int]]:
    """Reads which of the tools may be called, and whether one must be; returns their places."""
    # /v1/responses has both beside the type.
    allowed = given.inner("allowed_tools") or given
    mode = allowed.text("mode")
    if mode not in ("auto", "required"):
        raise invalid(allowed.at("mode"), "must be auto or required")
    known = [tool["function"]["name"] for tool, _ in tools]
    served, chosen = set(known), set()
    for each in allowed.each("tools", TOOLS_LIMIT):
        each.accept("type", "function")
        name, at = _function_name(each)
        if name not in served:
            raise invalid(at, "is the name of none of `tools`")
        each.end()
        chosen.add(name)
    allowed.end()
    return _MODES[mode], [place for place, name in enumerate(known) if name in chosen]


def _function_name(given: Fields) -> tuple[str, str]:
    """Reads which function is meant; returns its name, and where that stands.

    /v1/responses has it beside the type.
    """
    function = given.inner("function") or given
    name, at = function.text("name"), function.at("name")
    if not name:
        raise invalid(at, "is required")
    function.end()
    return name, at


def _document(given: Fields) -> dict[str, str]:
    made = {**_known(title=given.text("title")), "text": given.text("text")}
    given.end()
    return made


def template_arguments(body: Fields, effort: str) -> str:
    """Returns the template's further variables as JSON text; `effort` is one, if there is any."""
    text = body.json_text("chat_template_kwargs")
    if not effort:
        return text
    try:
        arguments = json_object(text)
    except JsonTextError as error:
        raise invalid(body.at("chat_template_kwargs"), str(error)) from error
    return json.dumps({"reasoning_effort": effort, **arguments}, ensure_ascii=False)


def _check_counts(messages: list[dict[str, Any]]) -> None:
    calls = sum(len(each.get("tool_calls", ())) for each in messages)
    if calls > TOOL_CALLS_LIMIT:
        raise invalid("messages", f"have {calls} tool_calls; at most {TOOL_CALLS_LIMIT} in all")


def _known(**texts: str) -> dict[str, str]:
    """Leaves out what is empty: templates ask whether a key is defined."""
    return {name: text for name, text in texts.items() if text}
