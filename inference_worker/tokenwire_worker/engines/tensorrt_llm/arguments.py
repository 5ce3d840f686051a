"""The settings as arguments of tensorrt_llm.LLM, each held to the recorded surface."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.tensorrt_llm.settings import (
    CudaGraphSettings,
    LoraSettings,
    SpeculativeSettings,
    TensorRtLlmSettings,
)
from tokenwire_worker.engines.tensorrt_llm.surface import faults, recorded

FLAG = "--tensorrt-llm"

_BY_THE_WORKER = "the worker sets it itself"
_IDS_ONLY = "token ids are all that leaves this engine"

RESERVED = {
    "model": _BY_THE_WORKER,
    "backend": _BY_THE_WORKER,
    "mpi_session": _BY_THE_WORKER,
    "skip_tokenizer_init": "it follows from --tensorrt-llm.guided-decoding-backend",
    "return_perf_metrics": _BY_THE_WORKER,
    "enable_iter_perf_stats": _BY_THE_WORKER,
    "enable_lora": "it follows from --tensorrt-llm.lora and lora-config.enabled",
    "num_postprocess_workers": _IDS_ONLY,
    "postprocess_tokenizer_dir": _IDS_ONLY,
    "reasoning_parser": _IDS_ONLY,
    "max_beam_width": "beam search is not served",
    "otlp_traces_endpoint": "its tracer would take the place of the worker's, whose spans have the "
    "engine's timings in them",
    "quant_config": "quantisation comes from the checkpoint on this backend",
    "build_config": "the TensorRT backend's alone",
}
"""Fields that cannot be passed through, and why."""

_CLASSES = {
    "kv_cache_config": "KvCacheConfig",
    "scheduler_config": "SchedulerConfig",
    "cuda_graph_config": "CudaGraphConfig",
    "lora_config": "LoraConfig",
    "cache_transceiver_config": "CacheTransceiverConfig",
}
"""Groups of which one field may be passed through, and their classes."""

_OWN_ONLY = {"arg", "lora", "kv_retention", "warm_up_requests"}
"""Settings that are no argument of tensorrt_llm.LLM."""

SPECULATIVE_CLASSES = {
    "DraftTarget": "DraftTargetDecodingConfig",
    "Eagle": "EagleDecodingConfig",
    "MTP": "MTPDecodingConfig",
    "NGram": "NGramDecodingConfig",
}


def sampler(own: TensorRtLlmSettings) -> str:
    """Returns the sampler that runs."""
    if own.sampler_type is not None:
        return own.sampler_type
    return "TorchSampler" if own.speculative_config.decoding_type else "TRTLLMSampler"


def drafts_within_the_model(speculative: SpeculativeSettings) -> bool:
    """Returns whether drafting is part of the model's own graph, the "one model" kinds."""
    if speculative.decoding_type == "Eagle":
        return speculative.eagle3_one_model is not False
    return speculative.decoding_type == "MTP"


def constructor_arguments(
    own: TensorRtLlmSettings, model: str, context_tokens: int, phases: str | None = None
) -> dict[str, Any]:
    """Returns the arguments of tensorrt_llm.LLM, but for speculative_config, in plain values.

    Args:
        own: the settings.
        model: folder of the checkpoint.
        context_tokens: most tokens of prompt and output together.
        phases: what the worker is for, where it hands over KV caches or fetches them.

    Raises:
        EngineError: settings contradict each other or the recorded surface.
    """
    _refuse(_conflicts(own))
    arguments: dict[str, Any] = {
        "model": model,
        # A tokenizer is of use to a guide's compiler alone, and takes seconds to load.
        "skip_tokenizer_init": own.guided_decoding_backend is None,
        "tensor_parallel_size": own.tensor_parallel_size,
        "pipeline_parallel_size": own.pipeline_parallel_size,
        "dtype": own.dtype,
        "kv_cache_config": own.kv_cache_config.model_dump(exclude_none=True),
        "scheduler_config": own.scheduler_config.model_dump(exclude_none=True),
        "enable_chunked_prefill": own.enable_chunked_prefill,
        "max_batch_size": own.max_batch_size,
        "max_num_tokens": own.max_num_tokens,
        "max_seq_len": context_tokens,
        "cuda_graph_config": _cuda_graphs(own.cuda_graph_config, own),
        "disable_overlap_scheduler": _without_overlap(own, phases),
        "stream_interval": own.stream_interval,
        "sampler_type": sampler(own),
        "return_perf_metrics": True,
        "enable_iter_perf_stats": True,
        **_given(
            own,
            "moe_expert_parallel_size",
            "moe_tensor_parallel_size",
            "gpus_per_node",
            "orchestrator_type",
            "guided_decoding_backend",
        ),
    }
    if own.takes_lora:
        arguments["lora_config"] = _lora(own.lora_config, len(own.lora))
    if phases is not None:
        transceiver = own.cache_transceiver_config.model_dump(exclude_none=True)
        arguments["cache_transceiver_config"] = transceiver
    _refuse(_pass_through(own, arguments))
    _refuse((f"{FLAG}.arg {path}", fault) for path, fault in faults(recorded(), "LLM", arguments))
    return arguments


