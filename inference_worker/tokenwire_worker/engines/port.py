"""The engine port: what the worker asks of an engine, in token ids.

An engine takes generations, runs them together, and hands over one `Step` for each scheduler step.
What `EngineInfo` bounds is validated before an engine sees it, because in these engines one bad
request has ended the whole server; what only the engine can tell, such as whether a grammar
compiles, its `check` tells beforehand.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from pathlib import Path


class Ability(Enum):
    """Something that not every engine can do."""

    LOGPROBS = "logprobs"
    TOP_LOGPROBS = "top_logprobs"
    GUIDED_JSON_SCHEMA = "guide.json_schema"
    GUIDED_JSON_OBJECT = "guide.json_object"
    GUIDED_REGEX = "guide.regex"
    GUIDED_GRAMMAR = "guide.grammar"
    GUIDED_CHOICE = "guide.choice"
    FREE_PREFIX = "guide.free_prefix"
    LORA = "lora_adapter"
    CACHE_SALT = "cache_salt"
    MIN_P = "sampling.min_p"
    KV_EVENTS = "kv_events"
    CACHED_PROMPT_TOKENS = "cached_prompt_tokens"
    LOGIT_BIAS = "sampling.logit_bias"
    BANNED_SEQUENCES = "sampling.banned_sequences"
    PROMPT_LOGPROBS = "prompt_logprobs"


GUIDED = frozenset(
    {
        Ability.GUIDED_JSON_SCHEMA,
        Ability.GUIDED_JSON_OBJECT,
        Ability.GUIDED_REGEX,
        Ability.GUIDED_GRAMMAR,
        Ability.GUIDED_CHOICE,
        Ability.FREE_PREFIX,
    }
)
"""What an engine can do whose compiler reads grammars of our own writing."""


@dataclass(frozen=True)
class EngineInfo:
    """What an engine serves, and its bounds. Token counts unless said otherwise."""

    engine: str
    """Name, such as `openvino`."""
    engine_version: str
    context_tokens: int
    """Most tokens of prompt and output together."""
    prompt_tokens: int
    """Most tokens of a prompt: the context, or the KV cache where that is smaller."""
    vocabulary_size: int
    eos_token_ids: tuple[int, ...]
    """Ids that end a sequence, all of generation_config.json's."""
    running_sequences: int
    """Sequences that the engine runs at once."""
    kv_block_tokens: int
    kv_blocks: int
    """Blocks of the KV cache; 0 where the engine does not tell."""
    abilities: frozenset[Ability]
    top_logprobs: int = 0
    """Most alternatives to a token, of the output or of the prompt."""
    lora_adapters: tuple[str, ...] = ()
    """LoRA adapters that generations may name; of an engine, those that it was built with."""
    highest_temperature: float = 100.0
    """Most of Sampling.temperature; 100 is the contract's own bound."""
    stop_token_ids: int = 256
    """Most stop ids of a request; 256 is the contract's own bound."""
    banned_sequences: int = 256
    """Most sequences that a request bans; 256 is the contract's own bound."""
    banned_ids: int = 256 * 256
    """Most ids of all of them together."""
    unsupported_sampling: frozenset[str] = frozenset()
    """Fields of Sampling that the engine, as it is set up, passes over: refused where they are set,
    never ignored."""
    transfers: str = ""
    """How it hands over the KV cache of a prompt, and fetches one: engines that say the same can
    fetch from each other. Empty: it does neither."""
    not_handed_over: frozenset[str] = frozenset()
    """Fields of a generation, such as `sampling.seed`, with which another engine that has fetched
    the prompt would not go on as this one would: refused with `Generation.prefill_only`."""
    stall_s: float = 120.0
    """Time without `Engine.progress`, with work in flight, after which this engine is given up
    where the settings say nothing. It has to be longer than any one step of it."""
    simulated: bool = False


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; the defaults are neutral. Ranges: worker.v1.Sampling."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Ids, each once, with what is added to its logit."""
    banned_sequences: tuple[tuple[int, ...], ...] = ()
    """Runs of ids that are never generated."""


