"""The prompt of a conversation's next turn: rendered whole, encoded only where it is new."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass

from tokenwire_frontend import errors
from tokenwire_frontend.core.request import ChatPrompt
from tokenwire_frontend.core.seen import Parts, Seen
from tokenwire_frontend.models.job_result import BudgetSpentError, TemplateFailedError
from tokenwire_frontend.models.lanes import SHORT_BYTES
from tokenwire_frontend.models.sandbox import Budget
from tokenwire_frontend.models.text_process import packed
from tokenwire_frontend.models.tokenizer_pool import (
    LONG_RENDERING,
    RENDER_LIMIT,
    SHORT_RENDERING,
    TOKENIZE_LIMIT,
    TokenizerPool,
)


@dataclass(frozen=True, slots=True)
class TurnPrompt:
    """A prompt, with time.monotonic() at its stages."""

    text: str
    seen: Seen
    kept: int
    """Ids that were kept as they were; the others were encoded."""
    began_s: float
    rendered_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class _Rendered:
    text: str
    marked: str
    """The same where `plane` is 0; see Jobs.turn."""
    plane: int
    parts: Parts
    began_s: float
    rendered_s: float


async def turn_prompt(
    tokenizers: TokenizerPool,
    key: str,
    chat: ChatPrompt,
    field: str,
    seen: Seen,
    *,
    most_tokens: int,
) -> TurnPrompt:
    """Renders a chat that stands at `field`, and encodes what of it is new.

    Args:
        tokenizers: the processes that do it.
        key: the model's.
        chat: the whole conversation.
        field: path of the chat in the request.
        seen: the turn before; nothing of it where the chat was rendered in another way.
        most_tokens: of what is new; the whole may have more.

    Raises:
        ServiceError: as TokenizerPool.render.
        TooManyTokensError: more than `most_tokens`.
    """
    try:
        rendered = await _rendered(tokenizers, key, chat, field, most_tokens)
    except TemplateFailedError as error:
        raise errors.template_failed(field, str(error)) from error
    text, parts = rendered.text.encode(), rendered.parts
    kept = at, count = seen.kept(text, parts)
    rest = await _encoded(tokenizers, key, rendered, text, at, most_tokens)
    if count and rest[:1] != array("I", parts.part(at).token_ids[:1]):
        # The tokenizer does not begin there with the token that the text has.
        kept = at, count = 0, 0
        rest = await _encoded(tokenizers, key, rendered, text, at, most_tokens)
    return TurnPrompt(
        rendered.text,
        seen.replaced(text, parts, kept, rest),
        count,
        rendered.began_s,
        rendered.rendered_s,
        time.monotonic(),
    )


async def _rendered(
    tokenizers: TokenizerPool, key: str, chat: ChatPrompt, field: str, most_tokens: int
) -> _Rendered:
    fields = (
        chat.messages, chat.tools, chat.documents, chat.add_generation_prompt,
        chat.continue_final_message, chat.template_arguments, chat.escape_control_tokens, chat.held,
    )  # fmt: skip

    def job(budget: Budget) -> bytes:
        limits = (budget.steps, budget.cpu_s, budget.output_chars)
        return packed("turn", key, fields, field, limits, most_tokens)

    first = job(SHORT_RENDERING)
    try:
        if len(first) > SHORT_BYTES:
            raise BudgetSpentError
        told = await tokenizers.result(first, RENDER_LIMIT)
    except BudgetSpentError:
        try:
            told = await tokenizers.result(job(LONG_RENDERING), RENDER_LIMIT, short=False)
        except BudgetSpentError as error:
            raise TemplateFailedError("it takes too long") from error
    text, marked, plane, places, ids, (began_s, rendered_s) = told
    parts = Parts(array("I", places), array("I", ids))
    return _Rendered(text, marked, plane, parts, began_s, rendered_s)


async def _encoded(
    tokenizers: TokenizerPool,
    key: str,
    rendered: _Rendered,
    text: bytes,
    at: int,
    most_tokens: int,
) -> array[int]:
    """Returns the ids of a rendered chat after so many bytes of its text."""
    rest = rendered.marked[len(text[:at].decode()) :] if at else rendered.marked
    if not rendered.plane:
        [ids] = await tokenizers.encode(
            key, rest, add_special_tokens=False, most_tokens=most_tokens
        )
        return ids
    special = False
    job = packed("literal", key, rest, rendered.plane, special, most_tokens)
    _, ids = await tokenizers.result(job, TOKENIZE_LIMIT)
    return array("I", ids)