def speculative_arguments(speculative: SpeculativeSettings) -> tuple[str, dict[str, Any]] | None:
    """Returns the class of speculative_config and its arguments, or None where it is off.

    Raises:
        EngineError: a field is not one of the kind's.
    """
    if speculative.decoding_type is None:
        return None
    name = SPECULATIVE_CLASSES[speculative.decoding_type]
    arguments = _given(
        speculative,
        "max_draft_len",
        "eagle3_one_model",
        "num_nextn_predict_layers",
        "max_matching_ngram_size",
    )
    if speculative.speculative_model is not None:
        arguments["speculative_model"] = str(speculative.speculative_model.expanduser())
    if drafts_within_the_model(speculative):
        # Without it these kinds choose the likeliest token, whatever the request asks for.
        arguments["allow_advanced_sampling"] = True
    arguments |= speculative.arg
    _refuse(
        (f"{FLAG}.speculative-config {path}", fault)
        for path, fault in faults(recorded(), name, arguments)
    )
    return name, arguments


def _conflicts(own: TensorRtLlmSettings) -> Iterator[tuple[str, str]]:
    speculative = own.speculative_config
    kind = speculative.decoding_type
    if kind and own.sampler_type == "TRTLLMSampler":
        yield f"{FLAG}.sampler-type", "TRTLLMSampler does no speculative decoding"
    if kind in ("MTP", "Eagle") and own.pipeline_parallel_size > 1:
        yield f"{FLAG}.pipeline-parallel-size", f"{kind} drafting does not go with it"
    if kind and not drafts_within_the_model(speculative) and own.disable_overlap_scheduler is False:
        yield (
            f"{FLAG}.disable-overlap-scheduler",
            f"{kind} drafting between steps needs the overlap scheduler disabled",
        )
    if own.kv_retention and not own.kv_cache_config.enable_block_reuse:
        yield f"{FLAG}.kv-retention", "needs kv-cache-config.enable-block-reuse"
    yield from _experts_that_do_not_divide(own)
    for name, path in own.lora.items():
        if not path.expanduser().is_dir():
            yield f"{FLAG}.lora {name}", f"{path} is not a folder"


def _experts_that_do_not_divide(own: TensorRtLlmSettings) -> Iterator[tuple[str, str]]:
    """Both sizes, and that of clusters, make up the GPUs of a layer; what is not given follows."""
    names = ("moe_expert_parallel_size", "moe_tensor_parallel_size")
    given = _given(own, *names)
    if not given or "moe_cluster_parallel_size" in own.arg:
        return
    product, gpus = prod(given.values()), own.tensor_parallel_size
    if gpus % product or (len(given) == len(names) and product != gpus):
        sizes = " x ".join(f"{name} {size}" for name, size in given.items())
        verb = "is not" if len(given) == len(names) else "does not divide"
        yield _flag(next(iter(given))), f"{sizes} {verb} tensor_parallel_size {gpus}"


def _cuda_graphs(graphs: CudaGraphSettings, own: TensorRtLlmSettings) -> dict[str, Any] | None:
    if not graphs.enabled or own.takes_lora:  # LoRA does not go with CUDA graphs in 1.2
        return None
    sizes: dict[str, Any] = {"enable_padding": graphs.enable_padding}
    if graphs.batch_sizes:
        return sizes | {
            "batch_sizes": graphs.batch_sizes,
            "max_batch_size": max(graphs.batch_sizes),
        }
    return sizes | {"max_batch_size": graphs.max_batch_size or own.max_batch_size}


def _without_overlap(own: TensorRtLlmSettings, phases: str | None) -> bool:
    if own.disable_overlap_scheduler is not None:
        return own.disable_overlap_scheduler
    if phases == "prefill":  # requests that end with their prompt do not go with it in 1.2
        return True
    speculative = own.speculative_config
    return bool(speculative.decoding_type) and not drafts_within_the_model(speculative)


def _lora(lora: LoraSettings, adapters: int) -> dict[str, Any]:
    return {
        "max_lora_rank": lora.max_lora_rank,
        "max_loras": lora.max_loras,
        "max_cpu_loras": lora.max_cpu_loras or max(adapters, lora.max_loras),
        "lora_target_modules": lora.lora_target_modules,
    }


def _given(settings: Any, *names: str) -> dict[str, Any]:
    values = {name: getattr(settings, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _pass_through(own: TensorRtLlmSettings, arguments: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Adds what is passed through to the arguments; yields what cannot be."""
    settings = set(TensorRtLlmSettings.model_fields) - _OWN_ONLY
    for path, value in own.arg.items():
        group, _, field = path.rpartition(".")
        place = f"{FLAG}.arg {path}"
        if path in RESERVED:
            yield place, RESERVED[path]
        elif not group and path in settings | set(_CLASSES):
            yield place, f"has a setting of its own, {_flag(path)}"
        elif group and group not in _CLASSES:
            yield place, f"no group: those are {', '.join(_CLASSES)}"
        elif group and field in type(getattr(own, group)).model_fields:
            yield place, f"has a setting of its own, {_flag(path)}"
        elif group and not isinstance(arguments.get(group), dict):
            yield place, f"{group} is off"
        elif group:
            arguments[group][field] = value
        else:
            arguments[path] = value


def _flag(path: str) -> str:
    return f"{FLAG}.{path.replace('_', '-')}"


def _refuse(found: Iterator[tuple[str, str]]) -> None:
    lines = [f"{place}: {fault}" for place, fault in found]
    if lines:
        raise EngineError("; ".join(lines))
