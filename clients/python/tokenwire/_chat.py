"""A chat's messages and tools to the contract's, in OpenAI's shapes or the client's own.

Every key is either carried or refused by its path: TypeError for a wrong type, ValueError for a key
or a value that the contract has no place for. A key that is None counts as not given.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from tokenwire._fields import build, json_object
from tokenwire.frontend.v1 import prompt_pb2
from tokenwire.options import ChatOptions
from tokenwire.types import ChatMessage, ToolCall

Chat = Sequence[ChatMessage | Mapping[str, Any]]
"""The turns of a conversation, oldest first."""

_ROLES = [name.removeprefix("ROLE_").lower() for name in prompt_pb2.Role.keys()[1:]]

_REASONING = ("reasoning", "reasoning_content", "thinking")
"""Names that the reasoning of a message has in different interfaces."""

_EMPTY = ("refusal", "audio", "function_call", "annotations")
"""Keys of OpenAI's answers that come empty where the answer has no such thing."""

_ReadT = TypeVar("_ReadT")

_MODES = {
    "auto": prompt_pb2.TOOL_CHOICE_MODE_AUTO,
    "none": prompt_pb2.TOOL_CHOICE_MODE_NONE,
    "required": prompt_pb2.TOOL_CHOICE_MODE_REQUIRED,
}


def chat(messages: Chat, given: dict[str, Any]) -> prompt_pb2.Chat:
    """Returns a chat; its options are taken out of `given`."""
    if isinstance(messages, str | Mapping):
        raise TypeError('a chat is a list of messages: [{"role": "user", "content": "..."}]')
    values = {name: given.pop(name) for name in ChatOptions.__annotations__ if name in given}
    values["messages"] = _each("chat", messages, _message)
    values["tools"] = _each("tools", values.get("tools"), _tool)
    values["documents"] = _each("documents", values.get("documents"), _document)
    if "tool_choice" in values:
        values["tool_choice"] = _tool_choice(values["tool_choice"])
    arguments = values.get("template_arguments")
    values["template_arguments"] = json_object("template_arguments", arguments)
    return build(prompt_pb2.Chat, values)


def _message(place: str, given: ChatMessage | Mapping[str, Any]) -> prompt_pb2.ChatMessage:
    values = _values(place, given, ChatMessage)
    role = values.pop("role", None)
    if role is None:
        raise ValueError(f"{place}.role: is required")
    if role not in _ROLES:
        raise ValueError(f"{place}.role: {role!r} is none of {', '.join(_ROLES)}")
    for name in _EMPTY:
        if values.pop(name, None) not in (None, []):
            raise ValueError(f"{place}.{name}: is not supported")
    message = {
        "role": prompt_pb2.Role.Value(f"ROLE_{role.upper()}"),
        **_content(place, values),
        "reasoning": _reasoning(place, values),
        "tool_calls": _each(f"{place}.tool_calls", values.pop("tool_calls", None), _tool_call),
        "name": values.pop("name", None),
        "tool_call_id": values.pop("tool_call_id", None),
    }
    _refuse_rest(place, values)
    return build(prompt_pb2.ChatMessage, message, place)


def _content(place: str, values: dict[str, Any]) -> dict[str, Any]:
    """Takes the content out of a message's values; returns it as a field of the contract."""
    if "content" not in values:
        return {"omit_content": True}
    content = values.pop("content")
    if content is None or isinstance(content, str):
        return {"content": content}
    if isinstance(content, bytes | Mapping) or not isinstance(content, Iterable):
        shown = reprlib.repr(content)
        raise TypeError(f"{place}.content={shown}: not a text, None or a list of parts")
    parts = _each(f"{place}.content", content, _part)
    if not parts:
        raise ValueError(f"{place}.content: an empty list; give None, or an empty text")
    return {"content_parts": parts}


def _part(place: str, given: Mapping[str, Any]) -> prompt_pb2.ContentPart:
    values = _values(place, given)
    kind = values.pop("type", None)
    if not isinstance(kind, str) or kind not in _PARTS:
        raise ValueError(f"{place}.type: {kind!r} is none of {', '.join(_PARTS)}")
    value = values.pop(kind, None)
    _refuse_rest(place, values)
    field, read = _PARTS[kind]
    return build(prompt_pb2.ContentPart, {field: read(f"{place}.{kind}", value)}, place)