@dataclass(frozen=True)
class FreePrefix:
    """A part of the output before the form, with white space after it, that may be anything."""

    begin: str
    """An output that begins otherwise is held from its start; empty: every output begins free."""
    end: str
    """Text whose first appearance ends it."""


@dataclass(frozen=True)
class Guide:
    """A form that the output is held to: an ability of the guided kind and its text or texts."""

    form: Ability
    text: str = ""
    options: Sequence[str] = ()
    """With GUIDED_CHOICE: the texts."""
    free_prefix: FreePrefix | None = None

    @cached_property
    def digest(self) -> bytes:
        """What stands for a form, which itself may be long: the same for the same form."""
        digest = hashlib.sha256(self.form.value.encode())
        prefix = self.free_prefix
        free = () if prefix is None else (prefix.begin, prefix.end)
        digest.update(b"%d" % len(free))
        for text in (*free, self.text, *self.options):
            encoded = text.encode()
            digest.update(b"%d:" % len(encoded))
            digest.update(encoded)
        return digest.digest()


@dataclass(frozen=True)
class Generation:
    """One generation, checked and complete."""

    prompt: Sequence[int]
    """Token ids, at least one."""
    max_tokens: int
    """Most tokens to generate, per sequence, within the context; an engine gets at least 1."""
    sampling: Sampling = Sampling()
    min_tokens: int = 0
    """A stop token ends a sequence only as its token of this number, counted from 1, or later."""
    carried_tokens: int = 0
    """So many ids at the prompt's end are output that the sequence has already. The other fields
    count from there: `max_tokens` and `min_tokens` are of what follows."""
    stop_token_ids: tuple[int, ...] = ()
    """Every id that ends a sequence; the model's own are among them unless EOS is to be ignored."""
    sequence_count: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: int | None = None
    """Alternatives to each token of the prompt; None: nothing is told of the prompt's tokens."""
    guide: Guide | None = None
    lora_adapter: str = ""
    cache_salt: str = ""
    priority: int = 0
    """Higher goes first."""
    trace_headers: tuple[tuple[str, str], ...] = ()
    """W3C trace context, for engines that trace themselves."""
    prefill_only: bool = False
    """The prompt alone is computed: the only sequence ends with Finish.LENGTH and
    `Output.transfer_handle`, without a token. Its blocks are kept until another engine has fetched
    them, or for a time of the engine's own."""
    transfer_handle: bytes = b""
    """An `Output.transfer_handle` of an engine with the same `EngineInfo.transfers`: the prompt is
    fetched by it, and computed where that fails; empty: it is computed."""


class Finish(Enum):
    """Why a sequence ended, as far as an engine knows."""

    STOP = "stop"
    """A stop token (the last id of the sequence) or the end of a guided output."""
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood in another's place."""

    token_id: int
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """Natural-log probability of one token."""

    token_id: int
    logprob: float
    alternatives: tuple[Alternative, ...] = ()


class PromptLogprobs:
    """Log probabilities of a prompt's tokens, in columns: there may be half a million.

    Args:
        alternatives: to each token, but for the first, which has no probability.
    """

    __slots__ = ("alternatives", "ids", "values")

    def __init__(self, alternatives: int) -> None:
        self.alternatives = alternatives
        """To each token."""
        self.ids = array("I")
        """Of each token its own id, and those of its alternatives; of the first its own alone."""
        self.values = array("f")
        """Natural-log probabilities of the same; of the first 0."""

    def __len__(self) -> int:
        """Tokens."""
        return 1 + (len(self.ids) - 1) // (1 + self.alternatives) if self.ids else 0

    def add(self, ids: Sequence[int], values: Sequence[float]) -> None:
        """Adds the next tokens; see `ids` and `values`."""
        self.ids.extend(ids)
        self.values.extend(values)

    def part(self, start: int, end: int) -> Iterator[TokenLogprob]:
        """Yields the tokens of these places."""
        size = 1 + self.alternatives
        for place in range(start, min(end, len(self))):
            at = 1 + (place - 1) * size if place else 0
            upto = at + size if place else 1
            pairs = zip(self.ids[at + 1 : upto], self.values[at + 1 : upto], strict=True)
            yield TokenLogprob(
                self.ids[at], self.values[at], tuple(Alternative(*pair) for pair in pairs)
            )


