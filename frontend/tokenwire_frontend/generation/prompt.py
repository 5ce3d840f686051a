"""From a request's prompt to ids, and from a worker's ids back to text."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence

from tokenwire_service.errors import InvalidRequestError
from tokenwire_service.telemetry import semconv

from tokenwire_frontend import errors
from tokenwire_frontend.core.decoder import SequenceDecoder
from tokenwire_frontend.core.detokenizer import SEED_IDS
from tokenwire_frontend.core.log import SequenceLog
from tokenwire_frontend.core.request import ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from tokenwire_frontend.core.stop_matcher import StopMatcher, StopStrings
from tokenwire_frontend.core.validation import prompt_too_long
from tokenwire_frontend.generation.record import GenerationRecord
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.models.token_ids import read_ids
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool, TooManyTokensError


async def tokenise(
    tokenizers: TokenizerPool, model: Model, request: GenerationRequest, record: GenerationRecord
) -> tuple[array[int], str]:
    """Returns the prompt's ids, and its text where it is echoed.

    A prompt that is known to be too long is refused before it is tokenised.

    Raises:
        ServiceError: the tokenizer is busy, or the chat can't be rendered.
        InvalidRequestError: PROMPT_TOO_LONG, or an id that the vocabulary lacks.
    """
    try:
        if isinstance(request.prompt, TokenPrompt):
            return await _token_prompt(tokenizers, model, request, request.prompt)
        if isinstance(request.prompt, ChatPrompt):
            return await _chat_prompt(tokenizers, model, request, request.prompt, record)
        assert request.prompt is not None  # noqa: S101 - validated before
        return await _text_prompt(tokenizers, model, request, request.prompt, record)
    except TooManyTokensError as error:
        fault = prompt_too_long(error.told, model.limits)
        raise InvalidRequestError([fault], reason="PROMPT_TOO_LONG") from error


async def _token_prompt(
    tokenizers: TokenizerPool, model: Model, request: GenerationRequest, prompt: TokenPrompt
) -> tuple[array[int], str]:
    count = len(prompt.token_ids)
    if count > model.limits.prompt_tokens:
        raise TooManyTokensError(count, at_least=False)
    ids = await read_ids(prompt.token_ids, model.limits.vocabulary_size, "prompt.token_ids.ids")
    text = ""
    if request.output.echo:
        text = await tokenizers.decode(model.key, ids, skip_special_tokens=False)
    return ids, text


async def _chat_prompt(
    tokenizers: TokenizerPool,
    model: Model,
    request: GenerationRequest,
    prompt: ChatPrompt,
    record: GenerationRecord,
) -> tuple[array[int], str]:
    if not model.has_chat_template:
        raise errors.no_chat_template(model.name)
    rendered = await tokenizers.render(
        model.key,
        prompt,
        "prompt.chat",
        add_special_tokens=bool(request.add_special_tokens),
        most_tokens=model.limits.prompt_tokens,
    )
    record.stage(semconv.SPAN_RENDER, rendered.began_s, rendered.rendered_s)
    record.stage(semconv.SPAN_TOKENIZE, rendered.rendered_s, rendered.ended_s)
    return rendered.ids, rendered.text


async def _text_prompt(
    tokenizers: TokenizerPool,
    model: Model,
    request: GenerationRequest,
    prompt: TextPrompt,
    record: GenerationRecord,
) -> tuple[array[int], str]:
    began_s = time.monotonic()
    fewest = model.tokenizer.fewest_tokens(prompt.text)
    if fewest > model.limits.prompt_tokens:
        raise TooManyTokensError(fewest, at_least=True)
    [ids] = await tokenizers.encode(
        model.key,
        prompt.text,
        add_special_tokens=request.add_special_tokens is not False,
        most_tokens=model.limits.prompt_tokens,
    )
    record.stage(semconv.SPAN_TOKENIZE, began_s, time.monotonic())
    return ids, prompt.text


def decoders(
    model: Model, request: GenerationRequest, prompt: Sequence[int], text: str
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
            SequenceLog(index, echo=echo, token_bytes=tokenizer.token_bytes),
            tokenizer.detokenizer(skip_special_tokens=skips, seed=prompt[-SEED_IDS:]),
            StopMatcher(stops, include=stopping.include_stop_in_output) if stops else None,
            stop_token_ids=own | frozenset(stopping.stop_token_ids),
            own_eos_ids=own,
            min_tokens=stopping.min_tokens,
            include_stop=stopping.include_stop_in_output,
        )
        for index in range(request.sequence_count)
    ]