def _text(place: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{place}={reprlib.repr(value)}: not a text")
    return value


def _url(place: str, value: Mapping[str, Any] | str) -> str:
    if isinstance(value, str):
        return value
    values = _values(place, value)
    url = _text(f"{place}.url", values.pop("url", None))
    if values.pop("detail", None) not in (None, "auto"):
        raise ValueError(f"{place}.detail: is not supported")
    _refuse_rest(place, values)
    return url


def _audio_data(place: str, value: Mapping[str, Any]) -> str:
    values = _values(place, value)
    data, form = (_text(f"{place}.{name}", values.pop(name, None)) for name in ("data", "format"))
    _refuse_rest(place, values)
    return f"data:audio/{form};base64,{data}"


_PARTS = {
    "text": ("text", _text),
    "image_url": ("image_url", _url),
    "audio_url": ("audio_url", _url),
    "input_audio": ("audio_url", _audio_data),
}
"""The types of parts: the contract's field, and what reads the value for it."""


def _reasoning(place: str, values: dict[str, Any]) -> str | None:
    """Takes the reasoning out of a message's values, under whichever name it has."""
    given = {name: values.pop(name, None) for name in _REASONING}
    named = [name for name, value in given.items() if value not in (None, "")]
    for name in named[1:]:
        if given[name] != given[named[0]]:
            raise ValueError(f"{place}.{name}: is not the same as {named[0]}")
    return _text(f"{place}.{named[0]}", given[named[0]]) if named else None


def _tool_call(place: str, given: ToolCall | Mapping[str, Any]) -> prompt_pb2.ToolCall:
    values = _values(place, given, ToolCall)
    call = {"id": values.pop("id", None)}
    place, function = _function(place, values)
    call["name"] = function.pop("name", None)
    call["arguments"] = json_object(f"{place}.arguments", function.pop("arguments", None))
    _refuse_rest(place, function)
    return build(prompt_pb2.ToolCall, call, place)


def _tool(place: str, given: Mapping[str, Any]) -> prompt_pb2.Tool:
    place, function = _function(place, _values(place, given))
    tool = {name: function.pop(name, None) for name in ("name", "description", "strict")}
    tool["parameters"] = json_object(f"{place}.parameters", function.pop("parameters", None))
    _refuse_rest(place, function)
    return build(prompt_pb2.Tool, tool, place)


def _tool_choice(given: str | Mapping[str, Any]) -> prompt_pb2.ToolChoice:
    if isinstance(given, str):
        if given not in _MODES:
            raise ValueError(
                f"tool_choice: {given!r} is none of {', '.join(_MODES)}; a tool is chosen by "
                '{"type": "function", "function": {"name": "..."}}'
            )
        return prompt_pb2.ToolChoice(mode=_MODES[given])
    place, function = _function("tool_choice", _values("tool_choice", given))
    name = _text(f"{place}.name", function.pop("name", None))
    _refuse_rest(place, function)
    return build(prompt_pb2.ToolChoice, {"name": name}, place)


def _document(place: str, given: Mapping[str, str] | str) -> prompt_pb2.Document:
    values = {"text": given} if isinstance(given, str) else _values(place, given)
    document = {name: values.pop(name, None) for name in ("title", "text")}
    _refuse_rest(place, values)
    return build(prompt_pb2.Document, document, place)


def _function(place: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the path and the values of a function, out of OpenAI's wrap where it has one."""
    kind = values.pop("type", None)
    if kind not in (None, "function"):
        raise ValueError(f"{place}.type: {kind!r} is not supported; only 'function' is")
    if "function" not in values:
        return place, values
    inner = f"{place}.function"
    function = _values(inner, values.pop("function"))
    _refuse_rest(place, values)
    return inner, function


def _each(place: str, given: Any, read: Callable[[str, Any], _ReadT]) -> list[_ReadT]:
    """Returns the elements of a list, each read at its own path; None is an empty list."""
    if given is None:
        return []
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
        raise TypeError(f"{place}={reprlib.repr(given)}: not a list")
    return [read(f"{place}[{index}]", each) for index, each in enumerate(given)]


def _values(place: str, given: object, own: type[ChatMessage | ToolCall] | None = None) -> Any:
    """Returns the values of a dict, or of an object of the client's own type, by name."""
    if isinstance(given, Mapping):
        return dict(given)
    if own is None or not isinstance(given, own):
        kinds = "a dict" if own is None else f"a {own.__name__} or a dict"
        raise TypeError(f"{place}={reprlib.repr(given)}: not {kinds}")
    return {field.name: getattr(given, field.name) for field in fields(given)}


def _refuse_rest(place: str, values: Mapping[str, Any]) -> None:
    for name in values:
        raise ValueError(f"{place}.{name}: unknown field")
