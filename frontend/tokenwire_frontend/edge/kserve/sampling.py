"""Sampling parameters as Triton's vLLM backend takes them: JSON, or the request's own parameters.

Both have the names of vLLM's SamplingParams. Of a request's parameters, numbers may be text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenwire_service.errors import invalid
from tokenwire_service.limits import CHOICE_OPTIONS, GUIDE_BYTES
from tokenwire_service.wording import cut

from tokenwire_frontend.core.model import Ability
from tokenwire_frontend.core.request import Guide
from tokenwire_frontend.core.validation import LOGIT_BIAS_LIMIT, STOP_TOKEN_IDS_LIMIT
from tokenwire_frontend.edge.kserve.inputs import NEUTRAL, Values
from tokenwire_frontend.edge.kserve.stubs.grpc_service_pb2 import ModelInferRequest
from tokenwire_frontend.edge.kserve.tensors import ENTRIES_LIMIT

JSON_BYTES = 4 * GUIDE_BYTES
"""Most of it: a schema as JSON within JSON, and all else. It is read in some milliseconds."""

_KEYS = {
    "n": "num_return_sequences",
    "stop": "stop_words",
}
"""Under which Values has a parameter, where that is not its name."""

_KINDS: dict[str, type] = {
    **dict.fromkeys(("temperature", "top_p", "min_p", "length_penalty"), float),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "repetition_penalty"), float),
    **dict.fromkeys(("n", "max_tokens", "min_tokens", "top_k", "seed", "logprobs"), int),
    "truncate_prompt_tokens": int,
    **dict.fromkeys(("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"), bool),
    "lora_name": str,
    **{name: type(value) for name, value in NEUTRAL.items()},
}

_GUIDES = {
    "json": Ability.GUIDED_JSON_SCHEMA,
    "json_object": Ability.GUIDED_JSON_OBJECT,
    "regex": Ability.GUIDED_REGEX,
    "grammar": Ability.GUIDED_GRAMMAR,
    "choice": Ability.GUIDED_CHOICE,
}
"""By the parts of `structured_outputs`."""

_RESERVED = ("sequence_id", "sequence_start", "sequence_end", "priority")
"""Parameters of Triton's own that ask for what is not supported, unless they are 0 or false."""

EMPTY_FINAL = "triton_enable_empty_final_response"


def add_parameters(values: Values, message: ModelInferRequest) -> None:
    """Adds a request's own parameters.

    Raises:
        InvalidRequestError: one is unknown, not supported, or at fault.
    """
    if len(message.parameters) > ENTRIES_LIMIT:
        raise invalid("parameters", f"has {len(message.parameters)}; at most {ENTRIES_LIMIT}")
    for name, parameter in message.parameters.items():
        path = f"parameters.{cut(name, 64)}"
        kind = parameter.WhichOneof("parameter_choice")
        value = None if kind is None else getattr(parameter, kind)
        if name == EMPTY_FINAL:
            if kind != "bool_param":
                raise invalid(path, "is not a boolean")
        elif name in _RESERVED:
            if value:
                raise invalid(path, "is not supported")
        elif name == "timeout":
            values.add(name, _converted(value, int, path), path)
        elif value is not None:
            _add(values, name, value, path)


def add_json(values: Values, text: str, path: str) -> None:
    """Adds the JSON of sampling parameters.

    Raises:
        InvalidRequestError: it is not an object of JSON, or as `add_parameters` has it.
    """
    for name, value in _object(text, path).items():
        if value is not None:  # as unset
            _add(values, name, value, f"{path}.{cut(name, 64)}")


def _add(values: Values, name: str, value: Any, path: str) -> None:
    key = _KEYS.get(name, name)
    if name in _KINDS:
        values.add(key, _converted(value, _KINDS[name], path), path)
    elif name in ("stop", "bad_words"):
        values.add(key, _texts(value, path), path)
    elif name == "stop_token_ids":
        values.add(key, _ids(value, path), path)
    elif name == "logit_bias":
        values.add(key, _biases(value, path), path)
    elif name in ("structured_outputs", "guided_decoding"):
        values.add("guide", _guide(value, path), path)
    else:
        raise invalid(path, "is not supported")


def _converted(value: Any, kind: type, path: str) -> Any:
    """Returns a value as one of the kind: a number may be text, and a whole number may be a float.

    Raises:
        InvalidRequestError: it is none.
    """
    if kind is str:
        return _text(value, path)
    fault = invalid(path, f"is not {_WORDS[kind]}")
    if kind is bool:
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower())
        if not isinstance(value, bool):
            raise fault
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise fault
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise fault
    try:
        return kind(value)
    except (ValueError, OverflowError) as error:
        raise fault from error


_WORDS: dict[type, str] = {bool: "a boolean", int: "a whole number", float: "a number"}


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise invalid(path, "is not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise invalid(path, "has half of a surrogate pair") from error
    return value


def _texts(value: Any, path: str) -> list[str]:
    """Returns a list of texts, of which one may stand alone."""
    listed = value if isinstance(value, list) else [value]
    if len(listed) > CHOICE_OPTIONS:
        raise invalid(path, f"has {len(listed)}; at most {CHOICE_OPTIONS}")
    return [_text(each, f"{path}[{place}]") for place, each in enumerate(listed)]


def _ids(value: Any, path: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise invalid(path, "is not a list")
    return tuple(
        _id(each, f"{path}[{place}]")
        for place, each in enumerate(value[: STOP_TOKEN_IDS_LIMIT + 1])
    )


def _id(value: Any, path: str) -> int:
    token_id = _converted(value, int, path)
    if not 0 <= token_id < 1 << 32:
        raise invalid(path, "is not a token id")
    return int(token_id)


def _biases(value: Any, path: str) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, dict):
        raise invalid(path, "is not an object")
    if len(value) > LOGIT_BIAS_LIMIT:
        raise invalid(path, f"has {len(value)}; at most {LOGIT_BIAS_LIMIT}")
    return tuple(
        (_id(token_id, path), _converted(bias, float, f"{path}.{cut(token_id, 24)}"))
        for token_id, bias in value.items()
    )


def _guide(value: Any, path: str) -> Guide:
    """Returns the guide of a `structured_outputs`, which may be JSON within JSON."""
    parts = _object(value, path) if isinstance(value, str) else value
    if not isinstance(parts, Mapping):
        raise invalid(path, "is not an object")
    given = {name: part for name, part in parts.items() if part is not None and part is not False}
    for name in given:
        if name not in _GUIDES:
            raise invalid(f"{path}.{cut(name, 64)}", "is not supported")
    if len(given) != 1:
        raise invalid(path, f"has {len(given)} forms; exactly one of {', '.join(_GUIDES)}")
    [(name, part)] = given.items()
    form, at = _GUIDES[name], f"{path}.{name}"
    if form is Ability.GUIDED_JSON_OBJECT:
        return Guide(form)
    if form is Ability.GUIDED_CHOICE:
        return Guide(form, options=tuple(_texts(part, at)))
    if form is Ability.GUIDED_JSON_SCHEMA and isinstance(part, dict):
        part = json.dumps(part)
    return Guide(form, text=_text(part, at))


def _object(text: str, path: str) -> dict[str, Any]:
    """Reads an object of JSON."""
    if len(text) > JSON_BYTES:
        raise invalid(path, f"has more than {JSON_BYTES} characters, which is the most")
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise invalid(path, "is nested too deeply") from error
    except ValueError as error:
        raise invalid(path, f"is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise invalid(path, "is not an object of JSON")
    return found
