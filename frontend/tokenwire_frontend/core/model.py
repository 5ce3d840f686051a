"""What the frontend knows of a model: its bounds, its abilities, its sampling defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Ability(Enum):
    """Something that not every engine can do; the value is the request field that asks for it."""

    LOGPROBS = "output.logprobs"
    TOP_LOGPROBS = "output.top_logprobs"
    GUIDED_JSON_SCHEMA = "guided.json_schema"
    GUIDED_JSON_OBJECT = "guided.json_object"
    GUIDED_REGEX = "guided.regex"
    GUIDED_GRAMMAR = "guided.grammar"
    GUIDED_CHOICE = "guided.choice"
    FREE_PREFIX = "prompt.chat.tool_choice"
    """Of a model that reasons first: a guide before which a part of the output is free."""
    LORA = "lora_adapter"
    CACHE_SALT = "cache_salt"
    MIN_P = "sampling.min_p"
    LOGIT_BIAS = "sampling.logit_bias"
    BANNED_WORDS = "sampling.banned_words"
    PROMPT_LOGPROBS = "output.prompt_logprobs"


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What requests for a model may hold. Token counts unless said otherwise."""

    context_tokens: int
    prompt_tokens: int
    vocabulary_size: int
    sequence_count: int
    top_logprobs: int
    eos_token_ids: tuple[int, ...]
    abilities: frozenset[Ability]
    lora_adapters: frozenset[str]


def common_limits(limits: Sequence[ModelLimits]) -> ModelLimits:
    """Returns what every one of a model's workers, at least one, can serve.

    LoRA adapters are those that at least one has: a request is sent to one that has its adapter.
    """
    first = limits[0]
    abilities = [limit.abilities for limit in limits]
    return ModelLimits(
        context_tokens=min(limit.context_tokens for limit in limits),
        prompt_tokens=min(limit.prompt_tokens for limit in limits),
        vocabulary_size=min(limit.vocabulary_size for limit in limits),
        sequence_count=min(limit.sequence_count for limit in limits),
        top_logprobs=min(limit.top_logprobs for limit in limits),
        eos_token_ids=first.eos_token_ids,
        abilities=frozenset.intersection(*abilities)
        | (frozenset.union(*abilities) & {Ability.LORA}),
        lora_adapters=frozenset.union(*(limit.lora_adapters for limit in limits)),
    )


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """A model's own sampling, from its generation_config.json, or the neutral values here."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
