"""Classes with the fields of the recorded surface, as strict as the real ones.

Configurations are pydantic models that forbid what they do not know; SamplingParams and its like
are dataclasses, whose names are checked and whose types are not.
"""

from __future__ import annotations

import dataclasses
import os
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from tokenwire_worker.engines.tensorrt_llm.surface import recorded

SURFACE = recorded()


class _Names(dict):
    """Names of types: what is not recorded is anything."""

    def __missing__(self, name: str) -> Any:
        return Any


_NAMES = _Names(
    {**vars(__import__("builtins")), "Literal": Literal, "Path": Path, "BaseModel": BaseModel}
)


def _enum(name: str, members: list[str]) -> type[Enum]:
    return Enum(name, [(member, member) for member in members], type=str)


CapacitySchedulerPolicy, ContextChunkingPolicy = (
    _enum(name, SURFACE["enums"][name]["members"])
    for name in ("CapacitySchedulerPolicy", "ContextChunkingPolicy")
)
LoadFormat = Enum("LoadFormat", ["AUTO", "DUMMY", "VISION_ONLY"], start=0)
SamplerType = _enum("SamplerType", ["auto", "TRTLLMSampler", "TorchSampler"])
_NAMES |= {
    each.__name__: each
    for each in (CapacitySchedulerPolicy, ContextChunkingPolicy, LoadFormat, SamplerType)
}


def _unrecorded(name: str) -> type[BaseModel]:
    """A class of which nothing but the name is recorded."""
    return type(name, (BaseModel,), {"model_config": ConfigDict(extra="allow")})


for _name in (
    *("PeftCacheConfig", "AttentionDpConfig", "MoeConfig", "Nvfp4GemmConfig"),
    *("TorchCompileConfig", "KvCacheConnectorConfig", "RayPlacementConfig"),
    *("RocketSparseAttentionConfig", "DeepSeekSparseAttentionConfig", "SkipSoftmaxAttentionConfig"),
    *("LookaheadDecodingConfig", "MedusaDecodingConfig", "UserProvidedDecodingConfig"),
    *("SaveHiddenStatesDecodingConfig", "AutoDecodingConfig", "TokenizerBase"),
    *("PreTrainedTokenizerBase", "DynamicBatchConfig"),
):
    _NAMES[_name] = _unrecorded(_name)


def _default(name: str, default: Any) -> Any:
    if not isinstance(default, dict):
        return default
    if "required" in default:
        return ...
    if "member" in default:
        enum, _, member = default["member"].partition(".")
        return _NAMES[enum][member]
    return Field(default_factory=_NAMES[default["factory"]])


def _model(name: str, fields_of: str | None = None, base: type = BaseModel) -> type[BaseModel]:
    fields = {
        field: (eval(type_text, {}, _NAMES), _default(field, default))
        for field, (type_text, default) in SURFACE["classes"][fields_of or name]["fields"].items()
    }
    made = create_model(name, __base__=base, **fields)
    _NAMES[name] = made
    return made


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        arbitrary_types_allowed=True,
        validate_default=False,
        protected_namespaces=(),
    )


class _KvCacheRules(_Strict):
    @model_validator(mode="after")
    def _check(self) -> Any:
        fraction = self.free_gpu_memory_fraction
        if fraction is None or not 0 <= fraction <= 1:
            raise ValueError("kv_cache_config.free_gpu_memory_fraction must be within [0, 1]")
        return self


class _CudaGraphRules(_Strict):
    @model_validator(mode="after")
    def _check(self) -> Any:
        if self.batch_sizes and self.max_batch_size not in (0, max(self.batch_sizes)):
            raise ValueError("max_batch_size must be equal to the largest of batch_sizes")
        return self


class _EagleRules(_Strict):
    @model_validator(mode="after")
    def _check(self) -> Any:
        if self.max_draft_len is None:
            raise ValueError("max_draft_len is required for Eagle")
        return self


class _ArgumentsRules(_Strict):
    @model_validator(mode="after")
    def _check(self) -> Any:
        if self.stream_interval <= 0:
            raise ValueError("stream_interval must be positive")
        return self


