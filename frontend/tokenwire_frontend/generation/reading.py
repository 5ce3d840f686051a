"""How a generation's output is read: its reasoning and tool calls, and what it is held to."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenwire_service.errors import FieldViolation, InvalidRequestError

from tokenwire_frontend.core.held_calls import Schemas, held_form
from tokenwire_frontend.core.model import Ability
from tokenwire_frontend.core.parsers.parser import OutputFormat, OutputParser
from tokenwire_frontend.core.request import (
    ChatPrompt,
    FreePrefix,
    GenerationRequest,
    ToolMode,
    content_texts,
)
from tokenwire_frontend.models.model import Model

TAIL_IDS = 32
"""Ids at a prompt's end that tell whether it ends within reasoning."""

CALL_ID_CHARACTERS = 9
"""Mistral's templates refuse ids of another length; others take any."""

_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Reading:
    """What the sequences of a generation are parsed with."""

    form: OutputFormat
    in_reasoning: bool
    """Whether the prompt ends within reasoning."""
    tools: Mapping[str, Mapping[str, Any]]
    """Parameters of the tools by name."""
    one_call: bool
    """Whether a sequence ends with its first call."""

    def parser(self, call_id: Callable[[int], str], *, shows_tokens: bool) -> OutputParser:
        """Returns a parser for one sequence.

        Args:
            call_id: makes the id of a call by its index.
            shows_tokens: whether special tokens that mark nothing are text.
        """
        return OutputParser(
            self.form,
            call_id,
            self.tools,
            in_reasoning=self.in_reasoning,
            shows_tokens=shows_tokens,
        )


def reading(
    model: Model, request: GenerationRequest, prompt: Sequence[int], text: str
) -> Reading | None:
    """Returns how the output is read, or None where it is text alone.

    Args:
        model: its model.
        request: the generation.
        prompt: the prompt's ids.
        text: the prompt's text, or empty where it is not known.
    """
    choice = request.tool_choice
    chat = request.prompt if isinstance(request.prompt, ChatPrompt) else None
    if not request.output.parse:
        return None
    calls = chat is None or (bool(chat.tools) and choice.mode is not ToolMode.NONE)
    form = model.formats.held() if choice.holds else model.formats.free(tools=calls)
    if form is None:
        return None
    tail = text or model.tokenizer.decode(prompt[-TAIL_IDS:], skip_special_tokens=False)
    goes_on = chat is not None and chat.continue_final_message
    continued = "".join(content_texts(chat.messages[-1])) if chat and goes_on else ""
    in_reasoning = form.opened_by(tail, continued=continued)
    if request.guide is not None and _freed(model, in_reasoning=in_reasoning) is None:
        in_reasoning = False  # the output is the guide's form from its start
    return Reading(
        form,
        in_reasoning=in_reasoning,
        tools={} if chat is None else Schemas(chat),
        one_call=not (choice.parallel or choice.holds),
    )


def hold(model: Model, request: GenerationRequest, read: Reading | None) -> GenerationRequest:
    """Returns the request with the form that its output is held to, after the model's reasoning.

    Raises:
        InvalidRequestError: the output can't be held to calls.
    """
    choice, guide = request.tool_choice, request.guide
    if not choice.holds:
        if guide is None or read is None:
            return request
        freed = _freed(model, in_reasoning=read.in_reasoning)
        return replace(request, guide=replace(guide, free_prefix=freed))
    prefix = None
    if read is not None:
        prefix = model.formats.free_prefix(in_reasoning=read.in_reasoning)
    needed = {Ability.GUIDED_JSON_SCHEMA} | ({Ability.FREE_PREFIX} if prefix else set())
    if not needed <= model.limits.abilities:
        fault = "is not supported by every worker of this model"
        raise InvalidRequestError([FieldViolation("prompt.chat.tool_choice", fault)])
    assert isinstance(request.prompt, ChatPrompt)  # noqa: S101 - chats alone have tools
    return replace(request, guide=held_form(request.prompt, choice, prefix))


def _freed(model: Model, *, in_reasoning: bool) -> FreePrefix | None:
    """Returns what goes before a caller's guide; None where that holds the whole output."""
    if Ability.FREE_PREFIX not in model.limits.abilities:
        return None
    return model.formats.free_prefix(in_reasoning=in_reasoning)


def call_ids(request_id: str, sequence: int) -> Callable[[int], str]:
    """Returns what makes a sequence's call ids: the same for the same request id."""

    def call_id(index: int) -> str:
        digest = hashlib.sha256(f"{request_id}/{sequence}/{index}".encode()).digest()
        return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:CALL_ID_CHARACTERS])

    return call_id
