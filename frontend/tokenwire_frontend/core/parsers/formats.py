"""What each model family writes, by name. The markers stand here and nowhere else.

A tokenizer may have any of a format's markers as special tokens, and OutputFormat asks it which. As
the models are published, these are:

| format | special tokens | text, or tokens that are not special |
|---|---|---|
| hermes, qwen3_coder | | all: Qwen has `<tool_call>` as a token that is not special |
| mistral | `[TOOL_CALLS]`, `[ARGS]`, `[CALL_ID]`, `[THINK]`, `[/THINK]` | |
| llama3_json | `<|python_tag|>` | |
| pythonic, lfm2 | `<|python_start|>`, `<|tool_call_start|>` and what ends them | |
| deepseek_v3, deepseek_v31 | all, by the version of the tokenizer | |
| deepseek_v32 | the token DSML, which is a part of each marker | the rest of each |
| glm45 | | all: tokens that are not special |
| kimi_k2, cohere, harmony | all | |
| minimax_m2 | | all; the outer tag is a token that is not special |
| olmo3, hunyuan, nemotron, granite_20b, json | | all |
| gigachat | `<|function_call|>` | |
| think | | `<think>`, `</think>`: tokens that are special in few tokenizers |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tokenwire_frontend.core.parsers.calls import (
    Form,
    HeadedCalls,
    JsonCalls,
    ParameterCalls,
    PythonCalls,
)
from tokenwire_frontend.core.parsers.parameters import NO_STRING

_BAR, _SPACE = "\uff5c", "\u2581"
_BY_SCHEMA: frozenset[str] = frozenset()
_STRING = frozenset({"string"})


@dataclass(frozen=True)
class ToolFormat:
    """How a model writes tool calls."""

    form: Form
    sections: tuple[tuple[str, str], ...] = ()
    """Markers around one or more calls; the second may be absent in the output."""
    alone: bool = False
    """A call may also stand outside of a section."""
    bare: str = ""
    """Characters that begin a call without a marker: in the output's beginning, in that of a line
    or after a call. Such a call counts only where it has the name of one of the request's tools."""

    id_characters: int | None = None
    """Letters and digits that a call's id must have for the chat template to take it back."""

    def markers(self) -> Iterator[str]:
        """Returns every marker, of which a tokenizer may have some as special tokens."""
        for section in self.sections:
            yield from filter(None, section)
        yield from self.form.markers()


@dataclass(frozen=True)
class ReasoningFormat:
    """How a model marks its reasoning, which comes first or after a call."""

    opens: str
    closes: str


@dataclass(frozen=True)
class Harmony:
    """Messages on channels, of which `analysis` is reasoning and `final` is text.

    A message that is addressed to a function is a call.
    """


def _invocations(prefix: str, value: dict[str, frozenset[str]]) -> ParameterCalls:
    """Returns the form `<invoke name="..."><parameter name="...">...`, after a prefix."""
    return ParameterCalls(
        opens=f'<{prefix}invoke name="',
        named='">',
        parameter=f'<{prefix}parameter name="',
        value=value,
        value_ends=f"</{prefix}parameter>",
        closes=f"</{prefix}invoke>",
    )


_KEYS_AND_VALUES = ParameterCalls(
    opens="<tool_call>",
    named="",
    parameter="<arg_key>",
    value={"</arg_key>": _BY_SCHEMA},
    value_opens="<arg_value>",
    value_ends="</arg_value>",
    closes="</tool_call>",
)


def _deepseek(name: str) -> str:
    """Returns a special token of DeepSeek's, which has full-width bars, and U+2581 for spaces."""
    return f"<{_BAR}{name.replace(' ', _SPACE)}{_BAR}>"


_DEEPSEEK_SECTION = (_deepseek("tool calls begin"), _deepseek("tool calls end"))
_DEEPSEEK_CALL = (_deepseek("tool call begin"), _deepseek("tool sep"), _deepseek("tool call end"))
_DSML = f"{_BAR}DSML{_BAR}"

