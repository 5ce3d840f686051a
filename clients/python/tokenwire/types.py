"""What the client returns, and the messages of a chat. Times are in seconds, token ids are ints.

| from                                   | comes                                            |
|----------------------------------------|--------------------------------------------------|
| `generate`, `result` of a stream       | Answer > SequenceResult > ToolCall,              |
|                                        | Usage, Timings > Stage, Attempt                  |
| `message` of an answer or a stream     | ChatMessage > ToolCall                           |
| iteration of a stream                  | Delta > ToolCallDelta,                           |
|                                        | TokenLogprob > Alternative                       |
| `accepted` of a stream                 | Accepted > ConversationPrompt                    |
| `tokenize`, `render_chat`              | Tokens, RenderedChat                             |
| `models`, `model`, `workers`           | ModelInfo, WorkerInfo                            |
| iteration of `activity`                | Activity > WorkerInfo, Quantiles, Record         |
| `record`                               | Record > Outcome, Usage, Timings > Stage         |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class FinishReason(StrEnum):
    """Why a sequence ended. Compares equal to its text: `answer.finish_reason == "stop"`."""

    STOP = "stop"
    """An end-of-sequence token, a stop token, a stop string, or the end of a guided output."""
    LENGTH = "length"
    """`max_tokens`, or the end of the model's context."""
    TIME_BUDGET = "time_budget"
    """The time budget was spent."""
    CANCELLED = "cancelled"
    """The caller cancelled."""
    TOOL_CALLS = "tool_calls"
    """As STOP, of a sequence that has called tools, whose results the caller is to send."""
    INTERRUPTED = "interrupted"
    """The worker was lost, and no other could continue exactly what was sent; what came holds."""
    UNKNOWN = "unknown"
    """A reason that this version of the client does not know."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool by the model."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    """A JSON object, as text or as a dict. In an answer it is the model's text, which is cut short
    where the sequence was."""
    id: str = ""
    """By which the tool's result refers to the call."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation; a dict with the same keys does as well."""

    role: str
    """`system`, `user`, `assistant`, `tool`, `developer` or `function`."""
    content: str | Sequence[Mapping[str, Any]] | None = None
    """A text, or parts such as {"type": "text", "text": "..."}. None: the template sees none, as
    where a turn has calls alone."""
    name: str = ""
    """The speaker's name, where the template uses it."""
    tool_calls: Sequence[ToolCall | Mapping[str, Any]] = ()
    """Calls that the assistant made in this turn."""
    tool_call_id: str = ""
    """With the role `tool`: the call that this message answers."""
    reasoning: str = ""
    """The assistant's reasoning in this turn, where the template uses it."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have stood in another's place."""

    token_id: int
    logprob: float
    """Its natural-log probability."""
    token: bytes = b""
    """Its bytes, which need not be UTF-8."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log probability of one token, generated or of the prompt."""

    token_id: int
    logprob: float
    """Its natural-log probability."""
    alternatives: list[Alternative]
    """Likeliest first, where asked for; the token itself may be among them."""
    token: bytes = b""
    """Its bytes: a part of a character need not be UTF-8. Those of a sequence's tokens, one after
    the other, are its text with special tokens."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """What is new of one tool call; never cumulative."""

    index: int
    """Which call of the sequence, from 0."""
    id: str
    """The call's id; in its first delta only."""
    name: str
    """The tool's name; in the call's first delta only."""
    arguments: str
    """The next piece of the arguments' JSON text."""


@dataclass(slots=True)
class Delta:
    """What is new of one sequence; never cumulative.

    Not frozen, unlike the other types: one is made for each event, and freezing would cost three
    times as much as making it.
    """

    text: str
    """New text. May lag behind the ids: it is held back while it could be part of a stop string."""
    token_ids: list[int]
    """New token ids."""
    sequence: int
    """Which sequence, from 0."""
    token_offset: int
    """Tokens of the sequence that came before."""
    logprobs: list[TokenLogprob]
    """One for each id, where asked for."""
    finish_reason: FinishReason | None
    """Set in the sequence's last delta."""
    stop_match: str | int | None
    """The stop string or stop token id that ended the sequence, if one did."""
    text_offset: int = 0
    """UTF-8 bytes of the sequence's text that came before. `echo`'s prompt is not counted."""
    reasoning: str = ""
    """New reasoning, where it is told from the text."""
    tool_calls: Sequence[ToolCallDelta] = ()
    """What is new of the sequence's tool calls, likewise."""


