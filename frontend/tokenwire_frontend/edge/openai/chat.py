"""/v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence as Row
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from tokenwire_service.errors import ServiceError, invalid

from tokenwire_frontend.core.channels import CallDelta
from tokenwire_frontend.core.events import Completion
from tokenwire_frontend.core.log import Delta
from tokenwire_frontend.core.prompt_log import PromptPart
from tokenwire_frontend.core.request import GenerationRequest, Output
from tokenwire_frontend.edge.openai import answers, messages, options
from tokenwire_frontend.edge.openai.answers import Envelope
from tokenwire_frontend.edge.openai.errors import Paths
from tokenwire_frontend.edge.openai.fields import Fields
from tokenwire_frontend.edge.openai.generations import Ask
from tokenwire_frontend.edge.openai.logprobs import ChatLogprobs
from tokenwire_frontend.edge.openai.options import Names
from tokenwire_frontend.edge.openai.whole import Answer, Sequence

PATH = "/v1/chat/completions"

PREFIX = "chatcmpl-"
"""Of an answer's id; the request's own id follows."""


@dataclass(frozen=True, slots=True)
class Form:
    """A request that was read."""

    asks: Row[Ask]
    stream: bool
    include_usage: bool


def read(body: Fields, request_id: str) -> Form:
    """Reads a request.

    Raises:
        InvalidRequestError: a member is at fault, or is not supported; names it.
    """
    names = Names()
    stream, include_usage = stream_options(body)
    general = options.general(body, request_id)
    prompt, choice = messages.chat(body, names)
    body.accept("modalities", ["text"])
    body.accept("verbosity", "medium")
    request = general.request(
        prompt,
        sampling=options.sampling(body, names),
        stopping=options.stopping(body, _max_tokens(body, names)),
        output=_output(body),
        guide=options.guide(body, names),
        tool_choice=choice,
    )
    body.end()
    return Form([Ask(request, paths(names))], stream, include_usage)


def stream_options(body: Fields) -> tuple[bool, bool]:
    """Reads whether the answer is streamed, and whether usage is told at its end."""
    stream = body.flag("stream")
    given = body.inner("stream_options")
    if given is None:
        return stream, False
    if not stream:
        raise invalid(body.at("stream_options"), "requires `stream`")
    include_usage = given.flag("include_usage")
    given.accept("include_obfuscation", False)  # noqa: FBT003 - a value of JSON
    given.end()
    return stream, include_usage


def paths(names: Names) -> Paths:
    """Returns what a chat's request calls the fields of a generation."""
    return Paths(
        names.given,
        {
            "stop.max_tokens": names.max_tokens,
            "stop.include_stop_in_output": "include_stop_str_in_output",
            "stop.": "",
            "sampling.banned_words": "bad_words",
            "sampling.": "",
            "output.": "",
            "prompt.chat.template_arguments": "chat_template_kwargs",
            "prompt.chat.": "",
            "prompt.": "",
            "prompt": "messages",
            "sequence_count": "n",
        },
    )


def _max_tokens(body: Fields, names: Names) -> int | None:
    old, new = body.whole("max_tokens"), body.whole("max_completion_tokens")
    if new is None:
        return old
    if old not in (None, new):
        raise invalid(body.at("max_tokens"), "does not go with `max_completion_tokens`")
    names.max_tokens = "max_completion_tokens"
    return new


def _output(body: Fields) -> Output:
    top = body.whole("top_logprobs") or 0
    return Output(
        logprobs=body.flag("logprobs"),
        top_logprobs=top,
        skip_special_tokens=body.flag("skip_special_tokens", default=True),
        parse=body.flag("parse", default=True),
        stop_in_reasoning=body.flag("stop_in_reasoning"),
    )


def answer(request_id: str, model: str, told: Answer) -> bytes:
    """Returns the whole answer of a chat."""
    choices = [_choice(index, each) for index, each in enumerate(told.sequences)]
    name = PREFIX + request_id
    return answers.whole(name, "chat.completion", model, choices, [told.completion])


def _choice(index: int, told: Sequence) -> bytes:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": told.text if told.text or not told.calls else None,
        "refusal": None,
    }
    if told.reasoning:
        message["reasoning_content"] = told.reasoning
    if told.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in told.calls
        ]
    choice = {"index": index, "message": message, **answers.finish(told.end)}
    return answers.choice(choice, told.logprobs)


_TEXT_ENDS = b'},"logprobs":null,"finish_reason":null}'


class ChatChunks:
    """The events of a streamed chat; see `stream.Chunks`.

    Args:
        request: the generation.
        request_id: the request's id.
        model: name of its model.
        include_usage: whether usage is told at the end.
    """

    def __init__(
        self, request: GenerationRequest, request_id: str, model: str, *, include_usage: bool
    ) -> None:
        self._count = request.sequence_count
        self._envelope = Envelope(
            PREFIX + request_id, "chat.completion.chunk", model, include_usage=include_usage
        )
        # Of new text the rest is always the same.
        self._text = [
            self._envelope.around(b'{"index":%d,"delta":{"content":' % choice, _TEXT_ENDS)
            for choice in range(self._count)
        ]

    def opening(self) -> bytes:
        """Returns the role of each choice."""
        role = {"role": "assistant", "content": ""}
        return b"".join(
            self._envelope.event(
                {"index": choice, "delta": role, "logprobs": None, "finish_reason": None}
            )
            for choice in range(self._count)
        )

    def text(self, choice: int, text: str) -> bytes:
        """Returns the event of new text."""
        head, tail = self._text[choice]
        return head + encode_basestring(text).encode() + tail

    def delta(self, choice: int, delta: Delta) -> bytes:
        """Returns the event of what is new of a choice."""
        new: dict[str, Any] = {}
        if delta.reasoning:
            new["reasoning_content"] = delta.reasoning
        if delta.text:
            new["content"] = delta.text
        if delta.calls:
            new["tool_calls"] = [_call(call) for call in delta.calls]
        if not (new or delta.end or delta.logprobs):
            return b""
        logs = None
        if delta.logprobs:
            logs = ChatLogprobs().part(delta.logprobs, delta.token_bytes)
        return self._envelope.event(
            {"index": choice, "delta": new, "logprobs": logs, **answers.finish(delta.end)}
        )

    def prompt(self, choice: int, part: PromptPart) -> bytes:
        """Returns nothing: a chat is not told of its prompt."""
        return b""

    def closing(self, completions: Row[Completion]) -> bytes:
        """Returns the end, and before it the usage, where that is asked for."""
        return self._envelope.closing(completions)

    def failure(self, error: ServiceError) -> bytes:
        """Returns the event that ends a stream with an error."""
        return answers.failure(error)


def _call(call: CallDelta) -> dict[str, Any]:
    """Returns what is new of a tool call; id, type and name come once."""
    function = {"arguments": call.arguments}
    if not call.id:
        return {"index": call.index, "function": function}
    return {
        "index": call.index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, **function},
    }
