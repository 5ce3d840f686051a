"""An output that is held to tool calls: its form, and what a refusal of that form says of a tool.

The form is the bare JSON of the calls, without the model's own markers: one
`{"name": ..., "arguments": {...}}`, or where several are allowed also a list of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenwire_service.errors import FieldViolation, InvalidRequestError, ServiceError
from tokenwire_service.limits import GUIDE_BYTES, GUIDE_DEPTH, utf8_bytes

from tokenwire_frontend.core.json_text import JsonTextError, json_object
from tokenwire_frontend.core.model import Ability
from tokenwire_frontend.core.parsers.stream import NAME_LIMIT
from tokenwire_frontend.core.request import (
    ChatPrompt,
    FreePrefix,
    GenerationRequest,
    Guide,
    ToolChoice,
    ToolMode,
)

CALLS_LIMIT = 32
"""Most calls of one output: what is held to a list must come to an end."""

_DEPTH_LIMIT = GUIDE_DEPTH - 4
"""Levels of a strict tool's parameters: the form has so many around them."""

_PROSE = frozenset({"title", "description", "examples", "$comment"})
"""Keywords that say nothing of what is valid: the form goes without them."""

_DATA = frozenset({"const", "enum", "default"})
"""Keywords whose values are data: what looks like a reference there is none."""

_NAMED_SCHEMAS = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
)
"""Keywords whose values are schemas by name: what looks like a keyword there is none."""

_PARAMETERS = "#/$defs/{}/properties/arguments"
"""Where the parameters of a strict tool stand in the form, by the tool's place."""

_PLACE = re.compile(re.escape(_PARAMETERS).replace(r"\{\}", r"(\d+)"))


def tool_violations(request: GenerationRequest) -> Iterator[FieldViolation]:
    """Yields what is wrong with the choice of tools."""
    prompt, choice = request.prompt, request.tool_choice
    if not isinstance(prompt, ChatPrompt) or not choice.holds:
        return
    names = _names(prompt)
    field = "prompt.chat.tool_choice"
    if request.guide is not None:
        yield FieldViolation("guided", f"does not go with `{field}`, which holds the output too")
    if not names:
        yield FieldViolation(field, "requires `tools`")
    elif choice.mode is ToolMode.NAMED and choice.name not in names:
        yield FieldViolation(f"{field}.name", "is the name of none of `tools`")
    seen: set[str] = set()
    for place, name in enumerate(names):
        if name in seen:
            yield FieldViolation(f"prompt.chat.tools[{place}].name", "is another tool's name too")
        seen.add(name)
    size = 0
    for place in _places(prompt, choice):
        if not _is_read(names[place]):
            fault = f"has more than {NAME_LIMIT} characters as JSON text, the most with `{field}`"
            yield FieldViolation(f"prompt.chat.tools[{place}].name", fault)
        if place in choice.strict:
            size += len(prompt.tools[place]["function"].get("parameters", ""))
    if size > GUIDE_BYTES:
        fault = f"have {size} characters of strict parameters; at most {GUIDE_BYTES}"
        yield FieldViolation("prompt.chat.tools", fault)


def held_form(chat: ChatPrompt, choice: ToolChoice, prefix: FreePrefix | None) -> Guide:
    """Returns the form of an output that is held to calls; `prefix` is what may go before it.

    Raises:
        InvalidRequestError: a strict tool's parameters are not those of an object, nest too deeply,
            or are too large together.
    """
    names, places = _names(chat), _places(chat, choice)
    calls = {
        str(place): _call({"const": names[place]}, _parameters(chat, place))
        for place in places
        if place in choice.strict
    }
    loose = [names[place] for place in places if place not in choice.strict]
    if loose:
        calls["any"] = _call({"enum": loose}, {"type": "object"})
    one = {"$ref": "#/$defs/call"}
    forms: list[dict[str, Any]] = [one]
    if choice.parallel and choice.mode is not ToolMode.NAMED:
        forms.append({"type": "array", "items": one, "minItems": 1, "maxItems": CALLS_LIMIT})
    call = {"anyOf": [{"$ref": f"#/$defs/{key}"} for key in calls]}
    schema = {"anyOf": forms, "$defs": {"call": call, **calls}}
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    size = utf8_bytes(text)
    if size > GUIDE_BYTES:
        fault = f"take {size} bytes as the form of the output; at most {GUIDE_BYTES}"
        raise InvalidRequestError([FieldViolation("prompt.chat.tools", fault)])
    return Guide(Ability.GUIDED_JSON_SCHEMA, text, free_prefix=prefix)


