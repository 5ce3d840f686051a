"""Everything that a request may ask for beside its prompt.

These are the keyword arguments of `generate`, `stream` and `Session.open`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class ChatOptions(TypedDict, total=False):
    """How a chat becomes a prompt; for `render_chat`, and for requests with `chat=`."""

    tools: Sequence[Mapping[str, Any]]
    """Tools that the model may call: {"name", "description", "parameters": JSON Schema, "strict"};
    the form {"type": "function", "function": {...}} does as well. A schema is a dict, or JSON text,
    which reaches the chat template as it is written."""
    tool_choice: str | Mapping[str, Any]
    """Whether the model calls tools: `auto`, `none`, `required`, or one tool by its name:
    {"type": "function", "function": {"name": "..."}}. Default: `auto`."""
    parallel_tool_calls: bool
    """Whether one answer may hold several calls. Default: true."""
    escape_control_tokens: bool
    """Control tokens' text in what the caller wrote is ordinary text, so that it cannot open or end
    a turn."""
    documents: Sequence[Mapping[str, str] | str]
    """Documents to ground the answer in: {"title", "text"}, or a text alone."""
    add_generation_prompt: bool
    """Whether the template ends with the opening of the assistant's turn. Default: true, unless
    `continue_final_message` is set."""
    continue_final_message: bool
    """Leaves the last message open, so that the model goes on with it."""
    template_arguments: Mapping[str, Any] | str
    """Further variables for the template, by name (such as `enable_thinking`); a dict, or a JSON
    object as text."""


class GenerationOptions(ChatOptions, total=False):
    """How to generate. What is left out takes the model's own default.

    Something that the deployment cannot honour is refused by name with InvalidRequestError.
    """

    model: str
    """The model's name; may be left out where one model is served."""
    add_special_tokens: bool
    """Whether the tokenizer adds its special tokens. Default: true for a text, false for a chat."""
    truncate_prompt_tokens: int
    """Keeps only the last tokens of a prompt that has more than this many."""

    temperature: float
    """0 chooses the likeliest token every time (greedy); 0 to 100."""
    top_p: float
    """Samples among the likeliest tokens whose probabilities add up to this; above 0, at most 1."""
    top_k: int
    """Samples among this many likeliest tokens; 0 means all."""
    min_p: float
    """Drops tokens less likely than this share of the likeliest one's probability; 0 to 1."""
    repetition_penalty: float
    """Divides the logits of tokens already present; above 0, 1 is neutral."""
    presence_penalty: float
    """Subtracted once from the logits of tokens already generated; -2 to 2."""
    frequency_penalty: float
    """Subtracted from a token's logit for each time it was generated; -2 to 2."""
    seed: int
    """Makes sampling repeatable on the same engine."""
    logit_bias: Mapping[int, float]
    """Added to the logits of single tokens, by their ids: -100 to 100, for at most 300."""
    banned_words: str | Sequence[str]
    """Texts that are never generated, with or without a space before them; at most 64."""

    max_tokens: int
    """Most tokens to generate, per sequence. Default: what is left of the context."""
    min_tokens: int
    """Nothing ends a sequence before this many tokens."""
    stop: str | Sequence[str]
    """Texts that end a sequence where they first appear; at most 16."""
    stop_token_ids: Sequence[int]
    """Token ids that end a sequence, besides the model's own; at most 64."""
    ignore_eos: bool
    """Goes on past the model's end-of-sequence tokens."""
    include_stop_in_output: bool
    """Keeps the matched stop string in the text."""

    logprobs: bool
    """Returns the log probability of each generated token."""
    top_logprobs: int
    """Returns this many alternatives to each token, at most 20; brings `logprobs` with it."""
    prompt_logprobs: int
    """Returns the log probability of each token of the prompt, with this many alternatives, 0 to
    20."""
    echo: bool
    """Puts the prompt's text before the generated text."""
    skip_special_tokens: bool
    """Whether special tokens are left out of the text. Default: true."""
    parse: bool
    """Whether reasoning and tool calls are told from the text. Default: true for a chat, false for
    any other prompt."""
    stop_in_reasoning: bool
    """Whether `stop` ends a sequence within its reasoning too."""

    json_schema: Mapping[str, Any] | str
    """The output is an instance of this JSON Schema. At most one of this and the next four."""
    json_object: bool
    """The output is a JSON object."""
    regex: str
    """The whole output matches this regular expression."""
    grammar: str
    """The output follows this EBNF grammar with a rule named `root`."""
    choice: Sequence[str]
    """The output is one of these texts."""

    n: int
    """Sequences to generate for the prompt; 1 to 32."""
    lora_adapter: str
    """Name of the LoRA adapter to apply."""
    cache_salt: str
    """Cached prompt prefixes are reused only among equal salts; at most 256 characters."""
    conversation: Mapping[str, Any]
    """The conversation whose next turn `chat` is: {"id": its name, "messages": how many the
    frontend holds of it}; 0 messages begin it anew."""
    priority: int
    """Higher goes first among requests that wait; -100 to 100."""
    request_id: str
    """The caller's name for the request: at most 128 of A-Z a-z 0-9 . _ : -."""
    time_budget: float
    """Seconds after which what exists is returned, with FinishReason.TIME_BUDGET."""
    on_disconnect: str
    """What becomes of the generation when its call or session ends before it does: `cancel`, or
    `detach`: it goes on, and is kept for `attach`. Default: `cancel`."""
    detach_ttl: float
    """With `on_disconnect="detach"`: seconds that the generation is kept without a caller, running
    or ended. Default: 60."""
    idempotency_key: str
    """Makes a repeated request harmless within one frontend: while a generation of this key runs or
    is kept, the same request attaches to it, and another one is refused. At most 128 of the
    characters of `request_id`."""
