"""A `Generation` as an openvino_genai.GenerationConfig."""

from __future__ import annotations

import secrets
from typing import Any

import openvino_genai as ov_genai

from tokenwire_worker.engines.guides.prepare import grammar_text
from tokenwire_worker.engines.port import Generation, Guide, Sampling

_BELOW_ONE = 1 - 2.0**-24
"""The greatest number below 1 in float32, which is what the pipeline computes with."""

_SEEDS = 2**64


def generation_config(generation: Generation, sequence: int, draft: dict[str, int]) -> Any:
    """Returns the configuration of one sequence of a generation.

    Args:
        generation: the generation.
        sequence: which of its sequences, from 0.
        draft: values that speculative decoding needs in every configuration.
    """
    config = ov_genai.GenerationConfig()
    config.max_new_tokens = generation.max_tokens
    # The pipeline lets no stop token be among the first of this number; the last of ours may be.
    config.min_new_tokens = max(generation.min_tokens - 1, 0)
    stops = generation.stop_token_ids
    if stops:
        config.stop_token_ids = set(stops)
        # Left unset, the pipeline adds the model's own, which may be the ones to be ignored.
        config.eos_token_id = stops[0]
    else:
        config.ignore_eos = True  # with stop ids it would disable those too
    _set_sampling(config, generation.sampling, sequence)
    if generation.logprobs:
        config.logprobs = 1
    if generation.guide is not None:
        config.structured_output_config = structured_output(generation.guide)
    for name, value in draft.items():
        setattr(config, name, value)
    return config


def _set_sampling(config: Any, sampling: Sampling, sequence: int) -> None:
    if sampling.repetition_penalty != 1:
        config.repetition_penalty = sampling.repetition_penalty
    if sampling.presence_penalty:
        config.presence_penalty = sampling.presence_penalty
    if sampling.frequency_penalty:
        config.frequency_penalty = sampling.frequency_penalty
    if sampling.temperature == 0:
        return  # greedy
    config.do_sample = True
    config.temperature = sampling.temperature
    config.top_p = sampling.top_p
    if sampling.top_k:
        config.top_k = sampling.top_k
    # 1 is outside the pipeline's range; just below it keeps the likeliest token, as 1 asks.
    config.min_p = min(sampling.min_p, _BELOW_ONE)
    # The pipeline's default is seed 0, the same for every request.
    seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
    config.rng_seed = (seed + sequence) % _SEEDS


def structured_output(guide: Guide) -> Any:
    """Returns a guide as an openvino_genai.StructuredOutputConfig.

    Raises:
        GuideError: outputs cannot be held to it.
    """
    return ov_genai.StructuredOutputConfig(grammar=grammar_text(guide))