TOOL_FORMATS: dict[str, ToolFormat | Harmony] = {
    # <tool_call>{"name": ..., "arguments": {...}}</tool_call>
    "hermes": ToolFormat(JsonCalls(), (("<tool_call>", "</tool_call>"),)),
    # <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>
    "qwen3_coder": ToolFormat(
        ParameterCalls(
            opens="<function=",
            named=">",
            parameter="<parameter=",
            value={">": _BY_SCHEMA},
            value_ends="</parameter>",
            closes="</function>",
            trim=True,
        ),
        (("<tool_call>", "</tool_call>"),),
        alone=True,
    ),
    # [TOOL_CALLS][{"name": ..., "arguments": {...}}] or [TOOL_CALLS]NAME[ARGS]{...}
    "mistral": ToolFormat(
        HeadedCalls(
            opens="[TOOL_CALLS]",
            head={"": "name", "[CALL_ID]": "id", "[ARGS]": None},
            or_json=JsonCalls(id=("id",)),
        ),
        id_characters=9,
    ),
    # {"name": ..., "parameters": {...}}, also after <|python_tag|>
    "llama3_json": ToolFormat(JsonCalls(), (("<|python_tag|>", ""),), bare="{"),
    # [NAME(KEY=VALUE, ...), ...]
    "pythonic": ToolFormat(PythonCalls(), (("<|python_start|>", "<|python_end|>"),), bare="["),
    "lfm2": ToolFormat(PythonCalls(), (("<|tool_call_start|>", "<|tool_call_end|>"),)),
    "olmo3": ToolFormat(PythonCalls(), (("<function_calls>", "</function_calls>"),)),
    "deepseek_v3": ToolFormat(
        HeadedCalls(
            opens=_DEEPSEEK_CALL[0],
            head={"": "function", _DEEPSEEK_CALL[1]: "name", "\n": None},
            closes=_DEEPSEEK_CALL[2],
            fence=True,
        ),
        (_DEEPSEEK_SECTION,),
        alone=True,
    ),
    "deepseek_v31": ToolFormat(
        HeadedCalls(
            opens=_DEEPSEEK_CALL[0],
            head={"": "name", _DEEPSEEK_CALL[1]: None},
            closes=_DEEPSEEK_CALL[2],
        ),
        (_DEEPSEEK_SECTION,),
        alone=True,
    ),
    # <DSML:function_calls><DSML:invoke name="NAME"><DSML:parameter name="KEY" string="true">VALUE
    # with the token DSML between full-width bars and no colons
    "deepseek_v32": ToolFormat(
        _invocations(_DSML, {'" string="true">': _STRING, '" string="false">': NO_STRING}),
        (
            (f"<{_DSML}function_calls>", f"</{_DSML}function_calls>"),
            (f"<{_DSML}tool_calls>", f"</{_DSML}tool_calls>"),
        ),
    ),
    # <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>
    "glm45": ToolFormat(_KEYS_AND_VALUES),
    "harmony": Harmony(),
    "kimi_k2": ToolFormat(
        HeadedCalls(
            opens="<|tool_call_begin|>",
            head={"": "id", "<|tool_call_argument_begin|>": None},
            closes="<|tool_call_end|>",
            name_in_id=True,
        ),
        (("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),),
        alone=True,
    ),
    "minimax_m2": ToolFormat(
        _invocations("", {'">': _BY_SCHEMA}), (("<minimax:tool_call>", "</minimax:tool_call>"),)
    ),
    "cohere": ToolFormat(
        JsonCalls(name=("tool_name",), id=("tool_call_id",)),
        (("<|START_ACTION|>", "<|END_ACTION|>"),),
    ),
    "hunyuan": ToolFormat(JsonCalls(), (("<tool_calls>", "</tool_calls>"),)),
    "nemotron": ToolFormat(JsonCalls(), (("<TOOLCALL>", "</TOOLCALL>"),)),
    "granite_20b": ToolFormat(JsonCalls(), (("<function_call>", ""),)),
    "gigachat": ToolFormat(JsonCalls(), (("<|function_call|>", ""),)),
    # {"name": ..., "arguments": {...}}, one or several, or a list of them: the demo model's, and
    # what a guide for one or several calls holds an output to
    "json": ToolFormat(JsonCalls(), bare="{["),
}
"""By the name that `--tool-parser` takes."""


REASONING_FORMATS: dict[str, ReasoningFormat | Harmony] = {
    "think": ReasoningFormat("<think>", "</think>"),
    "mistral": ReasoningFormat("[THINK]", "[/THINK]"),
    "cohere": ReasoningFormat("<|START_THINKING|>", "<|END_THINKING|>"),
    "gemma4": ReasoningFormat("<|channel>thought\n", "<channel|>"),
    "seed": ReasoningFormat("<seed:think>", "</seed:think>"),
    "harmony": Harmony(),
}
"""By the name that `--reasoning-parser` takes."""