@dataclass(frozen=True, slots=True)
class ConversationPrompt:
    """How the prompt of a conversation's turn was made."""

    messages: int
    """Messages that the frontend held."""
    kept_tokens: int
    """Token ids that it held, and kept as they were."""
    encoded_tokens: int
    """Token ids after them, of text that was encoded for this turn."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request was valid and a worker took it."""

    request_id: str
    prompt_tokens: int
    trace_id: str
    """32 lower-case hex digits."""
    resume_token: str = ""
    """Names the generation to `attach` and `cancel_generation`; with `on_disconnect="detach"`."""
    detach_ttl_s: float | None = None
    """How long the generation is kept without a caller; with the token."""
    attached: bool = False
    """The idempotency key was in use: this is the generation that runs or is kept under it."""
    conversation: ConversationPrompt | None = None
    """How the prompt was made, where the request names a conversation."""


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """One generated sequence, whole."""

    text: str
    """The generated text; with `echo`, after the prompt's."""
    token_ids: list[int]
    """The generated ids, a stop token included."""
    logprobs: list[TokenLogprob]
    """One for each id, where asked for."""
    finish_reason: FinishReason
    stop_match: str | int | None = None
    """The stop string or stop token id that ended the sequence, if one did."""
    reasoning: str = ""
    """The model's reasoning, where it is told from the text."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    """The model's tool calls, likewise; their arguments are JSON text."""

    def message(self) -> ChatMessage:
        """Returns the sequence as the assistant's turn, to go on with the conversation."""
        # A turn of calls alone has no content, which templates tell from an empty one.
        content = None if self.tool_calls and not self.text else self.text
        calls = tuple(self.tool_calls)
        return ChatMessage("assistant", content, tool_calls=calls, reasoning=self.reasoning)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int
    """Of all sequences together."""
    cached_prompt_tokens: int | None = None
    """Prompt tokens whose KV cache was reused; None where the engine does not tell."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a request."""

    service: str
    """`frontend` or `worker`."""
    name: str
    """Such as `tokenize`, `route`, `queue`, `prefill`, `decode`."""
    start_s: float
    """From the frontend's receipt of the request."""
    duration_s: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, as the frontend saw it. Empty where the caller cut the stream short."""

    time_to_first_token_s: float | None = None
    """From receipt to the first token; None where none came."""
    time_per_output_token_s: float | None = None
    """Mean time between tokens after the first; None below two tokens."""
    total_s: float | None = None
    """From receipt to the last event."""
    stages: list[Stage] = field(default_factory=list)
    """The stages of both hops, by start."""
    worker: str = ""
    """Name of the worker that served the request."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker's part in a generation."""

    worker: str
    """Its name."""
    sequence: int
    """Which sequence; 0 where it had all."""
    token_offset: int
    """Ids that the sequence had when the part began."""
    mode: str
    """How it began: `new` with the prompt, `carried` with the ids so far too, `replayed` with the
    prompt, where what it generated was compared with the ids so far, `prefill` with the prompt
    alone, for the next, and `fetched` with the prompt that the one before has computed."""
    left_because: str
    """Why it had no part in what followed, such as `WORKER_LOST`; empty: the sequence ended."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole generation. `text` and its fellows are those of the first sequence."""

    request_id: str
    trace_id: str
    """32 lower-case hex digits."""
    sequences: list[SequenceResult]
    """By index; as many as `n` asked for."""
    usage: Usage
    timings: Timings
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    """One for each token of the prompt, where asked for; the first has no probability, and 0."""
    conversation: ConversationPrompt | None = None
    """Where the request names a conversation."""
    continued: int = 0
    """Times that the client continued it on another connection, most often at another frontend.
    `timings` and `attempts` are then those of the last frontend."""
    attempts: list[Attempt] = field(default_factory=list)
    """The workers that had a part in it, in order. Empty: `timings.worker` did all of it."""

    @property
    def text(self) -> str:
        """The generated text."""
        return self.sequences[0].text

    @property
    def token_ids(self) -> list[int]:
        """The generated token ids."""
        return self.sequences[0].token_ids

    @property
    def reasoning(self) -> str:
        """The model's reasoning, where it is told from the text."""
        return self.sequences[0].reasoning

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The model's tool calls, likewise; their arguments are JSON text."""
        return self.sequences[0].tool_calls

    @property
    def logprobs(self) -> list[TokenLogprob]:
        """One for each id, where asked for."""
        return self.sequences[0].logprobs

    @property
    def finish_reason(self) -> FinishReason:
        """Why the sequence ended."""
        return self.sequences[0].finish_reason

    def message(self) -> ChatMessage:
        """Returns the answer as the assistant's turn: `chat.append(answer.message())`."""
        return self.sequences[0].message()


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's token ids."""

    token_ids: list[int]
    offsets: list[tuple[int, int]] | None = None
    """Each token's place in the text, first character and one past the last, where asked for."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A chat as the model sees it."""

    text: str
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model and what it can do here."""

    name: str
    context_tokens: int
    """Most tokens of prompt and output together."""
    prompt_tokens_limit: int
    """Most tokens of a prompt that the deployment takes."""
    sequence_count_limit: int
    """Most sequences of one request, the bound of `n`."""
    vocabulary_size: int
    """Token ids run from 0 to this less one."""
    eos_token_ids: list[int]
    tokenizer_fingerprint: str
    """SHA-256 of the model's tokenizer.json, 64 lower-case hex digits."""
    has_chat_template: bool
    capabilities: list[str]
    """What requests may ask for, such as `logprobs`, `guided_json_schema`, `lora`."""
    lora_adapters: list[str]
    """Names that `lora_adapter` may take."""
    ready_worker_count: int
    tool_parser: str = ""
    """Format in which tool calls are read; empty: they are not."""
    reasoning_parser: str = ""
    """Format in which reasoning is read; empty: it is not."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker, as the frontend sees it."""

    address: str
    name: str
    state: str
    """`connecting`, `ready`, `suspect`, `draining`, `refused` or `lost`."""
    state_reason: str
    """Why, where the state is not `ready`."""
    model: str
    engine: str
    """Engine and its version."""
    running: int
    """Sequences in the engine, from all frontends."""
    waiting: int
    """Requests that wait for the engine, from all frontends."""
    in_flight: int
    """Requests of this frontend that the worker holds."""
    kv_cache_usage: float
    """Share of the KV cache in use, 0 to 1."""
    phases: str = "any"
    """What it is for: `any`, generations whole; `prefill`, long prompts, for others to go on with;
    `decode`, what comes after them."""


