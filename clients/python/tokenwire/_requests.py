"""Python arguments to protobuf requests, in one place.

Options carry the names of the contract's fields, so most of them pass straight through. What
protobuf can't hold is refused here, with the option's name: an unknown option or a wrong type with
TypeError, a value out of its field's range with ValueError. The rest is the server's to judge.
"""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf import duration_pb2, empty_pb2
from google.protobuf.message import Message

from tokenwire import _chat
from tokenwire._chat import Chat
from tokenwire._fields import build
from tokenwire.errors import FieldViolation, InvalidRequestError
from tokenwire.frontend.v1 import (
    activity_pb2,
    generation_pb2,
    options_pb2,
    prompt_pb2,
    tokenization_pb2,
)
from tokenwire.options import ChatOptions, GenerationOptions

Prompt = str | Sequence[int]
"""A text, or token ids of the model's own vocabulary."""

_GUIDES = [field.name for field in options_pb2.GuidedDecoding.DESCRIPTOR.fields]
_OWN = [
    *("model", "lora_adapter", "cache_salt", "priority", "request_id"),
    *("idempotency_key", "conversation"),
]

_IN_OPENAI = {"messages": "chat", "response_format": "json_schema"}
"""Names in OpenAI's interface that are not like ours."""

_ON_DISCONNECT = {
    "cancel": generation_pb2.ON_DISCONNECT_CANCEL,
    "detach": generation_pb2.ON_DISCONNECT_DETACH,
}
_CONTENT = {
    "text_and_ids": options_pb2.STREAM_CONTENT_TEXT_AND_IDS,
    "text": options_pb2.STREAM_CONTENT_TEXT,
    "ids": options_pb2.STREAM_CONTENT_IDS,
}

_AROUND_BYTES = 1024
"""Of a message, for what stands around a request, such as a session's trace context."""

_ValueT = TypeVar("_ValueT")
_MessageT = TypeVar("_MessageT", bound=Message)


def generation(
    prompt: Prompt | None, chat: Chat | None, options: GenerationOptions, limit_bytes: int
) -> generation_pb2.Generation:
    """Returns what to generate, from a prompt or a chat and the options.

    Raises:
        TypeError: not exactly one of prompt and chat, an unknown option, or a wrong type.
        ValueError: a value that its field can't hold.
        InvalidRequestError: more than a message holds.
    """
    given = _given(options)
    unknown = {name: given[name] for name in given if name not in GenerationOptions.__annotations__}
    if unknown:
        raise _unknown(unknown)
    for name in ("stop", "banned_words"):
        if isinstance(given.get(name), str):
            given[name] = [given[name]]
    if "logit_bias" in given:
        given["logit_bias"] = _logit_bias(given["logit_bias"])
    if given.get("top_logprobs"):
        given.setdefault("logprobs", True)
    message = generation_pb2.Generation(
        prompt=_prompt(prompt, chat, given),
        sampling=_part(options_pb2.SamplingOptions, given),
        stop=_part(options_pb2.StopConditions, given),
        output=_part(options_pb2.OutputOptions, given),
        guided=_guided(given),
        time_budget=_duration("time_budget", given.pop("time_budget", None)),
        detach_ttl=_duration("detach_ttl", given.pop("detach_ttl", None)),
    )
    own = {name: given.pop(name) for name in _OWN if name in given}
    if "on_disconnect" in given:
        word = given.pop("on_disconnect")
        own["on_disconnect"] = _word(_ON_DISCONNECT, "on_disconnect", word)
    if "n" in given:
        own["sequence_count"] = given.pop("n")
    if given:
        raise _unknown(given)
    if own:
        message.MergeFrom(build(generation_pb2.Generation, own))
    return _sized(message, "generation.prompt", limit_bytes)


