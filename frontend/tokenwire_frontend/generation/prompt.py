"""From a request's prompt to ids, and from a worker's ids back to text."""

from __future__ import annotations

import time

from tokenwire_service.telemetry import semconv

from tokenwire_frontend import errors
from tokenwire_frontend.core.decoder import SequenceDecoder
from tokenwire_frontend.core.detokenizer import SEED_IDS
from tokenwire_frontend.core.log import SequenceLog
from tokenwire_frontend.core.request import ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from tokenwire_frontend.core.stop_matcher import StopMatcher, StopStrings
from tokenwire_frontend.generation.record import GenerationRecord
from tokenwire_frontend.models.chat_template import ChatTemplateError
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.models.tokenizer import Tokenizer
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool


async def tokenise(
    tokenizers: TokenizerPool, model: Model, request: GenerationRequest, record: GenerationRecord
) -> tuple[list[int], str]:
    """Returns the prompt's ids, and its text where it is echoed.

    Raises:
        ServiceError: the tokenizer is busy, or the chat can't be rendered.
    """
    prompt, tokenizer = request.prompt, model.tokenizer
    if isinstance(prompt, TokenPrompt):
        if not request.output.echo:
            return prompt.token_ids, ""
        ids = prompt.token_ids
        text = await tokenizers.run(lambda: tokenizer.decode(ids, skip_special_tokens=False))
        return ids, text
    assert prompt is not None  # noqa: S101 - validated before
    if isinstance(prompt, ChatPrompt) and tokenizer.chat_template is None:
        raise errors.no_chat_template(model.name)
    encoded, text, times = await tokenizers.run(
        lambda: _encode(tokenizer, prompt, request.add_special_tokens)
    )
    for stage, from_s, to_s in times:
        record.stage(stage, from_s, to_s)
    return encoded, text


def render(tokenizer: Tokenizer, chat: ChatPrompt, field: str) -> str:
    """Returns the chat as the tokenizer's template, which it must have, renders it.

    Raises:
        ServiceError: CHAT_TEMPLATE_FAILED at `field`.
    """
    assert tokenizer.chat_template is not None  # noqa: S101 - the caller has checked
    try:
        return tokenizer.chat_template.render(chat)
    except ChatTemplateError as error:
        raise errors.template_failed(field, str(error)) from error


def _encode(
    tokenizer: Tokenizer, prompt: TextPrompt | ChatPrompt, add_special_tokens: bool | None
) -> tuple[list[int], str, list[tuple[str, float, float]]]:
    """Renders and tokenises; runs on a tokenizer thread.

    Returns:
        The ids, the text, and each stage's name and time.monotonic() of its beginning and end.
    """
    start = time.monotonic()
    times = []
    if isinstance(prompt, ChatPrompt):
        text = render(tokenizer, prompt, "prompt.chat")
        special = bool(add_special_tokens)
        rendered = time.monotonic()
        times.append((semconv.SPAN_RENDER, start, rendered))
        start = rendered
    else:
        text = prompt.text
        special = add_special_tokens is not False
    ids = tokenizer.encode_ids(text, add_special_tokens=special)
    times.append((semconv.SPAN_TOKENIZE, start, time.monotonic()))
    return ids, text, times


def decoders(
    model: Model, request: GenerationRequest, prompt: list[int], text: str
) -> list[SequenceDecoder]:
    """Returns a decoder and a log for each sequence; `text` is the prompt's, where it is echoed."""
    stopping, tokenizer = request.stopping, model.tokenizer
    own = frozenset() if stopping.ignore_eos else frozenset(model.limits.eos_token_ids)
    own -= frozenset(stopping.stop_token_ids)
    echo = text.encode() if request.output.echo else b""
    skips = request.output.skip_special_tokens
    stops = None
    if stopping.stop:
        stops = StopStrings(stopping.stop, tokenizer.special_tokens if skips else None)
    return [
        SequenceDecoder(
            SequenceLog(index, echo=echo),
            tokenizer.detokenizer(skip_special_tokens=skips, seed=prompt[-SEED_IDS:]),
            StopMatcher(stops, include=stopping.include_stop_in_output) if stops else None,
            stop_token_ids=own | frozenset(stopping.stop_token_ids),
            own_eos_ids=own,
            min_tokens=stopping.min_tokens,
            include_stop=stopping.include_stop_in_output,
        )
        for index in range(request.sequence_count)
    ]
