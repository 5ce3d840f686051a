"""Loads an OpenVINO pipeline as the settings say, and finds out what it can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino_genai as ov_genai

from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.openvino import stand_in
from tokenwire_worker.engines.openvino.files import TOKENIZER_FILE, ReadableFolders
from tokenwire_worker.engines.openvino.settings import OpenVinoSettings
from tokenwire_worker.engines.port import GUIDED, Ability, EngineInfo
from tokenwire_worker.engines.text import told
from tokenwire_worker.gguf import header
from tokenwire_worker.gguf.tokenizer import CONTROL, USER_DEFINED
from tokenwire_worker.model_files import ModelLimits, read_limits
from tokenwire_worker.model_source import is_gguf

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
"""Properties under which a request's greedy ids do not depend on its batch. Seen on 32 random
prompts: equal 32 of 32 times, against 21 without the last and none with the defaults."""


STALL_S, STALL_TOKENS = 20.0, 256
"""Time for a step of so many tokens, which is the default: a CPU that prefills 13 tokens a second
is not stalled. A setting of larger steps has proportionally more."""


@dataclass(frozen=True)
class Loaded:
    """A pipeline and what it serves."""

    pipeline: Any
    info: EngineInfo
    tokenizer: str | None
    """Where the tokenizer that guides need can be loaded from; None: there are no guides."""
    unguided: str
    """Why there are none."""
    shares_prompts: bool
    """KV blocks of a prompt are reused by later requests that begin alike."""
    draft: dict[str, int] = field(default_factory=dict)
    """GenerationConfig values that speculative decoding needs; empty without."""
    adapters: Mapping[str, Any] = field(default_factory=dict)
    """LoRA adapters by name."""
    folders: ReadableFolders = field(default_factory=ReadableFolders)
    """What the model was read from; closed with the pipeline."""


def load(settings: WorkerSettings) -> Loaded:
    """Loads the model and runs one token, to learn how many blocks the KV cache has.

    Raises:
        EngineError: OpenVINO refuses the model or a setting.
        ModelError: the model's config.json lacks what is needed.
    """
    own = settings.openvino
    limits = read_limits(settings.text_folder, settings.context_tokens)
    folders = ReadableFolders()
    try:
        adapters = {name: ov_genai.Adapter(path) for name, path in own.lora.items()}
        pipeline = _pipeline(settings, adapters, folders)
        blocks = _count_blocks(pipeline, _draft(own))
    except RuntimeError as error:
        raise EngineError(f"OpenVINO refuses --model {settings.model}: {told(error)}") from error
    tokenizer, unguided = _guide_tokenizer(settings, limits, folders)
    return Loaded(
        pipeline=pipeline,
        info=_info(own, limits, blocks, guided=tokenizer is not None),
        tokenizer=tokenizer,
        unguided=unguided,
        shares_prompts=_shares_prompts(own),
        draft=_draft(own),
        adapters=adapters,
        folders=folders,
    )


def _pipeline(
    settings: WorkerSettings, adapters: Mapping[str, Any], folders: ReadableFolders
) -> Any:
    own = settings.openvino
    properties = _properties(own)
    if own.draft_model is not None:
        properties["draft_model"] = ov_genai.draft_model(
            str(folders.readable(own.draft_model)), own.device, **_properties(own)
        )
    elif own.prompt_lookup_ngram:
        properties["prompt_lookup"] = True
    if adapters:
        properties["adapters"] = ov_genai.AdapterConfig(list(adapters.values()))
    model, scheduler = str(folders.readable(settings.model_path)), _scheduler(own)
    tokenizer = _tokenizer(settings, folders)
    if tokenizer is not None:
        return ov_genai.ContinuousBatchingPipeline(
            model, tokenizer, scheduler, own.device, **properties
        )
    return ov_genai.ContinuousBatchingPipeline(model, scheduler, own.device, properties)


def _tokenizer(settings: WorkerSettings, folders: ReadableFolders) -> Any:
    """Returns the tokenizer where a model of one file does not bring one that can be used."""
    if not settings.model_path.is_file():
        return None
    if (settings.text_folder / TOKENIZER_FILE).is_file():
        return ov_genai.Tokenizer(str(folders.readable(settings.text_folder)))
    return None if _has_tokenizer(settings.model_path) else stand_in.tokenizer()


def _has_tokenizer(gguf: Path) -> bool:
    """Tells whether OpenVINO can use the tokenizer of a GGUF file.

    It knows byte-level BPE alone, and can't build one without special tokens.
    """
    pairs = header.read(gguf).pairs
    kinds = pairs.get("tokenizer.ggml.token_type", [])
    special = CONTROL in kinds or USER_DEFINED in kinds
    return pairs.get("tokenizer.ggml.model") == "gpt2" and special


def _scheduler(own: OpenVinoSettings) -> Any:
    config = ov_genai.SchedulerConfig()
    if own.kv_blocks is not None:
        config.num_kv_blocks = own.kv_blocks
    else:
        config.cache_size = own.kv_cache_gib
    config.max_num_batched_tokens = own.max_batched_tokens
    config.max_num_seqs = own.max_sequences
    config.dynamic_split_fuse = own.split_fuse
    config.enable_prefix_caching = _shares_prompts(own)
    eviction = own.cache_eviction
    if eviction.max_tokens is not None:
        config.use_cache_eviction = True
        config.cache_eviction_config = ov_genai.CacheEvictionConfig(
            eviction.start_tokens,
            eviction.recent_tokens,
            eviction.max_tokens,
            ov_genai.AggregationMode.NORM_SUM,
        )
    return config


def _shares_prompts(own: OpenVinoSettings) -> bool:
    # Blocks are found by token ids alone, so one adapter's would be found for another's prompt.
    return own.prefix_caching and not own.lora


def _properties(own: OpenVinoSettings) -> dict[str, Any]:
    properties: dict[str, Any] = dict(EXACT) if own.exact else {}
    # OpenVINO's own default, a thread pinned to each core, stays: with a client and other work on
    # the same 2 cores it gave 1,280 tokens a second (median of 8), unpinned threads 1,160, one
    # thread 880 and one unpinned 1,030.
    if own.threads is not None:
        properties["INFERENCE_NUM_THREADS"] = own.threads
    return {**properties, **own.property}


def _draft(own: OpenVinoSettings) -> dict[str, int]:
    if own.draft_model is not None:
        return {"num_assistant_tokens": own.draft_tokens}
    if own.prompt_lookup_ngram:
        return {
            "num_assistant_tokens": own.draft_tokens,
            "max_ngram_size": own.prompt_lookup_ngram,
        }
    return {}


def _count_blocks(pipeline: Any, draft: Mapping[str, int]) -> int:
    """Returns how many blocks the KV cache has: one token holds one, and the usage is told."""
    config = ov_genai.GenerationConfig()
    config.max_new_tokens = 1
    for name, value in draft.items():
        setattr(config, name, value)
    handle = pipeline.add_request(0, ov.Tensor(np.zeros((1, 1), dtype=np.int64)), config)
    usage = 0.0
    while pipeline.has_non_finished_requests():
        pipeline.step()
        usage = usage or pipeline.get_metrics().cache_usage
    handle.read()
    return round(100 / usage) if usage > 0 else 0


def _guide_tokenizer(
    settings: WorkerSettings, limits: ModelLimits, folders: ReadableFolders
) -> tuple[str | None, str]:
    """Returns where guides find the tokenizer, or None and why they can't."""
    folder, model = settings.text_folder, settings.model_path
    if not (folder / TOKENIZER_FILE).is_file():
        if not is_gguf(model):
            how = "optimum-cli export openvino writes it"
            return None, f"{folder} has no {TOKENIZER_FILE}; {how}"
        if not _has_tokenizer(model):
            return None, (
                f"OpenVINO can't use the tokenizer of this file; --tokenizer-folder can name a "
                f"folder with the model's {TOKENIZER_FILE}"
            )
    if not limits.eos_token_ids:
        return None, f"{folder} tells no eos_token_id"
    return str(folders.readable(folder) if (folder / TOKENIZER_FILE).is_file() else model), ""