class Outcome(StrEnum):
    """How a generation ended. Compares equal to its text: `record.outcome == "completed"`."""

    COMPLETED = "completed"
    """Every sequence ran to its end, or to that of its time budget."""
    CANCELLED = "cancelled"
    """The caller cancelled it, went away, or let its deadline pass."""
    REFUSED = "refused"
    """It was refused before a worker took it."""
    FAILED = "failed"
    """It failed after a worker had taken it."""
    UNKNOWN = "unknown"
    """An outcome that this version of the client does not know."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Record:
    """A generation that has ended, as the frontend remembers it: no prompt and no text."""

    request_id: str
    trace_id: str
    """32 lower-case hex digits."""
    received_at: datetime
    """When the frontend received it; UTC."""
    model: str
    """The model that was asked for."""
    outcome: Outcome
    reason: str
    """Why: finish reasons (`stop`), the cause of a cancel (`client_gone`), or the reason of a
    refusal or failure (`QUEUE_FULL`)."""
    route_reason: str
    """Why its worker was chosen; empty where it came to none."""
    usage: Usage
    timings: Timings
    """Where the time went, as far as it came."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution of times, by nearest rank; None where `count` is 0."""

    count: int
    """Values."""
    p50_s: float | None = None
    """Half of the values are at most this."""
    p90_s: float | None = None
    """90 % of the values are at most this."""
    p99_s: float | None = None
    """99 % of the values are at most this."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What a frontend is doing and has just done. Counts run from its start."""

    workers: list[WorkerInfo]
    """By address."""
    active_generations: int
    """Generations in the frontend now."""
    generations_limit: int
    """Generations that the frontend holds at most."""
    queued_generations: int
    """Generations, of the active ones, that wait for a worker with room."""
    prompt_tokens: int
    """Prompt tokens of accepted generations."""
    completion_tokens: int
    """Tokens generated."""
    outcomes: dict[Outcome, int]
    """Generations that ended, by outcome."""
    window_s: float
    """Over which time before now the quantiles are."""
    time_to_first_token: Quantiles
    """Of the generations that ended in the window: from receipt to the first token."""
    time_per_output_token: Quantiles
    """Likewise: each generation's mean time between tokens after the first."""
    total: Quantiles
    """Likewise: from receipt to the last event."""
    records: list[Record]
    """The generations that ended last, newest first."""
    uptime_s: float
    """Since the frontend's start."""