def stream(
    max_delay: float | None, max_delta_tokens: int | None = None, content: str | None = None
) -> options_pb2.StreamOptions | None:
    """Returns how deltas are put into messages; raises as `generation`.

    Args:
        max_delay: in seconds.
        max_delta_tokens: most tokens of one delta.
        content: `text_and_ids`, `text` or `ids`.
    """
    values = {
        "max_delay": _duration("max_delay", max_delay),
        "max_tokens": max_delta_tokens,
        "content": _word(_CONTENT, "content", content),
    }
    given = _given(values)
    return build(options_pb2.StreamOptions, given) if given else None


def attach(
    resume_token: str,
    token_offsets: Sequence[int],
    options: options_pb2.StreamOptions | None,
) -> generation_pb2.AttachRequest:
    """Returns the request for a detached generation from a position on; raises as `generation`."""
    given = {"resume_token": resume_token, "token_offsets": token_offsets, "stream": options}
    return build(generation_pb2.AttachRequest, given)


def continuation(
    generation: generation_pb2.Generation,
    so_far: Sequence[generation_pb2.SequenceSoFar],
    request_id: str,
    left_s: float | None,
    limit_bytes: int,
) -> generation_pb2.Generation:
    """Returns the request for what follows the output so far.

    Args:
        generation: the first request.
        so_far: what exists of each sequence; empty: nothing of any.
        request_id: as the first frontend said: ids of tool calls are made of it.
        left_s: what is left of the time budget; None where there is none.
        limit_bytes: as for `generation`, and raises as that.
    """
    message = generation_pb2.Generation()
    message.CopyFrom(generation)
    message.output_so_far.extend(so_far)
    message.request_id = request_id
    if left_s is not None:
        message.time_budget.FromNanoseconds(round(left_s * 1e9))
    return _sized(message, "generation.output_so_far", limit_bytes)


def tokenize(
    text: str,
    model: str,
    add_special_tokens: bool | None,
    with_offsets: bool,
    limit_bytes: int,
) -> tokenization_pb2.TokenizeRequest:
    """Returns the request for a text's token ids."""
    given = {"text": text, "model": model, "with_offsets": with_offsets}
    given["add_special_tokens"] = add_special_tokens
    return _sized(build(tokenization_pb2.TokenizeRequest, given), "text", limit_bytes)


def detokenize(
    token_ids: Sequence[int], model: str, skip_special_tokens: bool | None, limit_bytes: int
) -> tokenization_pb2.DetokenizeRequest:
    """Returns the request for the text of token ids."""
    given = {"token_ids": token_ids, "model": model, "skip_special_tokens": skip_special_tokens}
    request = build(tokenization_pb2.DetokenizeRequest, given)
    return _sized(request, "token_ids", limit_bytes)


def render_chat(
    messages: Chat, model: str, options: ChatOptions, limit_bytes: int
) -> tokenization_pb2.RenderChatRequest:
    """Returns the request for a chat as the model would see it."""
    given = _given(options)
    request = tokenization_pb2.RenderChatRequest(model=model, chat=_chat.chat(messages, given))
    if given:
        raise _unknown(given)
    return _sized(request, "chat", limit_bytes)


def activity(interval_s: float, records: int) -> activity_pb2.WatchActivityRequest:
    """Returns the request for the frontend's activity."""
    interval = _duration("interval_s", interval_s)
    return build(activity_pb2.WatchActivityRequest, {"interval": interval, "records": records})


