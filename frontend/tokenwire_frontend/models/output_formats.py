"""In which formats a model's output is read: reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenwire_frontend.core.parsers.choice import (
    AUTO,
    OFF,
    reasoning_format,
    tool_format,
)
from tokenwire_frontend.core.parsers.formats import (
    TOOL_FORMATS,
    Harmony,
    ReasoningFormat,
    ToolFormat,
)
from tokenwire_frontend.core.parsers.parser import OutputFormat
from tokenwire_frontend.core.request import FreePrefix
from tokenwire_frontend.models.files import ModelFilesError


@dataclass(frozen=True, slots=True)
class ParserNames:
    """What the frontend's settings say of parsers: names, `auto` or `off`."""

    tools: str = AUTO
    reasoning: str = AUTO


class OutputFormats:
    """A model's formats, prepared for all its requests.

    Args:
        names: the settings.
        chosen: names of the formats that the model's files speak for, or None for each.
        tokenizer_config: tokenizer_config.json, as far as it describes formats.
        special_tokens: texts of special tokens, by id.

    Raises:
        ModelFilesError: the model has no format that the settings name.
    """

    def __init__(
        self,
        names: ParserNames,
        chosen: tuple[str | None, str | None],
        tokenizer_config: Mapping[str, Any],
        special_tokens: Mapping[int, str],
    ) -> None:
        try:
            tools = tool_format(names.tools, chosen[0], tokenizer_config)
            reasoning = reasoning_format(names.reasoning, chosen[1], tokenizer_config)
        except ValueError as error:
            raise ModelFilesError(str(error)) from error
        self.tool_parser = _name(names.tools, chosen[0])
        """Name of the format of tool calls; empty: they are not read."""
        self.reasoning_parser = _name(names.reasoning, chosen[1])
        """Likewise of reasoning."""
        self._special_tokens = special_tokens
        self._reasoning = reasoning
        self._plain = None if reasoning is None else self._format(None, reasoning)
        self._held = self._format(TOOL_FORMATS["json"], self._before_form)
        self._with_tools = self._plain if tools is None else self._format(tools, reasoning)

    def free(self, *, tools: bool) -> OutputFormat | None:
        """Returns how an output is read that is not held to calls; None: as text."""
        return self._with_tools if tools else self._plain

    def held(self) -> OutputFormat:
        """Returns how an output is read that is held to calls."""
        return self._held

    def free_prefix(self, *, in_reasoning: bool) -> FreePrefix | None:
        """Returns what goes before a form that an output is held to.

        Args:
            in_reasoning: whether the prompt ends within reasoning.
        """
        reasoning = self._before_form
        if reasoning is None:
            return None
        return FreePrefix("" if in_reasoning else reasoning.opens, reasoning.closes)

    @property
    def _before_form(self) -> ReasoningFormat | None:
        """Reasoning that can go before a form: compilers of guides know no special tokens."""
        reasoning = self._reasoning
        if not isinstance(reasoning, ReasoningFormat):
            return None
        special = self._special_tokens.values()
        return None if {reasoning.opens, reasoning.closes} & set(special) else reasoning

    def _format(
        self, tools: ToolFormat | Harmony | None, reasoning: ReasoningFormat | Harmony | None
    ) -> OutputFormat:
        return OutputFormat(tools, reasoning, self._special_tokens)


def _name(setting: str, chosen: str | None) -> str:
    return {AUTO: chosen or "", OFF: ""}.get(setting, setting)
