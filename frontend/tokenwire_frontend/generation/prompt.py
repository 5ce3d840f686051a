"""From a request's prompt to ids, and from a worker's ids back to text."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence

from tokenwire_service.errors import InvalidRequestError, invalid
from tokenwire_service.telemetry import semconv

from tokenwire_frontend import errors
from tokenwire_frontend.core.decoder import PromptAloneDecoder, SequenceDecoder, SequenceEnds
from tokenwire_frontend.core.detokenizer import SEED_IDS
from tokenwire_frontend.core.log import SequenceLog
from tokenwire_frontend.core.model import ModelLimits
from tokenwire_frontend.core.parsed_decoder import ParsedDecoder
from tokenwire_frontend.core.request import ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from tokenwire_frontend.core.stop_matcher import StopMatcher, StopStrings
from tokenwire_frontend.core.validation import (
    BANNED_WORD_TOKENS_LIMIT,
    PROMPT_TOO_LONG,
    most_prompt_tokens,
    prompt_too_long,
)
from tokenwire_frontend.generation.conversation import Turn
from tokenwire_frontend.generation.reading import Reading, call_ids
from tokenwire_frontend.generation.record import GenerationRecord
from tokenwire_frontend.models.job_result import TooManyTokensError
from tokenwire_frontend.models.model import Model
from tokenwire_frontend.models.token_ids import read_ids
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool
from tokenwire_frontend.models.turn_prompts import turn_prompt


async def tokenise(
    tokenizers: TokenizerPool,
    model: Model,
    request: GenerationRequest,
    limits: ModelLimits,
    record: GenerationRecord,
    turn: Turn | None = None,
) -> tuple[array[int], str]:
    """Returns the prompt's ids, truncated where that is asked for, and its text where it is echoed.

    A prompt that is known to be too long is refused before it is tokenised.

    Args:
        tokenizers: the processes that do it.
        model: its model.
        request: the generation.
        limits: what the prompt may hold.
        record: where the stages are written down.
        turn: of the conversation whose next turn the prompt is.

    Raises:
        ServiceError: the tokenizer is busy, or the chat can't be rendered.
        InvalidRequestError: PROMPT_TOO_LONG, or an id that the vocabulary lacks.
    """
    most_tokens = most_prompt_tokens(request, limits)
    try:
        ids, text = await _whole(tokenizers, model, request, record, most_tokens, turn)
    except TooManyTokensError as error:
        fault = prompt_too_long(error.told, most_tokens)
        raise InvalidRequestError([fault], reason=PROMPT_TOO_LONG) from error
    keeps = request.truncate_prompt_tokens
    truncated = 0 < keeps < len(ids)
    if truncated:
        del ids[:-keeps]
    if request.output.echo and (truncated or isinstance(request.prompt, TokenPrompt)):
        text = await tokenizers.decode(model.key, ids, skip_special_tokens=False)
    return ids, text


async def _whole(
    tokenizers: TokenizerPool,
    model: Model,
    request: GenerationRequest,
    record: GenerationRecord,
    most_tokens: int,
    turn: Turn | None,
) -> tuple[array[int], str]:
    """Returns all ids of a prompt, and its text where it came as one."""
    if isinstance(request.prompt, TokenPrompt):
        return await _token_prompt(model, request.prompt, most_tokens), ""
    if turn is not None:
        return await _turn_prompt(tokenizers, model, turn, record, most_tokens)
    if isinstance(request.prompt, ChatPrompt):
        return await _chat_prompt(tokenizers, model, request, request.prompt, record, most_tokens)
    assert request.prompt is not None  # noqa: S101 - validated before
    ids = await _text_prompt(tokenizers, model, request, request.prompt, record, most_tokens)
    return ids, request.prompt.text


async def _token_prompt(model: Model, prompt: TokenPrompt, most_tokens: int) -> array[int]:
    count = len(prompt.token_ids)
    if count > most_tokens:
        raise TooManyTokensError(count, at_least=False)
    return await read_ids(prompt.token_ids, model.limits.vocabulary_size, "prompt.token_ids.ids")


async def _chat_prompt(
    tokenizers: TokenizerPool,
    model: Model,
    request: GenerationRequest,
    prompt: ChatPrompt,
    record: GenerationRecord,
    most_tokens: int,
) -> tuple[array[int], str]:
    if not model.has_chat_template:
        raise errors.no_chat_template(model.name)
    rendered = await tokenizers.render(
        model.key,
        prompt,
        "prompt.chat",
        add_special_tokens=bool(request.add_special_tokens),
        most_tokens=most_tokens,
    )
    record.stage(semconv.SPAN_RENDER, rendered.began_s, rendered.rendered_s)
    record.stage(semconv.SPAN_TOKENIZE, rendered.rendered_s, rendered.ended_s)
    return rendered.ids, rendered.text


async def _turn_prompt(
    tokenizers: TokenizerPool,
    model: Model,
    turn: Turn,
    record: GenerationRecord,
    most_tokens: int,
) -> tuple[array[int], str]:
    if not model.has_chat_template:
        raise errors.no_chat_template(model.name)
    made = await turn_prompt(
        tokenizers, model.key, turn.chat, "prompt.chat", turn.seen, most_tokens=most_tokens
    )
    turn.rendered(made)
    record.stage(semconv.SPAN_RENDER, made.began_s, made.rendered_s)
    record.stage(semconv.SPAN_TOKENIZE, made.rendered_s, made.ended_s)
    return made.seen.ids, made.text


async def _text_prompt(
    tokenizers: TokenizerPool,
    model: Model,
    request: GenerationRequest,
    prompt: TextPrompt,
    record: GenerationRecord,
    most_tokens: int,
) -> array[int]:
    began_s = time.monotonic()
    fewest = model.tokenizer.fewest_tokens(prompt.text)
    if fewest > most_tokens:
        raise TooManyTokensError(fewest, at_least=True)
    [ids] = await tokenizers.encode(
        model.key,
        prompt.text,
        add_special_tokens=request.add_special_tokens is not False,
        most_tokens=most_tokens,
    )
    record.stage(semconv.SPAN_TOKENIZE, began_s, time.monotonic())
    return ids


async def banned_sequences(
    tokenizers: TokenizerPool, model: Model, request: GenerationRequest
) -> list[array[int]]:
    """Returns runs of ids without which no banned word can be written as the tokenizer writes it.

    A word has up to three forms: at the beginning of a text, where some tokenizers put a space
    before it, after a space, and after a line break.

    Raises:
        ServiceError: the tokenizer is busy.
        InvalidRequestError: a word has no tokens of this model, or too many.
    """
    words = request.sampling.banned_words
    if not words:
        return []
    texts = [before + (word.lstrip() or word) for word in words for before in ("", " ", "\n")]
    line_break, *found = await tokenizers.encode_each(model.key, ["\n", *texts])
    banned: dict[bytes, array[int]] = {}
    for place in range(len(words)):
        alone, spaced, after_break = found[3 * place : 3 * place + 3]
        forms = [alone, spaced]
        if after_break[: len(line_break)] == line_break:
            forms.append(after_break[len(line_break) :])
        # What the model can't generate need not be banned.
        forms = [ids for ids in forms if ids and max(ids) < model.limits.vocabulary_size]
        field = f"sampling.banned_words[{place}]"
        if not forms:
            raise invalid(field, "has no tokens of this model")
        longest = max(map(len, forms))
        if longest > BANNED_WORD_TOKENS_LIMIT:
            raise invalid(field, f"has {longest} tokens; at most {BANNED_WORD_TOKENS_LIMIT}")
        banned |= {ids.tobytes(): ids for ids in forms}
    # One that ends with another is banned with it.
    return [
        ids
        for ids in banned.values()
        if not any(ids[start:].tobytes() in banned for start in range(1, len(ids)))
    ]


def decoders(
    model: Model,
    request: GenerationRequest,
    prompt: Sequence[int],
    text: str,
    read: Reading | None,
    request_id: str,
) -> list[SequenceDecoder]:
    """Returns a decoder and a log for each sequence.

    Args:
        model: its model.
        request: the generation.
        prompt: the prompt's ids.
        text: the prompt's text, where it is echoed.
        read: how the output is read; None: as text alone.
        request_id: the generation's.
    """
    stopping, tokenizer = request.stopping, model.tokenizer
    own = frozenset() if stopping.ignore_eos else frozenset(model.limits.eos_token_ids)
    own -= frozenset(stopping.stop_token_ids)
    echo = text.encode() if request.output.echo else b""
    skips = request.output.skip_special_tokens
    stops = None
    if stopping.stop:
        stops = StopStrings(stopping.stop, tokenizer.special_tokens if skips else None)

    def matcher() -> StopMatcher | None:
        return StopMatcher(stops, include=stopping.include_stop_in_output) if stops else None

    def decoder(index: int) -> SequenceDecoder:
        log = SequenceLog(index, echo=echo, token_bytes=tokenizer.token_bytes)
        detokenizer = tokenizer.detokenizer(skip_special_tokens=skips, seed=prompt[-SEED_IDS:])
        ends = SequenceEnds(
            stop_token_ids=own | frozenset(stopping.stop_token_ids),
            own_eos_ids=own,
            min_tokens=stopping.min_tokens,
            include_stop=stopping.include_stop_in_output,
        )
        if request.output.prompt_alone:
            return PromptAloneDecoder(log, detokenizer, ends)
        if read is None:
            return SequenceDecoder(log, detokenizer, ends, matcher())
        return ParsedDecoder(
            log,
            detokenizer,
            ends,
            read.parser(call_ids(request_id, index), shows_tokens=not skips),
            read.form.marks,
            {} if skips else tokenizer.special_tokens,
            stops=matcher(),
            reasoning_stops=matcher() if request.output.stop_in_reasoning else None,
            one_call=read.one_call,
        )

    return [decoder(index) for index in range(request.sequence_count)]
