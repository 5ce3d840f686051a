"""A model's chat template, rendered as Hugging Face transformers renders it: sandboxed Jinja."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tokenwire_frontend.core.request import ChatPrompt


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
        ChatTemplateError: the source is no template.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"is no Jinja template: {error}") from error
        self._special_tokens = special_tokens

    def render(self, chat: ChatPrompt) -> str:
        """Returns the chat as text.

        Raises:
            ChatTemplateError: the template refused the chat or failed on it.
        """
        final = chat.messages[-1]["content"] if chat.continue_final_message else None
        try:
            # One dict, since a caller's argument may have any name, even `self`.
            text = self._template.render(
                {
                    **self._special_tokens,
                    **chat.template_arguments,
                    "messages": chat.messages,
                    "tools": chat.tools or None,
                    "documents": chat.documents or None,
                    "add_generation_prompt": chat.add_generation_prompt,
                }
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            raise ChatTemplateError(str(error)) from error
        return text if final is None else _cut_after(text, final.strip())


def _cut_after(text: str, final: str) -> str:
    """Drops what the template puts after the last message, so that the model goes on with it."""
    end = text.rfind(final)
    if not final or end < 0:
        raise ChatTemplateError(
            "the final message does not appear as it is, so it can't be continued"
        )
    return text[: end + len(final)]


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes <, > and &, which a model would read literally.
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
