"""Settings of the TensorRT-LLM engine: `--tensorrt-llm.*`, by tensorrt_llm.LLM's own names.

None leaves a field to TensorRT-LLM. Where a default here is another than TensorRT-LLM's, the reason
stands beside it; docs/engines/tensorrt_llm.md has the reason to change each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tokenwire_worker.engines.lora import LoraAdapters

_GROUP = ConfigDict(extra="forbid")


class KvCacheSettings(BaseModel):
    """The KV cache (KvCacheConfig).

    Its size is the least of what free_gpu_memory_fraction, max_gpu_total_bytes and max_tokens
    allow.
    """

    model_config = _GROUP

    free_gpu_memory_fraction: float = Field(
        default=0.9, gt=0, lt=1, description="share of the memory left by the weights"
    )
    max_gpu_total_bytes: int = Field(default=0, ge=0, description="most bytes; 0: no bound")
    max_tokens: int | None = Field(default=None, ge=64, description="most tokens")
    tokens_per_block: int = Field(default=32, ge=2, description="tokens of a block; a power of two")
    enable_block_reuse: bool = Field(
        default=True, description="keep blocks of finished sequences for prompts that share them"
    )
    enable_partial_reuse: bool = Field(
        default=True, description="reuse the matching start of a block, not only whole blocks"
    )
    host_cache_size: int = Field(
        default=0, ge=0, description="bytes of host memory for blocks that the GPU has no room for"
    )
    dtype: str = Field(default="auto", description="auto: the checkpoint's; fp8 halves the cache")
    # 0 there. Workers tell frontends what they cache, for prompts to go where their start is.
    event_buffer_max_size: int = Field(
        default=16_384, ge=0, description="events kept for WatchKvEvents between two reads; 0: none"
    )

    @field_validator("tokens_per_block")
    @classmethod
    def _power_of_two(cls, tokens: int) -> int:
        if tokens & (tokens - 1):
            raise ValueError(f"{tokens} is not a power of two")
        return tokens


class SchedulerSettings(BaseModel):
    """Who runs when the KV cache is short (SchedulerConfig)."""

    model_config = _GROUP

    capacity_scheduler_policy: Literal["GUARANTEED_NO_EVICT", "MAX_UTILIZATION"] = Field(
        default="GUARANTEED_NO_EVICT",
        description="begin a sequence only if its whole length fits, or pause some when it doesn't",
    )
    context_chunking_policy: Literal["FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"] | None = Field(
        default=None, description="whose prompt is prefilled first, where they come in chunks"
    )


class CudaGraphSettings(BaseModel):
    """CUDA graphs of decoding steps (CudaGraphConfig)."""

    model_config = _GROUP

    enabled: bool = Field(default=True, description="false passes cuda_graph_config=None")
    batch_sizes: list[int] | None = Field(default=None, description="batch sizes to capture")
    max_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="largest batch to capture; default: --tensorrt-llm.max-batch-size",
    )
    # False there: batches between two captured sizes then run without a graph.
    enable_padding: bool = Field(
        default=True, description="run a batch in the next larger graph rather than in none"
    )


class SpeculativeSettings(BaseModel):
    """Speculative decoding (speculative_config); off without a decoding_type."""

    model_config = _GROUP

    decoding_type: Literal["DraftTarget", "Eagle", "MTP", "NGram"] | None = Field(
        default=None, description="who drafts; Eagle is EAGLE-3 on this backend"
    )
    max_draft_len: int | None = Field(default=None, ge=1, description="tokens drafted for a step")
    speculative_model: Path | None = Field(
        default=None, description="folder of the draft model (DraftTarget, Eagle)"
    )
    eagle3_one_model: bool | None = Field(
        default=None, description="draft within the model's own graph (Eagle)"
    )
    num_nextn_predict_layers: int | None = Field(
        default=None, ge=1, description="prediction layers to draft with (MTP)"
    )
    max_matching_ngram_size: int | None = Field(
        default=None, ge=1, description="longest run of tokens to look up (NGram)"
    )
    arg: dict[str, Any] = Field(
        default_factory=dict,
        description="KEY=VALUE of any other field of the kind, the value in JSON; repeatable",
    )

    @field_validator("arg")
    @classmethod
    def _from_json(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        return values_of(arguments)

    @model_validator(mode="after")
    def _needs(self) -> SpeculativeSettings:
        kind = self.decoding_type
        if kind in ("DraftTarget", "Eagle") and self.speculative_model is None:
            raise ValueError(f"{kind} needs speculative_model")
        if kind == "MTP" and self.num_nextn_predict_layers is None:
            raise ValueError("MTP needs num_nextn_predict_layers")
        if kind in ("DraftTarget", "Eagle", "NGram") and self.max_draft_len is None:
            raise ValueError(f"{kind} needs max_draft_len")
        return self


class CacheTransceiverSettings(BaseModel):
    """How KV caches go from worker to worker (CacheTransceiverConfig); with --phases alone."""

    model_config = _GROUP

    backend: Literal["DEFAULT", "UCX", "NIXL", "MOONCAKE", "MPI"] = Field(
        default="DEFAULT", description="what moves them; DEFAULT leaves it to TensorRT-LLM"
    )
    max_tokens_in_buffer: int | None = Field(
        default=None, ge=1, description="tokens that a transfer's buffer holds: the longest prompt"
    )
    kv_transfer_timeout_ms: int | None = Field(
        default=None, ge=1, description="time in milliseconds after which a transfer is given up"
    )


class LoraSettings(BaseModel):
    """What LoRA adapters may take (lora_config)."""

    model_config = _GROUP

    enabled: bool = Field(
        default=False,
        description="make room for adapters that are loaded while the worker serves; implied by "
        "--tensorrt-llm.lora",
    )
    max_lora_rank: int = Field(default=64, ge=1, description="highest rank of an adapter")
    max_loras: int = Field(default=4, ge=1, description="adapters on the GPU at once")
    max_cpu_loras: int | None = Field(
        default=None, ge=1, description="adapters in host memory; default: all that --lora names"
    )
    lora_target_modules: list[str] = Field(
        default_factory=list, description="modules that adapters change; default: as the first says"
    )


class TensorRtLlmSettings(BaseModel):
    """The TensorRT-LLM engine (tensorrt_llm.LLM, PyTorch backend)."""

    model_config = _GROUP

    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs that share each layer")
    pipeline_parallel_size: int = Field(
        default=1, ge=1, description="groups of layers, each on GPUs of its own"
    )
    moe_expert_parallel_size: int | None = Field(
        default=None, ge=1, description="groups of GPUs that hold whole experts of an MoE model"
    )
    moe_tensor_parallel_size: int | None = Field(
        default=None, ge=1, description="GPUs that share each expert of an MoE model"
    )
    gpus_per_node: int | None = Field(
        default=None, ge=1, description="GPUs of each node; default: as many as this one has"
    )
    dtype: str = Field(default="auto", description="type of weights and activations")
    kv_cache_config: KvCacheSettings = Field(default_factory=KvCacheSettings)
    scheduler_config: SchedulerSettings = Field(default_factory=SchedulerSettings)
    # False there: prompts longer than max_num_tokens are refused, and long ones hold up decoding.
    enable_chunked_prefill: bool = Field(
        default=True, description="prefill long prompts over several steps"
    )
    # 2048 there: buffers grow with it, and what waits in the engine has no priority.
    max_batch_size: int = Field(default=256, ge=1, description="sequences that run at once")
    max_num_tokens: int = Field(default=8192, ge=1, description="most tokens of one step")
    max_seq_len: int | None = Field(
        default=None,
        ge=2,
        description="most tokens of prompt and output together; default: --context-tokens, or as "
        "the model says",
    )
    cuda_graph_config: CudaGraphSettings = Field(default_factory=CudaGraphSettings)
    disable_overlap_scheduler: bool | None = Field(
        default=None,
        description="do not prepare a step while the last still computes; default: only where "
        "speculative decoding needs it",
    )
    stream_interval: int = Field(
        default=1, ge=1, description="steps that a message of new tokens covers"
    )
    # auto there, which is TorchSampler: it heeds neither penalties nor min_p nor seeds.
    sampler_type: Literal["TRTLLMSampler", "TorchSampler"] | None = Field(
        default=None,
        description="default: TRTLLMSampler, or TorchSampler with speculative decoding",
    )
    orchestrator_type: Literal["rpc", "ray"] | None = Field(
        default=None, description="who runs the GPUs' processes; default: MPI"
    )
    guided_decoding_backend: Literal["xgrammar", "llguidance"] | None = Field(
        default=None, description="compiler of guides; loads the model's tokenizer; default: none"
    )
    speculative_config: SpeculativeSettings = Field(default_factory=SpeculativeSettings)
    cache_transceiver_config: CacheTransceiverSettings = Field(
        default_factory=CacheTransceiverSettings
    )
    lora: LoraAdapters = Field(
        default_factory=dict,
        description="NAME=PATH of a LoRA adapter that requests may name; repeatable",
    )
    lora_config: LoraSettings = Field(default_factory=LoraSettings)
    kv_retention: bool = Field(
        default=False,
        description="keep the cached prompts of requests by their priority: those of higher "
        "priority are evicted later",
    )
    warm_up_requests: int = Field(
        default=2, ge=0, le=64, description="requests that are run before the worker is ready"
    )
    arg: dict[str, Any] = Field(
        default_factory=dict,
        description="KEY=VALUE of any other field of tensorrt_llm.LLM, GROUP.KEY for one of a "
        "group, the value in JSON; repeatable",
    )

    @field_validator("arg")
    @classmethod
    def _from_json(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        return values_of(arguments)

    @property
    def takes_lora(self) -> bool:
        """Whether there is room for LoRA adapters."""
        return bool(self.lora) or self.lora_config.enabled


def values_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns KEY=VALUE pairs with each value read as JSON; what is no JSON is a plain string."""
    return {name: _value(text) for name, text in arguments.items()}


def _value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