@dataclass(frozen=True, slots=True)
class Times:
    """When things happened to a sequence within the engine, on time.monotonic's clock."""

    started_s: float
    """The engine took it up."""
    first_token_s: float
    last_token_s: float


@dataclass(slots=True)
class Output:
    """What one step brought to one sequence."""

    key: int
    """The generation, by the number it was submitted under."""
    sequence: int
    token_ids: list[int]
    """New ids, a stop token included; may be empty where `finish` is set."""
    finish: Finish | None = None
    logprobs: list[TokenLogprob] | None = None
    """One for each id, where asked for."""
    prompt_logprobs: PromptLogprobs | None = None
    """All of the prompt's, where asked for: with the first output of sequence 0, before the tokens
    of any sequence. None come where that sequence is cancelled before."""
    cached_prompt_tokens: int | None = None
    """With the generation's first output, where the engine tells."""
    started_s: float | None = None
    """With the generation's first output: when the engine took it up, on time.monotonic's clock,
    for engines that tell it only then and not by `Step.started`."""
    times: Times | None = None
    """With `finish`, of engines that tell only then; worth more than what was seen from outside."""
    transfer_handle: bytes = b""
    """With the end of a prompt that was to be computed alone: what another engine fetches it by;
    empty: it can't be fetched."""
    fetched_prompt_tokens: int | None = None
    """With the generation's first output, where the prompt was to be fetched and the engine tells;
    they are not among the cached ones."""
    error: str | None = None
    """The generation failed in the engine; nothing more comes of it."""


@dataclass(slots=True)
class Columns:
    """New ids of sequences, in columns: entry i is what one sequence got.

    The way of an engine that steps fast: an `Output` costs an object for each sequence.
    """

    keys: list[int] = field(default_factory=list)
    """The generation of each entry."""
    sequences: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    """Ids of each entry, at least 1."""
    token_ids: list[int] = field(default_factory=list)
    """The ids of all entries, one after the other."""


@dataclass(slots=True)
class Step:
    """One scheduler step of the engine."""

    outputs: list[Output] = field(default_factory=list)
    """What it brought to sequences that are not in `columns`; plain ids may come either way."""
    started: list[int] = field(default_factory=list)
    """Keys of the generations that the engine took up with this step, where it tells."""
    began_s: float = field(default_factory=time.monotonic)
    """When the step began, on time.monotonic's clock. A step ends when the listener is told."""
    columns: Columns = field(default_factory=Columns)
    """New ids of sequences that got nothing else with this step."""


@dataclass(frozen=True)
class EngineLoad:
    """How busy the engine is."""

    running_sequences: int
    kv_cache_usage: float
    """Share of the KV cache in use, 0 to 1."""


@dataclass(frozen=True, slots=True)
class KvStored:
    """Blocks that were added to the KV cache, each the child of the one before."""

    parent_hash: int
    """The engine's hash of the block before the first, below 2**64; 0: none."""
    block_hashes: Sequence[int]
    """The engine's hashes of the blocks, each below 2**64."""
    token_ids: Sequence[int]
    """The ids of all blocks, one after the other; `EngineInfo.kv_block_tokens` for each block."""
    lora_adapter: str = ""
    """Adapter of the requests that can reuse them; empty: none."""
    cache_salt: str = ""
    """Salt of these requests, where the blocks have no parent; empty: none, or it is not known."""


@dataclass(frozen=True, slots=True)
class KvRemoved:
    """Blocks that were dropped from the KV cache."""

    block_hashes: Sequence[int]


@dataclass(frozen=True, slots=True)
class KvCleared:
    """All blocks were dropped, or the engine lost count: whoever mirrors the cache starts over."""


KvEvent: TypeAlias = KvStored | KvRemoved | KvCleared
"""What happened to the KV cache, of engines with Ability.KV_EVENTS."""


