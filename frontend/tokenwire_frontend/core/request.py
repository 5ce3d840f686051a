"""A generation as the frontend understands it: the contract's messages as plain values.

`None` means that the caller left the field unset, and the model's default applies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from tokenwire_frontend.core.model import Ability


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text to continue."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids to continue."""

    token_ids: Sequence[int]
    """As they came: many of them are read in slices, by models.token_ids."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, in the form that chat templates take.

    JSON is text still: core.chat_variables reads it.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    documents: list[dict[str, Any]]
    add_generation_prompt: bool
    continue_final_message: bool
    template_arguments: str
    escape_control_tokens: bool = False
    """Whether control tokens' text in what the caller wrote is ordinary text."""
    held: int = 0
    """Messages at the beginning that are not the request's own: its conversation's."""


def content_texts(message: Mapping[str, Any]) -> list[str]:
    """Returns the texts of a message's content, which may be absent, none, a text or parts."""
    content = message.get("content")
    if isinstance(content, list):
        return [part["text"] for part in content]
    return [] if content is None else [content]


Prompt: TypeAlias = "TextPrompt | TokenPrompt | ChatPrompt"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Ids, each with what is added to its logit."""
    banned_words: tuple[str, ...] = ()
    """Texts that are never generated."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a sequence ends."""

    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_in_output: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """What comes back beside the text."""

    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: int | None = None
    """Alternatives to each token of the prompt; None: no log probabilities of it at all."""
    echo: bool = False
    prompt_alone: bool = False
    """Whether only the prompt is told of: of what is generated nothing is given out or counted."""
    skip_special_tokens: bool = True
    parse: bool = False
    """Whether reasoning and tool calls are told from the text."""
    stop_in_reasoning: bool = False


@dataclass(frozen=True, slots=True)
class FreePrefix:
    """A part of the output before the form that it is held to."""

    begin: str
    """An output that begins otherwise is held from its start; empty: every output begins free."""
    end: str
    """Text whose first appearance ends it."""


@dataclass(frozen=True, slots=True)
class Guide:
    """A form that the output is held to."""

    form: Ability
    text: str = ""
    options: tuple[str, ...] = ()
    free_prefix: FreePrefix | None = None


class ToolMode(Enum):
    """Whether the model calls tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model calls tools, and which."""

    mode: ToolMode = ToolMode.AUTO
    name: str = ""
    """With NAMED: the tool."""
    parallel: bool = True
    """Whether one answer may hold several calls."""
    strict: frozenset[int] = frozenset()
    """Places of the tools to whose parameters held arguments are held."""

    @property
    def holds(self) -> bool:
        """Whether the output is held to calls."""
        return self.mode in (ToolMode.REQUIRED, ToolMode.NAMED)


@dataclass(frozen=True, slots=True)
class ConversationTurn:
    """Which conversation the prompt's messages are the next turn of."""

    id: str
    messages: int
    """Messages of it that the frontend holds, as the caller counts; 0: it begins anew."""


@dataclass(frozen=True, slots=True)
class SoFar:
    """What exists of one sequence already."""

    token_ids: Sequence[int]
    """As they came: many of them are read in slices, by models.token_ids."""
    ended: bool
    """Nothing more is wanted of it."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation. Fields mirror frontend.v1.Generation."""

    prompt: Prompt | None
    """None where the caller gave none, which validation refuses."""
    model: str = ""
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int = 0
    """Tokens that are kept of a prompt that has more, its last ones; 0: all."""
    sampling: Sampling = Sampling()
    stopping: Stopping = Stopping()
    output: Output = Output()
    guide: Guide | None = None
    tool_choice: ToolChoice = ToolChoice()
    """Of a chat."""
    sequence_count: int = 1
    lora_adapter: str = ""
    cache_salt: str = ""
    priority: int = 0
    request_id: str = ""
    time_budget_s: float | None = None
    conversation: ConversationTurn | None = None
    output_so_far: tuple[SoFar, ...] = ()
    """By sequence; empty: nothing exists."""
