"""/v1/completions."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from json.encoder import encode_basestring
from typing import Any

from tokenwire_service.errors import ServiceError, invalid

from tokenwire_frontend.core.events import Completion
from tokenwire_frontend.core.log import Delta
from tokenwire_frontend.core.prompt_log import PromptPart
from tokenwire_frontend.core.request import (
    GenerationRequest,
    Output,
    Prompt,
    TextPrompt,
    TokenPrompt,
)
from tokenwire_frontend.edge.openai import answers, options
from tokenwire_frontend.edge.openai.answers import Envelope
from tokenwire_frontend.edge.openai.chat import Form, stream_options
from tokenwire_frontend.edge.openai.errors import Paths
from tokenwire_frontend.edge.openai.fields import Fields
from tokenwire_frontend.edge.openai.generations import Ask
from tokenwire_frontend.edge.openai.logprobs import CompletionLogprobs
from tokenwire_frontend.edge.openai.options import Names
from tokenwire_frontend.edge.openai.whole import Answer

PATH = "/v1/completions"

PREFIX = "cmpl-"
"""Of an answer's id; the request's own id follows."""

MAX_TOKENS = 16
"""Of a sequence where the request does not say: OpenAI's default, and vLLM's."""

PROMPTS_LIMIT = 128
"""In one request: each is a generation, and holds a place until all of them have ended."""


def read(body: Fields, request_id: str) -> Form:
    """Reads a request.

    Raises:
        InvalidRequestError: a member is at fault, or is not supported; names it.
    """
    names = Names()
    stream, include_usage = stream_options(body)
    general = options.general(body, request_id)
    best_of = body.whole("best_of", least=1)
    if best_of not in (None, general.sequence_count):
        raise invalid("best_of", "is supported only as equal to `n`")
    prompts = _prompts(body)
    max_tokens, output = body.whole("max_tokens"), _output(body)
    if max_tokens is None:
        max_tokens = MAX_TOKENS
    elif max_tokens == 0 and output.echo:
        # An engine generates one token at least.
        max_tokens, output = 1, replace(output, prompt_alone=True)
    sampling, stopping = options.sampling(body, names), options.stopping(body, max_tokens)
    guide = options.guide(body, names)
    body.end()
    asks = [
        Ask(
            general.request(
                prompt, sampling=sampling, stopping=stopping, output=output, guide=guide
            ),
            _paths(names, path),
        )
        for path, prompt in prompts
    ]
    return Form(asks, stream, include_usage)


def _paths(names: Names, prompt: str) -> Paths:
    return Paths(
        names.given,
        {
            "stop.include_stop_in_output": "include_stop_str_in_output",
            "stop.": "",
            "sampling.banned_words": "bad_words",
            "sampling.": "",
            "output.top_logprobs": "logprobs",
            "output.prompt_logprobs": "logprobs",
            "output.": "",
            "prompt.text": prompt,
            "prompt.token_ids.ids": prompt,
            "prompt.": "",
            "prompt": prompt,
            "sequence_count": "n",
        },
    )


def _prompts(body: Fields) -> list[tuple[str, Prompt]]:
    """Reads the prompts, each with its path."""
    given = body.take("prompt")
    if given is None:
        raise invalid("prompt", "is required")
    if type(given) is list and given and type(given[0]) in (str, list):
        if len(given) > PROMPTS_LIMIT:
            raise invalid("prompt", f"has {len(given)} prompts; at most {PROMPTS_LIMIT}")
        return [(path, _prompt(each, path)) for path, each in _numbered(given)]
    return [("prompt", _prompt(given, "prompt"))]


def _numbered(given: list[Any]) -> list[tuple[str, Any]]:
    return [(f"prompt[{place}]", each) for place, each in enumerate(given)]


def _prompt(given: Any, path: str) -> Prompt:
    if type(given) is str:
        return TextPrompt(given)
    try:
        if type(given) is list:
            return TokenPrompt(array("I", given))
    except (TypeError, OverflowError):
        pass  # as what follows says
    raise invalid(path, "must be a string or an array of token ids")


def _output(body: Fields) -> Output:
    top, echo = body.whole("logprobs"), body.flag("echo")
    return Output(
        logprobs=top is not None,
        top_logprobs=top or 0,
        prompt_logprobs=top if echo else None,
        echo=echo,
        skip_special_tokens=body.flag("skip_special_tokens", default=True),
        parse=body.flag("parse"),
        stop_in_reasoning=body.flag("stop_in_reasoning"),
    )


def answer(request_id: str, model: str, told: Sequence[Answer]) -> bytes:
    """Returns the whole answer of all prompts."""
    sequences = [each for one in told for each in one.sequences]
    choices = [
        answers.choice(
            {"index": index, "text": each.text, **answers.finish(each.end)}, each.logprobs
        )
        for index, each in enumerate(sequences)
    ]
    counted = [each.completion for each in told]
    return answers.whole(PREFIX + request_id, "text_completion", model, choices, counted)


_TEXT_ENDS = b',"logprobs":null,"finish_reason":null}'


class CompletionChunks:
    """The events of streamed completions; see `stream.Chunks`.

    Args:
        request: the first prompt's generation.
        prompts: how many prompts there are.
        request_id: the request's id.
        model: name of its model.
        include_usage: whether usage is told at the end.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompts: int,
        request_id: str,
        model: str,
        *,
        include_usage: bool,
    ) -> None:
        count = prompts * request.sequence_count
        self._sequences = request.sequence_count
        tops = bool(request.output.top_logprobs)
        self._logprobs = [CompletionLogprobs(alternatives=tops) for _ in range(count)]
        self._envelope = Envelope(
            PREFIX + request_id, "text_completion", model, include_usage=include_usage
        )
        self._text = [
            self._envelope.around(b'{"index":%d,"text":' % choice, _TEXT_ENDS)
            for choice in range(count)
        ]

    def opening(self) -> bytes:
        """Returns nothing: headers alone tell that workers have taken the request."""
        return b""

    def text(self, choice: int, text: str) -> bytes:
        """Returns the event of new text."""
        head, tail = self._text[choice]
        return head + encode_basestring(text).encode() + tail

    def delta(self, choice: int, delta: Delta) -> bytes:
        """Returns the event of what is new of a choice."""
        if not (delta.text or delta.end or delta.logprobs):
            return b""
        logs = None
        if delta.logprobs:
            logs = self._logprobs[choice].part(delta.logprobs, delta.token_bytes)
        return self._envelope.event(
            {"index": choice, "text": delta.text, "logprobs": logs, **answers.finish(delta.end)}
        )

    def prompt(self, choice: int, part: PromptPart) -> bytes:
        """Returns the events of a prompt's log probabilities, of each choice that begins with it.

        The prompt's text comes with the choices' first text.
        """
        events = []
        for each in range(choice, choice + self._sequences):
            logs = self._logprobs[each].part(
                part.logprobs,
                part.token_bytes,
                begins=part.token_offset == 0,
            )
            told = {"index": each, "text": "", "logprobs": logs, "finish_reason": None}
            events.append(self._envelope.event(told))
        return b"".join(events)

    def closing(self, completions: Sequence[Completion]) -> bytes:
        """Returns the end, and before it the usage, where that is asked for."""
        return self._envelope.closing(completions)

    def failure(self, error: ServiceError) -> bytes:
        """Returns the event that ends a stream with an error."""
        return answers.failure(error)
