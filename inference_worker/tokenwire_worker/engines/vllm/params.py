"""A `Generation` as what vLLM's `generate` takes, and what it yields as the port's values."""

from __future__ import annotations

from typing import Any

from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from tokenwire_worker.engines.guides.prepare import grammar_text
from tokenwire_worker.engines.port import (
    Alternative,
    Generation,
    Guide,
    PromptLogprobs,
    Sampling,
    TokenLogprob,
)
from tokenwire_worker.engines.vllm.transfers import ASKED, unpacked

HIGHEST_TEMPERATURE = 2.0
"""vLLM refuses more, and does so in the engine's process too, which ends it."""

LEAST_TEMPERATURE = 0.01
"""vLLM raises less to this, with a warning for each request; greedy is nearer to what was asked."""

STOP_TOKEN_IDS = 128
"""Most stop ids of a request with min_tokens, the model's own included. More of them raise in the
step itself, which ends the engine (vllm.v1.worker.gpu.sample.logit_bias)."""

BANNED_SEQUENCES, BANNED_IDS = 128, 1024
"""Most banned sequences of a request, and ids of all of them. More of either raise in the step
itself, which ends the engine (vllm.v1.worker.gpu.sample.bad_words)."""

SEED_BOUND = 2**63
"""vLLM keeps seeds as signed 64-bit integers; one above ends the engine."""


def prompt(generation: Generation) -> Any:
    """Returns the prompt in the form that passes vLLM's preprocessing by."""
    return tokens_input(list(generation.prompt), cache_salt=generation.cache_salt or None)


def sampling_params(generation: Generation, sequence: int, guide_stops: tuple[int, ...]) -> Any:
    """Returns the parameters of one sequence, which is a request of its own to vLLM.

    Args:
        generation: what to generate.
        sequence: which of its sequences.
        guide_stops: ids that end a guided output once its form is complete. vLLM lets the output
            go on without the form where none of them ends it.
    """
    guide = generation.guide
    stops = generation.stop_token_ids
    if guide is not None:
        stops = tuple(dict.fromkeys((*stops, *guide_stops)))
    return SamplingParams(
        **_sampling(generation.sampling, sequence),
        max_tokens=generation.max_tokens,
        # vLLM lets no stop token be among the first of this number; the last of ours may be one.
        min_tokens=max(generation.min_tokens - 1, 0),
        stop_token_ids=list(stops),
        # The stop ids above are complete: what the model's own would add is among them, or is to
        # be ignored.
        ignore_eos=True,
        logprobs=generation.top_logprobs if generation.logprobs else None,
        # Of one sequence: all have the same prompt. vLLM reads none of it from its prefix cache.
        prompt_logprobs=None if sequence else generation.prompt_logprobs,
        flat_logprobs=True,
        structured_outputs=None if guide is None else _structured(guide),
        extra_args=_extra_args(generation),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        # These parameters are for this one request, so vLLM need not copy them in depth.
        skip_clone=True,
    )


def prefill_params() -> Any:
    """Returns the parameters of a prompt that another engine goes on with.

    vLLM makes at least one token, which is dropped: how it is chosen does not matter.
    """
    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
        extra_args={"kv_transfer_params": dict(ASKED)},
    )


def _extra_args(generation: Generation) -> dict[str, Any] | None:
    fetched = unpacked(generation) if generation.transfer_handle else None
    return None if fetched is None else {"kv_transfer_params": fetched}


def _sampling(sampling: Sampling, sequence: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "logit_bias": dict(sampling.logit_bias) or None,
        # What vLLM makes of its `bad_words`, for which it needs a tokenizer.
        "_bad_words_token_ids": [list(ids) for ids in sampling.banned_sequences] or None,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "temperature": 0.0,
    }
    if sampling.temperature >= LEAST_TEMPERATURE:
        chosen["temperature"] = sampling.temperature
        chosen["top_p"] = sampling.top_p
        chosen["top_k"] = sampling.top_k
        chosen["min_p"] = sampling.min_p
        if sampling.seed is not None:
            chosen["seed"] = (sampling.seed + sequence) % SEED_BOUND
    return chosen


def _structured(guide: Guide) -> Any:
    # A form of vLLM's own would be compiled by what passes over some keywords of JSON Schema.
    return StructuredOutputsParams(grammar=grammar_text(guide))


def prompt_logprobs(generation: Generation, flat: Any) -> PromptLogprobs:
    """Returns the log probabilities of a prompt's tokens.

    Args:
        generation: whose prompt it is.
        flat: vLLM's FlatLogprobs: nothing of the first token, and of each other one a run that
            begins with the token itself, and goes on with the likeliest.

    Raises:
        ValueError: there is not a run of the same length for each of the others.
    """
    prompt, alternatives = generation.prompt, generation.prompt_logprobs or 0
    found = PromptLogprobs(alternatives)
    found.add([prompt[0]], [0.0])
    found.add(flat.token_ids, flat.logprobs)
    if len(found) != len(prompt) or len(flat.logprobs) != (len(prompt) - 1) * (1 + alternatives):
        raise ValueError("vLLM has other log probabilities of the prompt than were asked for")
    return found


def token_logprobs(token_ids: list[int], flat: Any, top: int) -> list[TokenLogprob]:
    """Returns the log probability of each id.

    Args:
        token_ids: the ids of one delta.
        flat: vLLM's FlatLogprobs of the same: for each id a run that begins with the id itself,
            and goes on with the likeliest.
        top: most alternatives wanted.
    """
    found = []
    for at, token_id in enumerate(token_ids):
        start, end = flat.start_indices[at], flat.end_indices[at]
        # A dict, since the id itself comes a second time where it is among the likeliest.
        run = dict(zip(flat.token_ids[start:end], flat.logprobs[start:end], strict=True))
        ranked = sorted(run.items(), key=lambda pair: -pair[1])[:top]
        alternatives = tuple(Alternative(*pair) for pair in ranked)
        found.append(TokenLogprob(token_id, run[token_id], alternatives))
    return found
