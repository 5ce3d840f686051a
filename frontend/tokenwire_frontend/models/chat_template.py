"""A model's chat template, rendered as Hugging Face transformers renders it: sandboxed Jinja.

It runs in the processes of TokenizerPool, which end one that no budget can stop.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Generic, NoReturn, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from tokenwire_frontend.models.sandbox import Budget, BudgetEnvironment, BudgetError
from tokenwire_frontend.models.template_sizes import TooLargeError

DEFAULT, TOOL_USE = "default", "tool_use"
"""Names of templates: the second is for chats with tools, where there is one."""

_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
"""Stands behind the text that is to be continued while it is rendered, as in transformers: `upper`
leaves it as it is, and its space tells whether a template trims."""

REASON_CHARS_LIMIT = 500
"""Of a template's own message, which may quote the chat."""


class ChatTemplateError(ValueError):
    """The template can't be compiled, or refused a chat."""


class _GenerationBlock(Extension):
    """Writes the content of `{% generation %}` blocks, which mark text for training.

    Its body is that of a call block, so that what it sets stays inside.
    """

    tags = {"generation"}  # noqa: RUF012 - jinja2's own class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        """Parses one block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> str:
        return caller()


class ChatTemplate:
    """One compiled template.

    Args:
        source: the Jinja source.
        special_tokens: `bos_token` and the like, which templates use.

    Raises:
        ChatTemplateError: the source is not a valid template.
    """

    environment: type[BudgetEnvironment] = BudgetEnvironment
    """What it is rendered in."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._environment = self.environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        self._environment.globals["raise_exception"] = self._raise_exception
        self._environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = self._environment.from_string(source)
        except Exception as error:
            raise ChatTemplateError(f"is not a Jinja template: {_reason(error)}") from error
        self._special_tokens = special_tokens
        self._reads_content = "content" in source
        # transformers has `reasoning_content` under `thinking` too, and not under `reasoning`. Who
        # reads one of these may read the third as well; who reads the third alone gets none.
        self._reads_reasoning = re.search(r"\b(thinking|reasoning_content)\b", source) is not None

    def render(
        self, variables: dict[str, Any], budget: Budget, *, continues_final: bool = False
    ) -> str:
        """Returns a chat as text.

        Args:
            variables: the chat's, see core.chat_variables.
            budget: what rendering it may use.
            continues_final: leaves the last message open.

        Raises:
            ChatTemplateError: the template refused the chat or failed on it, or does not write the
                last message where that is to be continued.
            BudgetError: the template needs more than the budget.
        """
        final = ""
        if self._reads_reasoning:
            variables = {**variables, "messages": [*map(_with_reasoning, variables["messages"])]}
        if continues_final:
            *others, last = variables["messages"]
            if not self._reads_content:
                raise ChatTemplateError("it does not read `content`, so none can be continued")
            final, last = _marked(last)
            variables = {**variables, "messages": [*others, last]}
        try:
            text = self._write({**self._special_tokens, **variables}, budget)
            text.encode()  # a template may write half of a surrogate pair
        except BudgetError:
            raise
        except Exception as error:  # whatever a template does is its own failure
            raise ChatTemplateError(_reason(error)) from error
        return _cut_at_mark(text, final) if continues_final else text

    def _write(self, variables: dict[str, Any], budget: Budget) -> str:
        self._environment.begin(budget)
        room = budget.output_chars
        pieces = []
        for piece in self._template.root_render_func(self._template.new_context(variables)):
            room -= len(piece)
            if room < 0:
                raise TooLargeError(f"writes more than {budget.output_chars} characters")
            pieces.append(piece)
        return "".join(pieces)

    def _raise_exception(self, message: Any) -> NoReturn:
        raise jinja2.TemplateError(str(self._environment.weighed(message)))


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    if "reasoning_content" not in message:
        return message
    return {"reasoning": message["reasoning_content"], **message}


_TemplateT = TypeVar("_TemplateT", bound=ChatTemplate)


class ChatTemplates(Generic[_TemplateT]):
    """A model's templates by name, of which a chat takes `tool_use` or `default`.

    Args:
        kind: of the templates.
        sources: Jinja sources by name.
        special_tokens: as ChatTemplate.

    Raises:
        ChatTemplateError: a source is not a valid template.
    """

    def __init__(
        self,
        kind: type[_TemplateT],
        sources: Mapping[str, str],
        special_tokens: Mapping[str, str],
    ) -> None:
        self._templates = {
            name: kind(sources[name], special_tokens)
            for name in (DEFAULT, TOOL_USE)
            if name in sources
        }

    def __bool__(self) -> bool:
        return bool(self._templates)

    def choose(self, variables: Mapping[str, Any]) -> _TemplateT:
        """Returns the template for a chat of these variables.

        Raises:
            ChatTemplateError: there is none.
        """
        name = TOOL_USE if variables["tools"] and TOOL_USE in self._templates else DEFAULT
        if name not in self._templates:
            raise ChatTemplateError(f"there is none named `{DEFAULT}`")
        return self._templates[name]


def _reason(error: Exception) -> str:
    """Returns an exception of Jinja or Python as text for people."""
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    message = str(error)
    if not isinstance(error, jinja2.TemplateError):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return message if len(message) <= REASON_CHARS_LIMIT else f"{message[:REASON_CHARS_LIMIT]}..."


def _marked(message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the text of a message that goes on, and the message with the mark behind its text."""
    content = message.get("content")
    if isinstance(content, str):
        return content, {**message, "content": content + _MARK}
    parts = content if isinstance(content, list) else []
    for index, part in reversed(list(enumerate(parts))):
        if "text" in part:
            marked = {**part, "text": part["text"] + _MARK}
            marked_parts = [*parts[:index], marked, *parts[index + 1 :]]
            return part["text"], {**message, "content": marked_parts}
    raise ChatTemplateError("the final message has no text to continue")


def _cut_at_mark(text: str, final: str) -> str:
    """Drops what the template writes after the last message, so that the model goes on with it.

    White space before the mark stays, unless the template has cut what follows the text.
    """
    at = text.rfind(_MARK.rstrip())
    if at < 0 or final.strip() not in text:
        raise ChatTemplateError(
            "the final message does not appear as it is, so it can't be continued"
        )
    return text[:at] if text.startswith(_MARK, at) else text[:at].rstrip()


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - local time, whose `%Z` is empty
