"""Which formats a model has: by its files, or by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from tokenwire_frontend.core.parsers.formats import (
    REASONING_FORMATS,
    TOOL_FORMATS,
    Harmony,
    ReasoningFormat,
    ToolFormat,
)
from tokenwire_frontend.core.parsers.response_schema import (
    literals_in,
    reasoning_format_in,
    tool_format_in,
)

BY_SCHEMA = "response_schema"
"""The name of formats that a model's own tokenizer_config.json describes."""

T = TypeVar("T")

AUTO, OFF = "auto", "off"

_HARMONY = ("<|channel|>", "<|message|>", "analysis")

# The first of which all parts are there counts: where one format's markers have another's in them,
# or beside them, it comes before.
_TOOL_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("harmony", _HARMONY),
    ("deepseek_v32", ("\uff5cDSML\uff5c",)),
    ("deepseek_v3", ("tool\u2581call\u2581begin", "```json")),
    ("deepseek_v31", ("tool\u2581call\u2581begin",)),
    ("kimi_k2", ("<|tool_call_argument_begin|>",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("cohere", ("<|START_ACTION|>",)),
    ("minimax_m2", ("<minimax:tool_call>",)),
    ("lfm2", ("<|tool_call_start|>",)),
    ("glm45", ("<tool_call>", "<arg_key>")),
    ("qwen3_coder", ("<tool_call>", "<function=")),
    ("hermes", ("<tool_call>",)),
    ("olmo3", ("<function_calls>",)),
    ("hunyuan", ("<tool_calls>[",)),
    ("nemotron", ("<TOOLCALL>",)),
    ("granite_20b", ("<function_call>",)),
    ("gigachat", ("<|function_call|>",)),
    ("pythonic", ("[func_name1(",)),
    ("llama3_json", ('"parameters": ', '{"name": "\' + tool_call.name')),
    ("llama3_json", ("<|python_tag|>",)),
    ("json", ('{"name": "\' + ', '"arguments": ', "tool_calls")),
)

_REASONING_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("harmony", _HARMONY),
    ("mistral", ("[THINK]",)),
    ("cohere", ("<|START_THINKING|>",)),
    ("gemma4", ("<|channel>thought",)),
    ("seed", ("<seed:think>",)),
    ("think", ("</think>",)),
)

_BY_MODEL_TYPE = {
    "gpt_oss": ("harmony", "harmony"),
    "deepseek_v32": ("deepseek_v32", "think"),
}
"""Models that are published without a chat template, or with another's."""


def choose(
    template: str | None,
    special_tokens: Collection[str],
    tokenizer_config: Mapping[str, Any],
    model_type: str | None = None,
) -> tuple[str | None, str | None]:
    """Returns the names of a model's tool format and of its reasoning format, or None for each.

    A model that is given tools by its chat template is taken to answer in the form in which the
    template writes earlier calls.

    Args:
        template: the chat template; that for tools where there are several.
        special_tokens: texts of the tokens added to the vocabulary, special ones and others.
        tokenizer_config: tokenizer_config.json.
        model_type: of config.json.
    """
    by_type = _BY_MODEL_TYPE.get(model_type or "", (None, None))
    texts = "\n".join([template or "", *literals_in(tokenizer_config)])
    tools, reasoning = by_type[0] or _first(_TOOL_SIGNS, texts), by_type[1]
    # A model that has the tokens may reason, whatever the template says of it.
    reasoning = reasoning or _first(_REASONING_SIGNS, "\n".join([texts, *special_tokens]))
    if tools is None and tool_format_in(tokenizer_config) is not None:
        tools = BY_SCHEMA
    if reasoning is None and reasoning_format_in(tokenizer_config) is not None:
        reasoning = BY_SCHEMA
    return tools, reasoning


def tool_format(
    setting: str, chosen: str | None, tokenizer_config: Mapping[str, Any]
) -> ToolFormat | Harmony | None:
    """Returns the format that `--tool-parser` asks for; None for no parser.

    Args:
        setting: a name, `auto` or `off`.
        chosen: what `choose` returned.
        tokenizer_config: tokenizer_config.json.

    Raises:
        ValueError: the name is unknown, or the model's files describe no such format.
    """
    name = _named(setting, chosen)
    return _known(name, TOOL_FORMATS, lambda: tool_format_in(tokenizer_config))


def reasoning_format(
    setting: str, chosen: str | None, tokenizer_config: Mapping[str, Any]
) -> ReasoningFormat | Harmony | None:
    """Returns the format that `--reasoning-parser` asks for; as tool_format."""
    name = _named(setting, chosen)
    return _known(name, REASONING_FORMATS, lambda: reasoning_format_in(tokenizer_config))


def _first(signs: tuple[tuple[str, tuple[str, ...]], ...], texts: str) -> str | None:
    found = (name for name, parts in signs if all(part in texts for part in parts))
    return next(found, None)


def _named(setting: str, chosen: str | None) -> str | None:
    return {AUTO: chosen, OFF: None}.get(setting, setting)


def _known(
    name: str | None, formats: Mapping[str, T], described: Callable[[], T | None]
) -> T | None:
    if name is None:
        return None
    if name == BY_SCHEMA:
        found = described()
        if found is None:
            raise ValueError("the model's response_schema describes nothing that can be streamed")
        return found
    if name not in formats:
        names = ", ".join([*sorted(formats), BY_SCHEMA, AUTO, OFF])
        raise ValueError(f"{name!r} is not supported; names are {names}")
    return formats[name]


def tool_names() -> list[str]:
    """Returns what `--tool-parser` takes."""
    return [*sorted(TOOL_FORMATS), BY_SCHEMA, AUTO, OFF]


def reasoning_names() -> list[str]:
    """Returns what `--reasoning-parser` takes."""
    return [*sorted(REASONING_FORMATS), BY_SCHEMA, AUTO, OFF]
