"""What the engine offers and its bounds, from the settings, the model and the first statistics."""

from __future__ import annotations

from dataclasses import replace

from tokenwire_worker.engines.port import GUIDED, Ability, EngineInfo
from tokenwire_worker.engines.tensorrt_llm.arguments import drafts_within_the_model, sampler
from tokenwire_worker.engines.tensorrt_llm.load_meter import LoadMeter
from tokenwire_worker.engines.tensorrt_llm.settings import TensorRtLlmSettings
from tokenwire_worker.model_files import ModelLimits

TOP_LOGPROBS = 20
"""Most alternatives to a token: as many as the public services of the field give."""

_ALWAYS = {Ability.CACHE_SALT}

NOT_HANDED_OVER = frozenset(
    {
        # The form's place, the log probability and the counts of the first token stay behind.
        "guide",
        "logprobs",
        "sampling.repetition_penalty",
        "sampling.presence_penalty",
        "sampling.frequency_penalty",
        # Each engine draws from its own random numbers.
        "sampling.seed",
    }
)
"""Fields of a generation with which another engine would not go on as this one."""

STALL_S = 300.0
"""As TensorRT-LLM's own HangDetector, which does not always end the process."""


def abilities(own: TensorRtLlmSettings) -> frozenset[Ability]:
    """Returns what requests may ask for."""
    found = set(_ALWAYS)
    cache = own.kv_cache_config
    if cache.enable_block_reuse:
        found.add(Ability.CACHED_PROMPT_TOKENS)
        # Its events do not tell a block of one LoRA adapter from one of another.
        if cache.event_buffer_max_size and not own.takes_lora:
            found.add(Ability.KV_EVENTS)
    if own.guided_decoding_backend:
        found |= GUIDED
    if own.guided_decoding_backend == "llguidance":  # its grammars are Lark's, not EBNF
        found -= {Ability.GUIDED_GRAMMAR, Ability.FREE_PREFIX}
    if own.takes_lora:
        found.add(Ability.LORA)
    if not drafts_within_the_model(own.speculative_config):
        found.add(Ability.LOGPROBS)
        if sampler(own) == "TorchSampler":  # the other tells the chosen token's alone
            found.add(Ability.TOP_LOGPROBS)
    if sampler(own) == "TRTLLMSampler":
        found.add(Ability.MIN_P)
    return frozenset(found)


def unsupported_sampling(own: TensorRtLlmSettings) -> frozenset[str]:
    """Returns the fields of Sampling that TensorRT-LLM would pass over in silence.

    The TorchSampler of 1.2 reads temperature, top_p and top_k and nothing else; its random numbers
    are of one generator for all requests.
    """
    if sampler(own) == "TRTLLMSampler":
        return frozenset()
    return frozenset({"repetition_penalty", "presence_penalty", "frequency_penalty", "seed"})


def engine_info(
    own: TensorRtLlmSettings, limits: ModelLimits, version: str, *, transfers: bool = False
) -> EngineInfo:
    """Returns what the engine serves, as far as it is known before statistics have come."""
    cache = own.kv_cache_config
    context = min(limits.context_tokens, cache.max_tokens or limits.context_tokens)
    offered = abilities(own)
    return EngineInfo(
        engine="tensorrt_llm",
        engine_version=version,
        context_tokens=context,
        prompt_tokens=context if own.enable_chunked_prefill else min(context, own.max_num_tokens),
        vocabulary_size=limits.vocabulary_size,
        eos_token_ids=limits.eos_token_ids,
        running_sequences=own.max_batch_size,
        kv_block_tokens=cache.tokens_per_block,
        kv_blocks=0,
        abilities=offered,
        top_logprobs=TOP_LOGPROBS if Ability.TOP_LOGPROBS in offered else 0,
        lora_adapters=tuple(own.lora),
        unsupported_sampling=unsupported_sampling(own),
        transfers=_transfers(own, version) if transfers else "",
        not_handed_over=NOT_HANDED_OVER,
        stall_s=STALL_S,
    )


def _transfers(own: TensorRtLlmSettings, version: str) -> str:
    """Returns what engines have in common that can fetch from each other."""
    cache, transceiver = own.kv_cache_config, own.cache_transceiver_config
    return f"tensorrt_llm {version} {transceiver.backend} {cache.dtype} {cache.tokens_per_block}"


def within_cache(info: EngineInfo, meter: LoadMeter) -> EngineInfo:
    """Returns the info bounded by the KV cache: what it can't hold whole is never begun."""
    if not meter.kv_blocks:
        return info
    block_tokens = meter.kv_block_tokens or info.kv_block_tokens
    context = min(info.context_tokens, meter.kv_blocks * block_tokens)
    return replace(
        info,
        context_tokens=context,
        prompt_tokens=min(info.prompt_tokens, context),
        kv_block_tokens=block_tokens,
        kv_blocks=meter.kv_blocks,
    )
