"""What answers of every kind have in common."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web
from tokenwire_service.errors import ServiceError

from tokenwire_frontend.core.events import Completion
from tokenwire_frontend.core.log import End, Finish
from tokenwire_frontend.edge.openai import errors
from tokenwire_frontend.edge.openai.logprobs import Columns

DONE = b"data: [DONE]\n\n"
"""What ends a stream that has not failed."""

_FINISHES = {
    Finish.UNSPECIFIED: "stop",
    Finish.STOP: "stop",
    Finish.TOOL_CALLS: "tool_calls",
    Finish.LENGTH: "length",
    Finish.TIME_BUDGET: "time_budget",
    Finish.CANCELLED: "cancelled",
}
"""The last two are not OpenAI's: one comes where the caller has set a `time_budget`, the other
where somebody has cancelled the request by its id."""


def finish(end: End | None) -> dict[str, Any]:
    """Returns how a sequence has ended, as a choice tells it; `stop_reason` is vLLM's."""
    if end is None:
        return {"finish_reason": None}
    found = end.stop if end.stop is not None else end.stop_token_id
    told: dict[str, Any] = {"finish_reason": _FINISHES[end.finish]}
    return told if found is None else {**told, "stop_reason": found}


def usage(completions: Sequence[Completion]) -> dict[str, Any]:
    """Returns the tokens counted, of all prompts together."""
    prompt = sum(each.prompt_tokens for each in completions)
    output = sum(each.completion_tokens for each in completions)
    told: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
    cached = [each.cached_prompt_tokens for each in completions]
    known = [each for each in cached if each is not None]
    if known:
        told["prompt_tokens_details"] = {"cached_tokens": sum(known)}
    return told


def as_json(value: Any) -> bytes:
    """Returns JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def failure(error: ServiceError) -> bytes:
    """Returns the event that ends a stream with an error."""
    return b"data: " + as_json(errors.body(error)) + b"\n\n"


class Envelope:
    """What all events of a streamed answer have around their choices.

    Args:
        name: the answer's id.
        kind: what its `object` says.
        model: name of its model.
        include_usage: whether usage is told at the end.
    """

    def __init__(self, name: str, kind: str, model: str, *, include_usage: bool) -> None:
        told = {"id": name, "object": kind, "created": int(time.time()), "model": model}
        self._head = b"data: " + as_json(told)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._include_usage = include_usage

    def around(self, head: bytes, tail: bytes) -> tuple[bytes, bytes]:
        """Returns what is before and after a part of a choice, given what of the choice is."""
        return self._head + head, tail + self._tail

    def event(self, choice: dict[str, Any]) -> bytes:
        """Returns the event of one choice."""
        return self._head + as_json(choice) + self._tail

    def closing(self, completions: Sequence[Completion]) -> bytes:
        """Returns the end, and before it the usage, where that is asked for."""
        if not self._include_usage:
            return DONE
        return self._head + b'],"usage":' + as_json(usage(completions)) + b"}\n\n" + DONE


def choice(told: dict[str, Any], logprobs: Columns | None) -> bytes:
    """Returns a choice of a whole answer, with its log probabilities where they are asked for."""
    scores = b"null" if logprobs is None else logprobs.json()
    return as_json(told)[:-1] + b',"logprobs":' + scores + b"}"


def whole(
    name: str, kind: str, model: str, choices: Sequence[bytes], completions: Sequence[Completion]
) -> bytes:
    """Returns a whole answer; its first arguments are those of Envelope."""
    told = {"id": name, "object": kind, "created": int(time.time()), "model": model}
    head = as_json({**told, "usage": usage(completions)})
    return head[:-1] + b',"choices":[' + b",".join(choices) + b"]}"


def response(body: bytes, headers: Mapping[str, str]) -> web.Response:
    """Returns an answer that is JSON."""
    return web.Response(body=body, content_type="application/json", headers=headers)
