"""A `Generation` as tensorrt_llm.SamplingParams and what else a request takes.

Each sequence is a request of its own: TensorRT-LLM refuses several greedy sequences in one request,
cannot cancel one of them alone, and aborts only the first of them. Every request has SamplingParams
of its own, since TensorRT-LLM changes the object that it is given.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from tensorrt_llm import SamplingParams
from tensorrt_llm.llmapi import GuidedDecodingParams, KvCacheRetentionConfig

from tokenwire_worker.engines.guides.choices import choice_pattern
from tokenwire_worker.engines.guides.prepare import grammar_text
from tokenwire_worker.engines.port import Ability, Generation, Guide, Sampling
from tokenwire_worker.engines.tensorrt_llm.lora import Adapters

NEVER = -1
"""An end_id that no token has: what TensorRT-LLM itself uses for ignore_eos."""

SEEDS = 2**63
"""Seeds are drawn below this; TensorRT-LLM's are 64 bits, of which JSON and C++ agree on 63."""

DEFAULT_RETENTION, HIGHEST_RETENTION = 35, 100
"""Priorities of cached blocks in TensorRT-LLM: of those nothing is said of, and the most."""

PRIORITY_BOUND = 100
"""A generation's priority runs from minus this to this."""


@dataclass(frozen=True)
class Fixed:
    """What requests have in common."""

    eos_token_ids: tuple[int, ...]
    """The model's."""
    pad_id: int
    """An id that fills up; without one it would be `end_id`, which may be none."""
    lora: Adapters
    """LoRA adapters."""
    guide_backend: str
    """Compiler of guides; empty without one."""
    vocabulary_size: int
    kv_retention: bool
    """Whether priorities say how long prompts stay cached."""


@dataclass(frozen=True, slots=True)
class Stops:
    """Where a sequence ends, and who sees to it."""

    end_id: int
    words: tuple[int, ...]
    """Further ids that the engine stops at."""
    ours: frozenset[int] = frozenset()
    """Ids that the adapter stops at instead."""
    after_tokens: int = 0
    """Tokens among which `ours` end nothing: the first of the sequence."""


def stops(generation: Generation, eos_token_ids: tuple[int, ...]) -> Stops:
    """Returns where the sequences of a generation end.

    The engine looks for `end_id` in the whole batch at once and for stop words request by request,
    so the first end-of-sequence id is the `end_id`. It may leave that one out of the output, which
    costs a log probability; where those are asked for it is a stop word like the others.

    Before min_tokens the engine holds back `end_id` alone, and TorchSampler counts the prompt's
    tokens as well. So with min_tokens it stops at nothing, and the adapter does.
    """
    ids = generation.stop_token_ids
    if generation.guide is not None:
        # A completed form leaves the end-of-sequence id as the only token that is allowed.
        ids = tuple(dict.fromkeys((*ids, *eos_token_ids)))
    if generation.prefill_only:
        return Stops(NEVER, ())
    if generation.min_tokens > 1 or generation.transfer_handle:
        # The first token of a prompt that is fetched is not the engine's own, and ends nothing.
        return Stops(NEVER, (), frozenset(ids), max(generation.min_tokens - 1, 0))
    first = next((token_id for token_id in eos_token_ids if token_id in ids), NEVER)
    if generation.logprobs:
        first = NEVER
    return Stops(first, tuple(token_id for token_id in ids if token_id != first))


def sampling_params(
    generation: Generation, sequence: int, ends: Stops, fixed: Fixed
) -> SamplingParams:
    """Returns the parameters of one sequence.

    Args:
        generation: the generation.
        sequence: which of its sequences, from 0.
        ends: where it ends.
        fixed: what requests have in common.
    """
    arguments: dict[str, Any] = {
        "end_id": ends.end_id,
        "pad_id": fixed.pad_id,
        "max_tokens": generation.max_tokens,
        "stop_token_ids": list(ends.words) or None,
        # Else a stop token is cut off in the last step, after it may have been streamed.
        "include_stop_str_in_output": True,
        "detokenize": False,
        **_choice(generation.sampling, sequence, fixed.vocabulary_size),
    }
    if generation.sampling.presence_penalty or generation.sampling.frequency_penalty:
        # They would count the prompt's tokens too, and are to count the output's alone.
        arguments["prompt_ignore_length"] = len(generation.prompt) - generation.carried_tokens
    if generation.logprobs:
        # 0 would be none at all. The chosen token comes with the likeliest in any case.
        arguments["logprobs"] = max(generation.top_logprobs, 1)
    if generation.guide is not None:
        arguments["guided_decoding"] = GuidedDecodingParams(
            **_form(generation.guide, fixed.guide_backend)
        )
    return SamplingParams(**arguments)


def _choice(sampling: Sampling, sequence: int, vocabulary_size: int) -> dict[str, Any]:
    """Returns how a token is chosen. With all of them unset TensorRT-LLM would be greedy."""
    chosen: dict[str, Any] = {}
    if sampling.repetition_penalty != 1:
        chosen["repetition_penalty"] = sampling.repetition_penalty
    if sampling.presence_penalty:
        chosen["presence_penalty"] = sampling.presence_penalty
    if sampling.frequency_penalty:
        chosen["frequency_penalty"] = sampling.frequency_penalty
    if sampling.temperature == 0:
        return chosen | {"top_k": 1}
    chosen |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
    # 0 is all of them: -1 is refused, and what an int32 can't hold ends in an error.
    chosen["top_k"] = sampling.top_k if sampling.top_k < vocabulary_size else 0
    if sampling.min_p:
        chosen["min_p"] = sampling.min_p
    # Unset it is 0, the same for every request.
    seed = secrets.randbelow(SEEDS) if sampling.seed is None else sampling.seed
    chosen["seed"] = (seed + sequence) % SEEDS
    return chosen


def _form(guide: Guide, backend: str) -> dict[str, Any]:
    if backend == "xgrammar":
        return {"grammar": grammar_text(guide)}
    # llguidance has forms of its own, and refuses what it does not support of them.
    if guide.form is Ability.GUIDED_JSON_SCHEMA:
        return {"json": guide.text}
    if guide.form is Ability.GUIDED_JSON_OBJECT:
        return {"json_object": True}
    if guide.form is Ability.GUIDED_REGEX:
        return {"regex": guide.text}
    return {"regex": choice_pattern(guide.options)}


def retention(priority: int) -> Any:
    """Returns how long the blocks of a prompt stay cached, by the generation's priority.

    0 is TensorRT-LLM's own, 35 of 100; the bounds of ours are the bounds of its scale.
    """
    above = HIGHEST_RETENTION - DEFAULT_RETENTION if priority > 0 else DEFAULT_RETENTION
    value = DEFAULT_RETENTION + round(priority * above / PRIORITY_BOUND)
    whole_prompt = KvCacheRetentionConfig.TokenRangeRetentionConfig(0, None, value, None)
    return KvCacheRetentionConfig(
        token_range_retention_configs=[whole_prompt],
        decode_retention_priority=DEFAULT_RETENTION,
        decode_duration_ms=None,
    )
