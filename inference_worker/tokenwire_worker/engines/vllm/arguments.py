"""The worker's settings as vLLM's AsyncEngineArgs."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm.config import KVEventsConfig, StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs

from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.vllm.transfers import transfer_config

if TYPE_CHECKING:
    from tokenwire_worker.engines.vllm.settings import VllmSettings
    from tokenwire_worker.settings import WorkerSettings

NAMED = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "enable_expert_parallel",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "gpu_memory_utilization",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enable_prefix_caching",
    "enforce_eager",
    "load_format",
    "block_size",
    "scheduling_policy",
    "skip_tokenizer_init",
    "speculative_config",
)
"""Settings that are vLLM's arguments of the same name; None leaves them to vLLM."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for (vllm.config.lora.MaxLoRARanks)."""

DEFAULT_LORA_RANK = 16
"""Room for adapters of which none is known yet; vLLM's own default."""


def engine_arguments(settings: WorkerSettings, kv_events_endpoint: str) -> Any:
    """Returns the AsyncEngineArgs that the settings ask for.

    Args:
        settings: the worker's.
        kv_events_endpoint: ZeroMQ endpoint that vLLM is to publish KV cache events on.

    Raises:
        EngineError: a pass-through argument is unknown or taken, a LoRA adapter is not one, or
            experts are to be shared by one GPU.
    """
    own = settings.vllm
    arguments = {name: getattr(own, name) for name in NAMED}
    if arguments["max_model_len"] is None:
        arguments["max_model_len"] = settings.context_tokens
    arguments = {name: value for name, value in arguments.items() if value is not None}
    arguments.update(_fixed(settings))
    if own.kv_events:
        arguments["kv_events_config"] = KVEventsConfig(
            enable_kv_cache_events=True, publisher="zmq", endpoint=kv_events_endpoint
        )
    if settings.transfers:
        arguments["kv_transfer_config"] = transfer_config(own, settings.phases)
    elif own.kv_transfer_config is not None:
        raise EngineError("--vllm.kv-transfer-config requires --phases or --transfer-group")
    if takes_lora(own):
        arguments.update(_lora(own))
    _check_experts(own)
    _check_passed_through(own.arg, arguments)
    try:
        return AsyncEngineArgs(**{**arguments, **own.arg})
    except (TypeError, ValueError) as error:
        raise EngineError(f"--vllm: {error}") from error


def _fixed(settings: WorkerSettings) -> dict[str, Any]:
    return {
        "model": str(settings.model_path),
        "tokenizer": str(settings.text_folder),
        # One grammar compiler for all: an engine process keeps to the first that it is asked for,
        # and vLLM's "auto" may have let a request in for another.
        "structured_outputs_config": StructuredOutputsConfig(
            backend="xgrammar", disable_any_whitespace=settings.vllm.disable_any_whitespace
        ),
        # Sampling defaults are the frontend's business.
        "generation_config": "vllm",
        # vLLM's own logs of requests and figures; the worker has its own of both.
        "enable_log_requests": False,
        "disable_log_stats": True,
        # An engine process that is told to stop finishes what it has, as the worker does.
        "shutdown_timeout": math.ceil(settings.drain_grace_s),
    }


def takes_lora(own: VllmSettings) -> bool:
    """Tells whether vLLM makes room for LoRA adapters."""
    return bool(own.lora) or own.enable_lora


def _lora(own: VllmSettings) -> dict[str, Any]:
    ranks = [_lora_rank(name, path) for name, path in own.lora.items()]
    rank = max([own.max_lora_rank or 0, *ranks]) or DEFAULT_LORA_RANK
    fitting = [each for each in LORA_RANKS if each >= rank]
    if not fitting:
        raise EngineError(f"--vllm.lora: rank {rank}; vLLM takes at most {LORA_RANKS[-1]}")
    return {
        "enable_lora": True,
        # All of them in one batch: a request never waits for its adapter to be loaded.
        "max_loras": own.max_loras or max(len(own.lora), 1),
        "max_lora_rank": fitting[0],
    }


def _lora_rank(name: str, path: Path) -> int:
    file = path.expanduser() / "adapter_config.json"
    try:
        rank = json.loads(file.read_bytes())["r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"--vllm.lora {name}: {file} does not tell the adapter's rank: {error!r}"
        ) from error
    if not isinstance(rank, int) or rank < 1:
        raise EngineError(f"--vllm.lora {name}: {file} has the rank {rank!r}")
    return rank


def _check_experts(own: VllmSettings) -> None:
    # vLLM takes the switch without a word where there is one GPU, and does nothing of it.
    several = own.tensor_parallel_size > 1 or "prefill_context_parallel_size" in own.arg
    if own.enable_expert_parallel and not several:
        raise EngineError(
            "--vllm.enable-expert-parallel: requires --vllm.tensor-parallel-size of at least 2, "
            "whose GPUs share the experts"
        )


def _check_passed_through(passed: dict[str, Any], taken: dict[str, Any]) -> None:
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in passed:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; is it {near[0]}?" if near else ""
            raise EngineError(f"--vllm.arg {name}: vLLM has no such argument{hint}")
        if name in NAMED:
            setting = name.replace("_", "-")
            raise EngineError(f"--vllm.arg {name}: has a setting of its own, --vllm.{setting}")
        if name.startswith("data_parallel"):
            raise EngineError(f"--vllm.arg {name}: a worker is one engine; start several workers")
        if name == "kv_transfer_config":
            raise EngineError(
                f"--vllm.arg {name}: has a setting of its own, --vllm.kv-transfer-config"
            )
        if name in taken or name == "kv_events_config":
            raise EngineError(f"--vllm.arg {name}: is set by the worker")
