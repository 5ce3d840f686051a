"""Settings of the vLLM engine: `--vllm.*`, named as vLLM names its arguments."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tokenwire_worker.engines.lora import LoraAdapters


class VllmSettings(BaseModel):
    """The vLLM engine (vllm.v1.engine.async_llm.AsyncLLM); None leaves a setting to vLLM."""

    model_config = ConfigDict(extra="forbid")

    tensor_parallel_size: int = Field(
        default=1, ge=1, description="GPUs that each layer is split over; within one node"
    )
    pipeline_parallel_size: int = Field(
        default=1, ge=1, description="groups of layers, each on GPUs of its own"
    )
    enable_expert_parallel: bool = Field(
        default=False,
        description="give each of the GPUs of tensor_parallel_size whole experts of a "
        "mixture-of-experts model",
    )
    dtype: str = Field(default="auto", description="type of weights and activations")
    quantization: str | None = Field(
        default=None, description="method of quantisation; default: as the checkpoint says"
    )
    kv_cache_dtype: str = Field(
        default="auto", description="type of the KV cache; fp8 halves what a token takes"
    )
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="share of each GPU's memory that vLLM may take"
    )
    max_model_len: int | None = Field(
        default=None,
        ge=2,
        description="most tokens of prompt and output together; default: --context-tokens, or as "
        "the model says",
    )
    max_num_seqs: int | None = Field(
        default=None, ge=1, description="sequences that run at once; further requests wait"
    )
    max_num_batched_tokens: int | None = Field(
        default=None,
        ge=1,
        description="most tokens of one step; longer prompts are prefilled over several steps",
    )
    enable_prefix_caching: bool | None = Field(
        default=None, description="keep KV blocks for prompts that share them"
    )
    enforce_eager: bool = Field(
        default=False, description="start sooner and decode slower, without compiling CUDA graphs"
    )
    load_format: str = Field(
        default="auto", description="form of the weights; dummy: random ones, of config.json alone"
    )
    block_size: int | None = Field(default=None, ge=1, description="tokens of a KV block")
    scheduling_policy: Literal["priority", "fcfs"] = Field(
        default="priority",
        description="who is put off when the KV cache is full: lowest priority, or last come",
    )
    skip_tokenizer_init: bool = Field(
        default=False, description="do without vLLM's tokenizer, and so without guided decoding"
    )
    disable_any_whitespace: bool = Field(
        default=False, description="have guided JSON without white space between its parts"
    )
    kv_events: bool = Field(
        default=True, description="publish what happens to the KV cache (WatchKvEvents)"
    )
    speculative_config: dict[str, Any] | None = Field(
        default=None, description="speculative decoding, as vLLM's JSON object"
    )
    nixl_host: str = Field(
        default="127.0.0.1",
        description="address at which other workers ask NIXL for what they need to read this one's "
        "KV cache, with --phases or --transfer-group; whoever reaches it can read the cache",
    )
    nixl_port: int = Field(
        default=0, ge=0, le=65_535, description="port of that address; 0: any that is free"
    )
    kv_transfer_config: dict[str, Any] | None = Field(
        default=None,
        description="fields of vLLM's KVTransferConfig to change, as a JSON object",
    )
    lora: LoraAdapters = Field(
        default_factory=dict,
        description="NAME=PATH of a LoRA adapter that requests may name; repeatable",
    )
    enable_lora: bool = Field(
        default=False,
        description="make room for LoRA adapters that are loaded while the worker serves; implied "
        "by --vllm.lora",
    )
    max_loras: int | None = Field(
        default=None,
        ge=1,
        description="adapters that one batch may have; default: as many as --vllm.lora names",
    )
    max_lora_rank: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="highest rank of an adapter; default: the highest of --vllm.lora, or 16",
    )
    arg: dict[str, Any] = Field(
        default_factory=dict,
        description="KEY=VALUE of any other argument of vLLM, the value in JSON; repeatable",
    )

    @field_validator("arg")
    @classmethod
    def _from_json(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        return {name: _value(text) for name, text in arguments.items()}


def _value(text: Any) -> Any:
    """Returns the value of a KEY=VALUE pair; what is no JSON is a plain string."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
