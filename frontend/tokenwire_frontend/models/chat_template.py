"""A model's chat template, rendered as Hugging Face transformers renders it: sandboxed Jinja.

It runs in the processes of TokenizerPool, which end one that no budget can stop.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from tokenwire_frontend.models.sandbox import Budget, BudgetEnvironment, BudgetError, TooLargeError

REASON_CHARS_LIMIT = 500
"""Of a template's own message, which may quote the chat."""


class ChatTemplateError(ValueError):
    """The template can't be compiled, or refused a chat."""


class _GenerationBlock(Extension):
    """Reads `{% generation %}` blocks as their content; they mark text for training."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own class attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Parses one block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One compiled template.

    Args:
        source: the Jinja source.
        special_tokens: `bos_token` and the like, from tokenizer_config.json, which templates use.

    Raises:
        ChatTemplateError: the source is not a valid template.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self._environment = BudgetEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        self._environment.globals["raise_exception"] = _raise_exception
        self._environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = self._environment.from_string(source)
        except Exception as error:
            raise ChatTemplateError(f"is no Jinja template: {_reason(error)}") from error
        self._special_tokens = special_tokens

    def render(self, variables: dict[str, Any], budget: Budget, *, final: str | None = None) -> str:
        """Returns a chat as text.

        Args:
            variables: the chat's, see core.chat_variables.
            budget: what rendering it may use.
            final: content of the last message, where it is left open.

        Raises:
            ChatTemplateError: the template refused the chat or failed on it.
            BudgetError: the template needs more than the budget.
        """
        try:
            text = self._write({**self._special_tokens, **variables}, budget)
        except BudgetError:
            raise
        except Exception as error:  # whatever a template does is its own failure
            raise ChatTemplateError(_reason(error)) from error
        return text if final is None else _cut_after(text, final.strip())

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


def _reason(error: Exception) -> str:
    """Returns an exception of Jinja or Python as text for people."""
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    message = str(error)
    if not isinstance(error, jinja2.TemplateError):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return message if len(message) <= REASON_CHARS_LIMIT else f"{message[:REASON_CHARS_LIMIT]}..."


def _cut_after(text: str, final: str) -> str:
    """Drops what the template puts after the last message, so that the model goes on with it."""
    end = text.rfind(final)
    if not final or end < 0:
        raise ChatTemplateError(
            "the final message does not appear as it is, so it can't be continued"
        )
    return text[: end + len(final)]


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