KvCacheConfig = _model("KvCacheConfig", base=_KvCacheRules)
SchedulerConfig = _model("SchedulerConfig", base=_Strict)
CudaGraphConfig = _model("CudaGraphConfig", base=_CudaGraphRules)
CacheTransceiverConfig = _model("CacheTransceiverConfig", base=_Strict)
LoraConfig = _model("LoraConfig", base=_Strict)
DraftTargetDecodingConfig = _model("DraftTargetDecodingConfig", base=_Strict)
EagleDecodingConfig = _model("EagleDecodingConfig", base=_EagleRules)
MTPDecodingConfig = _model("MTPDecodingConfig", base=_Strict)
NGramDecodingConfig = _model("NGramDecodingConfig", base=_Strict)
TorchLlmArgs = _model("TorchLlmArgs", "LLM", base=_ArgumentsRules)


def _dataclass(name: str, *, kw_only: bool, **members: Any) -> type:
    fields = []
    for field, (type_text, default) in SURFACE["classes"][name]["fields"].items():
        required = isinstance(default, dict)
        fields.append(
            (field, type_text, *(() if required else (dataclasses.field(default=default),)))
        )
    for private, value in members.pop("private", {}).items():
        fields.append((private, "object", dataclasses.field(default=value, init=False)))
    return dataclasses.make_dataclass(name, fields, namespace=members, slots=True, kw_only=kw_only)


def _one_form(self: Any) -> None:
    given = [self.json, self.regex, self.grammar, self.json_object or None, self.structural_tag]
    if sum(each is not None for each in given) > 1:
        raise ValueError("Only one guide can be used for a request.")


def _check_sampling(self: Any) -> None:
    if self.pad_id is None:
        self.pad_id = self.end_id
    self.best_of = self.best_of or self.n
    if self.top_p is not None and not 0 <= self.top_p <= 1:
        raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")
    if self.top_k is not None and self.top_k < 0:
        raise ValueError(f"require top_k >= 0, got top_k={self.top_k}")
    if self.temperature is not None and self.temperature < 0:
        raise ValueError(f"require temperature >= 0, got temperature={self.temperature}")
    if self.best_of < self.n:
        raise ValueError(f"best_of ({self.best_of}) cannot be less than n ({self.n})")
    allowed = os.environ.get("TLLM_ALLOW_N_GREEDY_DECODING")
    if self.best_of > 1 and _greedy(self) and not allowed:
        raise ValueError("Greedy decoding in the LLM API does not allow multiple returns.")
    if self.guided_decoding is not None:
        self.guided_decoding._validate()


def _greedy(self: Any) -> bool:
    chosen = (self.temperature, self.top_p, self.top_k)
    return chosen == (None, None, None) or self.top_k == 1 or 0 in (self.top_p, self.temperature)


def _stop_words(self: Any) -> list[list[int]]:
    if self.stop is not None:
        raise RuntimeError("SamplingParams.stop is not processed by tokenizer")
    return [[token_id] for token_id in self.stop_token_ids or ()]


GuidedDecodingParams = _dataclass("GuidedDecodingParams", kw_only=True, _validate=_one_form)
SamplingParams = _dataclass(
    "SamplingParams",
    kw_only=True,
    private={"_stream_interval": None},
    __post_init__=_check_sampling,
    greedy=property(_greedy),
    _get_stop_words=_stop_words,
)


DisaggregatedParams = _dataclass("DisaggregatedParams", kw_only=True)


def _path_exists(self: Any) -> None:
    if not Path(self.lora_path).exists():
        raise ValueError(f"lora_path ({self.lora_path}) does not exist.")


LoRARequest = _dataclass("LoRARequest", kw_only=False, __post_init__=_path_exists)


class KvCacheRetentionConfig:
    """Made of C++ in the real package, by these names and in this order."""

    @dataclasses.dataclass
    class TokenRangeRetentionConfig:
        token_start: int
        token_end: int | None
        priority: int
        duration_ms: Any = None

        def __post_init__(self) -> None:
            assert 0 <= self.priority <= 100

    def __init__(
        self,
        token_range_retention_configs: list[TokenRangeRetentionConfig],
        decode_retention_priority: int = 35,
        decode_duration_ms: Any = None,
    ) -> None:
        assert 0 <= decode_retention_priority <= 100
        self.token_range_retention_configs = token_range_retention_configs
        self.decode_retention_priority = decode_retention_priority


class RequestError(RuntimeError):
    """A request has failed, and no other."""