def _info(own: OpenVinoSettings, limits: ModelLimits, blocks: int, *, guided: bool) -> EngineInfo:
    block_tokens = 16 if own.device.startswith("GPU") else 32
    context = prompt = limits.context_tokens
    if blocks:
        # What outgrows the cache is dropped in mid-generation, so it is bounded beforehand.
        prompt = min(prompt, blocks * block_tokens)
        if own.cache_eviction.max_tokens is None:
            context = min(context, blocks * block_tokens)
    if not own.split_fuse:  # a prompt is then prefilled in one step or never
        prompt = min(prompt, own.max_batched_tokens)
    abilities = {Ability.LOGPROBS, Ability.MIN_P}
    if guided:
        abilities |= GUIDED
    if own.lora:
        abilities.add(Ability.LORA)
    return EngineInfo(
        engine="openvino",
        engine_version=ov_genai.__version__,
        context_tokens=context,
        prompt_tokens=prompt,
        vocabulary_size=limits.vocabulary_size,
        eos_token_ids=limits.eos_token_ids,
        running_sequences=own.max_sequences,
        kv_block_tokens=block_tokens,
        kv_blocks=blocks,
        abilities=frozenset(abilities),
        lora_adapters=tuple(sorted(own.lora)),
        stall_s=STALL_S * max(1.0, own.max_batched_tokens / STALL_TOKENS),
    )