def _word(values: Mapping[str, _ValueT], name: str, given: str | None) -> _ValueT | None:
    """Returns the number of an enum's value that is given by a word."""
    if given is None:
        return None
    if given not in values:
        raise ValueError(f"{name}: {given!r} is none of {', '.join(values)}")
    return values[given]


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _prompt(prompt: Prompt | None, chat: Chat | None, given: dict[str, Any]) -> prompt_pb2.Prompt:
    if prompt is None and chat is None:
        raise TypeError("a prompt or chat= is required")
    if prompt is not None and chat is not None:
        raise TypeError("a prompt and chat= were both given; only one is allowed")
    content: dict[str, Any] = {}
    for name in ("add_special_tokens", "truncate_prompt_tokens"):
        if name in given:
            content[name] = given.pop(name)
    if chat is not None:
        content["chat"] = _chat.chat(chat, given)
    elif isinstance(prompt, str):
        content["text"] = prompt
    elif isinstance(prompt, bytes | bytearray):
        raise TypeError("prompt: give a text or token ids, not bytes")
    elif isinstance(prompt, Sequence) and any(isinstance(each, Mapping) for each in prompt):
        raise TypeError("prompt: not token ids; give a list of messages as chat=")
    else:
        content["token_ids"] = build(prompt_pb2.TokenIds, {"ids": prompt}, "prompt")
    return build(prompt_pb2.Prompt, content, "prompt")


def _logit_bias(biases: Mapping[int, float]) -> list[options_pb2.LogitBias]:
    if not isinstance(biases, Mapping):
        raise TypeError(f"logit_bias={reprlib.repr(biases)}: not a dict of ids and biases")
    return [
        build(options_pb2.LogitBias, {"token_id": token_id, "bias": bias}, "logit_bias")
        for token_id, bias in biases.items()
    ]


def _guided(given: dict[str, Any]) -> options_pb2.GuidedDecoding | None:
    names = [name for name in _GUIDES if name in given]
    if len(names) > 1:
        raise TypeError(f"the output can be held to one form, not to {' and '.join(names)}")
    if not names:
        return None
    name, value = names[0], given.pop(names[0])
    if name == "json_object":
        return options_pb2.GuidedDecoding(json_object=empty_pb2.Empty()) if value else None
    if name == "json_schema" and not isinstance(value, str):
        value = json.dumps(value)
    if name == "choice":
        if isinstance(value, str):
            raise TypeError("choice: give a list of texts")
        value = build(options_pb2.Choice, {"options": value}, "choice")
    return build(options_pb2.GuidedDecoding, {name: value})


def _part(kind: type[_MessageT], given: dict[str, Any]) -> _MessageT | None:
    """Takes the options that are fields of `kind` out of `given`."""
    own = {
        field.name: given.pop(field.name) for field in kind.DESCRIPTOR.fields if field.name in given
    }
    return build(kind, own) if own else None


def _sized(request: _MessageT, field: str, limit_bytes: int) -> _MessageT:
    """Returns the request; raises InvalidRequestError where it is too large to be sent.

    gRPC would say RESOURCE_EXHAUSTED, as of an overload, and end a session with all that is open.
    """
    size = request.ByteSize()
    if size <= limit_bytes - _AROUND_BYTES:
        return request
    limit_mib = f"{limit_bytes / 2**20:g}"
    fault = f"too long: the request has {size} bytes, and a message at most {limit_mib} MiB"
    error = InvalidRequestError(
        f"{field}: {fault}", code=grpc.StatusCode.INVALID_ARGUMENT, reason="REQUEST_TOO_LARGE"
    )
    error.violations = (FieldViolation(field, fault),)
    raise error


def _duration(name: str, seconds: float | None) -> duration_pb2.Duration | None:
    if seconds is None:
        return None
    duration = duration_pb2.Duration()
    try:
        duration.FromNanoseconds(round(seconds * 1e9))
    except (OverflowError, ValueError):
        raise ValueError(f"{name}={seconds!r}: not a time in seconds") from None
    return duration


def _unknown(given: Mapping[str, Any]) -> TypeError:
    name = next(iter(given))
    if name in ChatOptions.__annotations__:
        return TypeError(f"{name} goes with chat=")
    known = GenerationOptions.__annotations__
    near = _IN_OPENAI.get(name) or next(iter(difflib.get_close_matches(name, known, n=1)), None)
    hint = f"; did you mean {near}?" if near else ""
    return TypeError(f"unknown option {name!r}{hint}")