def told_of_tools(refusal: ServiceError, request: GenerationRequest) -> ServiceError:
    """Returns a worker's refusal, where it is of the form, as one of what the caller has set."""
    chat, choice = request.prompt, request.tool_choice
    if not (
        isinstance(refusal, InvalidRequestError) and isinstance(chat, ChatPrompt) and choice.holds
    ):
        return refusal

    strict = [str(place) for place in _places(chat, choice) if place in choice.strict]

    def told(violation: FieldViolation) -> FieldViolation:
        if not violation.field.startswith("guided"):
            return violation
        # Of a fault without a place, the only parameters in the form are the cause.
        at = _PLACE.findall(violation.description) or strict
        if len(set(at)) != 1:
            return FieldViolation("prompt.chat.tool_choice", violation.description)
        text = _PLACE.sub("#", violation.description)
        return FieldViolation(f"prompt.chat.tools[{at[0]}].parameters", text)

    return InvalidRequestError([told(each) for each in refusal.violations], reason=refusal.reason)


class Schemas(Mapping[str, dict[str, Any]]):
    """The parameters of a chat's tools by name, each read when it is first asked for.

    What is not JSON or longer than GUIDE_BYTES reads as no schema.
    """

    def __init__(self, chat: ChatPrompt) -> None:
        functions = [tool["function"] for tool in chat.tools]
        self._texts = {each["name"]: each.get("parameters", "") for each in functions}
        self._read: dict[str, dict[str, Any]] = {}

    def __getitem__(self, name: str) -> dict[str, Any]:
        text = self._texts[name]
        if name not in self._read:
            try:
                known = len(text) <= GUIDE_BYTES
                self._read[name] = json_object(text) if known else {}
            except JsonTextError:  # refused where the chat is rendered
                self._read[name] = {}
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._texts

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def _is_read(name: str) -> bool:
    """Returns whether a parser reads a call of this name."""
    return len(name) < NAME_LIMIT and len(json.dumps(name, ensure_ascii=False)) <= NAME_LIMIT


def _names(chat: ChatPrompt) -> list[str]:
    return [tool["function"]["name"] for tool in chat.tools]


def _places(chat: ChatPrompt, choice: ToolChoice) -> list[int]:
    """Returns the places of the tools that may be called."""
    named = choice.mode is ToolMode.NAMED
    return [place for place, name in enumerate(_names(chat)) if not named or name == choice.name]


def _call(name: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a call, of the schemas of its name and its arguments."""
    return {
        "type": "object",
        "properties": {"name": name, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _parameters(chat: ChatPrompt, place: int) -> dict[str, Any]:
    """Returns the schema of a strict tool's arguments, to stand in the form."""
    field = f"prompt.chat.tools[{place}].parameters"
    try:
        schema = json_object(chat.tools[place]["function"].get("parameters", ""))
        if schema.setdefault("type", "object") != "object":
            raise JsonTextError("must have the type object")
        schema.pop("$id", None)  # it has no effect at a schema's top, and no place elsewhere
        moved: dict[str, Any] = _moved(schema, _PARAMETERS.format(place))
    except JsonTextError as error:
        raise InvalidRequestError([FieldViolation(field, str(error))]) from error
    return moved


def _moved(value: Any, pointer: str, within: str = "", depth: int = 1) -> Any:
    """Returns a schema whose references to itself are right where it stands at `pointer`.

    Args:
        value: the schema, or a part of it.
        pointer: where its root is to stand.
        within: the keyword whose value this is, where it is data or schemas by name.
        depth: levels of nesting with this one.

    Raises:
        JsonTextError: it nests too deeply.
    """
    if not isinstance(value, dict | list):
        return value
    if depth > _DEPTH_LIMIT:
        raise JsonTextError(f"nests more than {_DEPTH_LIMIT} deep")
    if isinstance(value, list):
        return [_moved(each, pointer, within, depth + 1) for each in value]
    if within in _DATA:
        return {key: _moved(each, pointer, within, depth + 1) for key, each in value.items()}
    if within:
        return {key: _moved(each, pointer, "", depth + 1) for key, each in value.items()}
    moved = {
        key: _moved(each, pointer, key if key in _DATA | _NAMED_SCHEMAS else "", depth + 1)
        for key, each in value.items()
        if key not in _PROSE
    }
    reference = value.get("$ref")
    if isinstance(reference, str) and (reference + "/").startswith("#/"):
        moved["$ref"] = pointer + reference[1:]
    return moved