class Refused(Exception):  # noqa: N818 - it says what happened to the request
    """A generation that the engine cannot run, found before it was submitted."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        """Path of the field at fault within the request, such as `guide.regex`."""
        self.description = description
        """What is wrong with it."""


class Busy(Exception):  # noqa: N818 - it says how things are with the engine
    """A generation that the engine has no room for now, found before it was submitted."""

    def __init__(self, reason: str, description: str, retry_after_s: float) -> None:
        super().__init__(description)
        self.reason = reason
        """Machine-readable, such as `GUIDE_QUEUE_FULL`."""
        self.description = description
        """What there is no room for."""
        self.retry_after_s = retry_after_s
        """After which it is worth another try."""


class Untried(Exception):  # noqa: N818 - it says how things are with the engine
    """A guide of which nothing is known yet, through no fault of its own."""

    def __init__(self, description: str, retry_after_s: float) -> None:
        super().__init__(description)
        self.description = description
        """Why it was not tried."""
        self.retry_after_s = retry_after_s
        """After which it is worth another try."""


class EngineListener(Protocol):
    """Who hears from an engine. Called on any thread: hand over and return."""

    loop: AbstractEventLoop
    """The worker's: an engine may read there what a process of its own says, without blocking."""

    def on_step(self, step: Step) -> None:
        """Takes what one step brought."""

    def on_death(self, reason: str) -> None:
        """The engine is gone for good: nothing more comes of what it held."""

    def on_kv_events(self, events: Sequence[KvEvent]) -> None:
        """Takes what happened to the KV cache, in order; never called without Ability.KV_EVENTS.

        The engine does not number them: that is done where they are kept.
        """


class LoraLoader(Protocol):
    """Changes an engine's LoRA adapters while it runs. Called on an event loop, one at a time."""

    async def load(self, name: str, path: Path) -> None:
        """Loads an adapter from its folder or file; generations may name it from then on.

        What was computed with an earlier adapter of the name, such as KV blocks, is not reused.

        Raises:
            Refused: `path`: what is there is not an adapter that the engine can apply.
        """

    async def unload(self, name: str) -> None:
        """Lets go of an adapter, which no generation has any more."""


class Engine(Protocol):
    """A running engine. `submit` and `cancel` may be called from any thread and do not block."""

    @property
    def info(self) -> EngineInfo:
        """What the engine serves, and its bounds."""

    @property
    def lora(self) -> LoraLoader | None:
        """Loads and unloads LoRA adapters; None: they stay as the engine was built with them."""

    def start(self, listener: EngineListener) -> None:
        """Starts to step; from now on the listener hears of it."""

    async def check(self, generation: Generation) -> None:
        """Tries what only the engine can tell of a guided generation, before it is submitted.

        Called on an event loop, for generations with a guide. It takes as long as a grammar takes
        to compile, which is bounded; a caller that waits no longer cancels it.

        Raises:
            Refused: the engine cannot run it.
            Busy: the engine cannot tell now.
        """

    def not_carried(self, generation: Generation) -> Sequence[str]:
        """Returns what keeps the engine from going on with a generation exactly.

        Exactly is as it would have gone on had it generated the carried tokens itself. Each is the
        path of a field within the request, such as `sampling.seed`; none: it goes on exactly.
        Called before `submit`, for generations with carried tokens; it does not block.
        """

    def submit(self, key: int, generation: Generation) -> None:
        """Takes a generation under a number not in use."""

    def cancel(self, key: int, sequence: int | None = None) -> None:
        """Stops a generation, or one sequence of it where the engine can.

        Each sequence that this stops ends with Finish.CANCELLED in one of the next two steps,
        unless it has ended otherwise by then; a key that is not live is passed over.
        """

    def load(self) -> EngineLoad:
        """Tells how busy the engine is, from what it last saw; costs nothing."""

    def progress(self) -> int:
        """Returns a count that rises with each sign that the engine gets on with its work.

        A sign is what an engine that hangs cannot give, and one that is busy gives again and again:
        a step that ended, whether or not it brought a token, such as one of a long prompt's many.
        It costs nothing to ask.
        """

    def kill(self) -> None:
        """Ends the engine's processes at once, stopped ones too; does not block.

        For an engine that answers no more. `close` still follows, and then returns within a second.
        """

    def close(self) -> None:
        """Ends the engine and its thread, cancelling what it still holds."""
