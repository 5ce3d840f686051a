"""Settings of the OpenVINO engine: `--openvino.*`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tokenwire_worker.engines.lora import LoraAdapters


class CacheEvictionSettings(BaseModel):
    """Drops the least attended KV blocks of long sequences; sizes are multiples of a block, 32."""

    model_config = ConfigDict(extra="forbid")

    start_tokens: int = Field(
        default=32, ge=32, multiple_of=32, description="tokens kept from the start of a sequence"
    )
    recent_tokens: int = Field(
        default=128, ge=32, multiple_of=32, description="tokens kept from the end of a sequence"
    )
    max_tokens: int | None = Field(
        default=None,
        ge=96,
        multiple_of=32,
        description="most tokens kept of a sequence; setting it turns eviction on",
    )


class OpenVinoSettings(BaseModel):
    """The OpenVINO engine (openvino_genai.ContinuousBatchingPipeline)."""

    model_config = ConfigDict(extra="forbid")

    device: str = Field(default="CPU", description="OpenVINO device: CPU, GPU, GPU.1, ...")
    kv_cache_gib: int = Field(
        default=1, ge=1, description="size of the KV cache in GiB, unless kv_blocks is set"
    )
    kv_blocks: int | None = Field(
        default=None, ge=2, description="size of the KV cache in blocks (of 32 tokens on the CPU)"
    )
    max_batched_tokens: int = Field(
        default=256,
        ge=1,
        description="most tokens of one step; longer prompts are prefilled over several steps",
    )
    max_sequences: int = Field(
        default=256, ge=1, description="sequences that run at once; further requests wait"
    )
    split_fuse: bool = Field(
        default=True, description="mix parts of prompts with running generations in one step"
    )
    prefix_caching: bool = Field(
        default=True, description="keep KV blocks of finished sequences for prompts that share them"
    )
    cache_eviction: CacheEvictionSettings = Field(default_factory=CacheEvictionSettings)
    threads: int | None = Field(
        default=None, ge=1, description="threads of one step; default: one for each physical core"
    )
    exact: bool = Field(
        default=False,
        description="give each request the same ids alone and in any batch, for a third of the "
        "speed: everything is computed in float32",
    )
    guide_memory_mib: int = Field(
        default=256,
        ge=1,
        description="memory in MiB for compiled guides, after which the engine's process is "
        "replaced: the compiler keeps each for the life of the process",
    )
    replace_when_idle: bool = Field(
        default=False,
        description="replace the engine's process only when nothing runs, so that the model is "
        "never loaded twice",
    )
    property: dict[str, str] = Field(
        default_factory=dict, description="KEY=VALUE passed on to OpenVINO as it is; repeatable"
    )
    lora: LoraAdapters = Field(
        default_factory=dict,
        description="NAME=PATH of a LoRA adapter (safetensors) that requests may name; repeatable",
    )
    draft_model: Path | None = Field(
        default=None, description="folder of a small model that drafts tokens for this one to check"
    )
    draft_tokens: int = Field(
        default=4, ge=1, le=64, description="tokens drafted for each step, of either kind of draft"
    )
    prompt_lookup_ngram: int = Field(
        default=0,
        ge=0,
        le=16,
        description="draft by looking up the last n tokens in the prompt; 0: off",
    )
