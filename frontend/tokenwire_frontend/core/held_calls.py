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

from tokenwire_frontend.core.json_text import JsonTextError, json_object
from tokenwire_frontend.core.model import Ability
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

SCHEMA_CHARS_LIMIT = 262_144
"""Of the parameters that are read while others wait: some milliseconds."""

_NO_SCHEMAS = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are data: what looks like a reference there is none."""

_PARAMETERS = "#/$defs/call/anyOf/{}/properties/arguments"
"""Where the parameters of a tool stand in the form, by the tool's place."""

_PLACE = re.compile(re.escape(_PARAMETERS).replace(r"\{\}", r"(\d+)"))


def tool_violations(request: GenerationRequest) -> Iterator[FieldViolation]:
    """Yields what is wrong with the choice of tools."""
    prompt, choice = request.prompt, request.tool_choice
    if not isinstance(prompt, ChatPrompt) or not choice.holds:
        return
    names = [tool["function"]["name"] for tool in prompt.tools]
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
    sizes = [len(prompt.tools[place]["function"].get("parameters", "")) for place in choice.strict]
    if sum(sizes) > SCHEMA_CHARS_LIMIT:
        yield FieldViolation(
            "prompt.chat.tools",
            f"have {sum(sizes)} characters of strict parameters; at most {SCHEMA_CHARS_LIMIT}",
        )


def held_form(chat: ChatPrompt, choice: ToolChoice, prefix: FreePrefix | None) -> Guide:
    """Returns the form of an output that is held to calls; `prefix` is what may go before it.

    Raises:
        InvalidRequestError: a strict tool's parameters are not those of an object.
    """
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": _arguments(chat, choice, place),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for place, tool in enumerate(chat.tools)
    ]
    one = {"$ref": "#/$defs/call"}
    forms: list[dict[str, Any]] = [one]
    if choice.mode is ToolMode.NAMED:
        forms = [{"$ref": f"#/$defs/call/anyOf/{_place(chat, choice.name)}"}]
    elif choice.parallel:
        forms.append({"type": "array", "items": one, "minItems": 1, "maxItems": CALLS_LIMIT})
    schema = {"anyOf": forms, "$defs": {"call": {"anyOf": calls}}}
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return Guide(Ability.GUIDED_JSON_SCHEMA, text, free_prefix=prefix)


def told_of_tools(refusal: ServiceError, request: GenerationRequest) -> ServiceError:
    """Returns a worker's refusal, where it is of the form, as one of what the caller has set."""
    chat, choice = request.prompt, request.tool_choice
    if not (
        isinstance(refusal, InvalidRequestError) and isinstance(chat, ChatPrompt) and choice.holds
    ):
        return refusal

    def told(violation: FieldViolation) -> FieldViolation:
        if not violation.field.startswith("guided"):
            return violation
        found = _PLACE.search(violation.description)
        if found is None:
            return FieldViolation("prompt.chat.tool_choice", violation.description)
        text = _PLACE.sub("#", violation.description)
        return FieldViolation(f"prompt.chat.tools[{found[1]}].parameters", text)

    return InvalidRequestError([told(each) for each in refusal.violations], reason=refusal.reason)


class Schemas(Mapping[str, dict[str, Any]]):
    """The parameters of a chat's tools by name, each read when it is first asked for.

    What is not JSON or very long reads as no schema.
    """

    def __init__(self, chat: ChatPrompt) -> None:
        functions = [tool["function"] for tool in chat.tools]
        self._texts = {each["name"]: each.get("parameters", "") for each in functions}
        self._read: dict[str, dict[str, Any]] = {}

    def __getitem__(self, name: str) -> dict[str, Any]:
        text = self._texts[name]
        if name not in self._read:
            try:
                known = len(text) <= SCHEMA_CHARS_LIMIT
                self._read[name] = json_object(text) if known else {}
            except JsonTextError:  # refused where the chat is rendered
                self._read[name] = {}
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def _place(chat: ChatPrompt, name: str) -> int:
    return next(place for place, tool in enumerate(chat.tools) if tool["function"]["name"] == name)


def _arguments(chat: ChatPrompt, choice: ToolChoice, place: int) -> object:
    """Returns the schema of a tool's arguments, to stand in the form."""
    if place not in choice.strict:
        return {"type": "object"}
    field = f"prompt.chat.tools[{place}].parameters"
    try:
        schema = json_object(chat.tools[place]["function"].get("parameters", ""))
    except JsonTextError as error:
        raise InvalidRequestError([FieldViolation(field, str(error))]) from error
    if schema.setdefault("type", "object") != "object":
        raise InvalidRequestError([FieldViolation(field, "must have the type object")])
    return _moved(schema, _PARAMETERS.format(place))


def _moved(value: object, pointer: str) -> object:
    """Returns a schema whose references to itself are right where it stands at `pointer`."""
    if isinstance(value, list):
        return [_moved(each, pointer) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: f"{pointer}{inner[1:]}"
        if key == "$ref" and isinstance(inner, str) and inner.startswith("#")
        else inner
        if key in _NO_SCHEMAS
        else _moved(inner, pointer)
        for key, inner in value.items()
    }
