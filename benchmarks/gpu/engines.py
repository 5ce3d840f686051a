"""The engines of a run: what each is told, and their starts side by side in the background."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from tokenwire_worker.engines.vllm.settings import VllmSettings

from benchmarks.gpu import demo_splits, models
from benchmarks.gpu.processes import ROOT, START_S, Direct, Pair, Services

GB = 10**9

DRY_VOCABULARY_SIZE = 4096
"""Of a tokenizer that is built in no time."""

SERVED = {
    "skip_tokenizer_init": True,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "enable_prefix_caching": True,
}
"""Arguments of every engine that a load runs against."""

# Engines start side by side on one GPU. So each gets its KV cache in bytes: a share of the GPU's
# memory would be counted while others take theirs. One token of the 8B shape takes 131,072 bytes.
LITTLE = 0.02
"""A share that vLLM finds free whatever else has begun; with a cache in bytes it says no more."""

LARGE = {**SERVED, "load_format": "dummy", "max_model_len": 33_000}
REAL = {
    "max_model_len": 4096,
    "max_num_seqs": 64,
    # Log probabilities of prompts take 49,152 floats for each token of a step.
    "max_num_batched_tokens": 2048,
    "gpu_memory_utilization": LITTLE,
    "kv_cache_memory_bytes": GB // 2,
}
DEMO = {"gpu_memory_utilization": LITTLE, "kv_cache_memory_bytes": 2 * GB, "max_model_len": 4096}


WITHOUT_MULTICAST = {
    "NCCL_NVLS_ENABLE": "0",
    "NVSHMEM_DISABLE_NVLS": "1",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
    "VLLM_USE_NCCL_SYMM_MEM": "0",
}
"""NVLink multicast is off in every engine: where virtual machines share a host's GPUs, a program
that uses it can put all of them out of service. NCCL, NVSHMEM, PyTorch and vLLM read these."""


@dataclass(frozen=True)
class Variant:
    """One engine: which model, and vLLM's arguments."""

    model: str
    arguments: Mapping[str, Any]
    direct: bool = False
    """AsyncLLM alone in a process, instead of a worker and a frontend."""
    dry: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the simulated engine that stands for it in a dry run."""
    start_s: float = START_S
    """Bound of its start."""
    gpus: str | None = None
    """GPUs that it may use, as CUDA_VISIBLE_DEVICES names them; None: all."""
    phases: str = "any"
    """What the worker is for."""


def large(cache_gb: float, **changes: Any) -> dict[str, Any]:
    """Returns arguments of the 8B shape with random weights and a KV cache of a size."""
    return {
        **LARGE,
        "gpu_memory_utilization": LITTLE,
        "kv_cache_memory_bytes": int(cache_gb * GB),
        **changes,
    }


VARIANTS = {
    # 256 requests of 640 tokens take 21.5 GB.
    "direct": Variant("8b", large(22), direct=True),
    "bf16": Variant("8b", large(22)),
    "fp8": Variant("8b", large(12, quantization="fp8"), dry={"step_ms": 4}),
    "bf16-wide": Variant("8b", large(6.5, max_cudagraph_capture_size=1024)),
    "fp8-wide": Variant(
        "8b", large(6.5, quantization="fp8", max_cudagraph_capture_size=1024), dry={"step_ms": 4}
    ),
    # 64 requests of 704 tokens take 5.9 GB.
    "eager": Variant("8b", large(6.5, enforce_eager=True), dry={"step_ms": 12}),
    # Without chunks a step has room for the longest prompt.
    "whole-prompts": Variant(
        "8b",
        large(9, enable_chunked_prefill=False, max_num_batched_tokens=33_000),
        dry={"step_tokens": 33_000},
    ),
    # 13 requests of 704 tokens.
    "small-cache": Variant("8b", large(1.2, max_model_len=2048), dry={"kv_blocks": 600}),
    "real-float32": Variant("real", {**REAL, "enforce_eager": True, "dtype": "float32"}),
    "real": Variant("real", REAL),
    "real-drafts": Variant(
        "real",
        {
            **REAL,
            "speculative_config": {
                "method": "ngram",
                "num_speculative_tokens": 4,
                "prompt_lookup_max": 4,
                "prompt_lookup_min": 2,
            },
        },
        dry={"step_ms": 4},
    ),
    "demo": Variant("demo", {**DEMO, "enforce_eager": True, "dtype": "float32"}),
    "wire": Variant("demo", {**SERVED, **DEMO}),
    "wire-direct": Variant("demo", {**SERVED, **DEMO}, direct=True),
}


class Models:
    """The model folders of a run, by name."""

    def __init__(self, folder: Path, demo: Path, gguf: Path | None, *, dry: bool) -> None:
        """Makes none yet; `gguf` is the file that the real one is made of."""
        size = DRY_VOCABULARY_SIZE if dry else models.VOCABULARY_SIZE
        self.vocabulary_size = size
        """Of the shapes with random weights."""
        self._folder, self._gguf = folder, gguf
        self._makers: Mapping[str, Callable[[Path], Path]] = {
            "demo": lambda _: demo,
            "demo-heads": partial(demo_splits.with_heads, demo),
            "demo-moe": partial(demo_splits.with_experts, demo),
            "8b": lambda out: models.write(out, models.LLAMA_8B, size),
            "moe": lambda out: models.write(out, models.MIXTURE_15B, size),
            "real": self._converted,
        }
        self._made: dict[str, Path] = {}
        self._locks = {name: threading.Lock() for name in self._makers}

    def __getitem__(self, name: str) -> Path:
        """Returns a model's folder, which it makes once; of other names, where one is to be."""
        if name not in self._makers:
            return self._folder / name
        with self._locks[name]:
            if name not in self._made:
                self._made[name] = self._makers[name](self._folder / name)
            return self._made[name]

    def _converted(self, out: Path) -> Path:
        if out.exists():
            return out
        if self._gguf is None:
            raise RuntimeError("--gguf is required: the file that the real model is made of")
        command = [sys.executable, "-m", "benchmarks.gpu.real_model", str(self._gguf), str(out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self._gguf} could not be converted:\n{done.stderr[-2000:]}")
        return out


class Engines:
    """Starts engines in the background, and has each by its name once it serves."""

    def __init__(
        self,
        services: Services,
        folders: Models,
        variants: Mapping[str, Variant],
        *,
        dry: bool,
        eager: bool,
    ) -> None:
        self._services, self._models, self._variants = services, folders, dict(variants)
        self._dry, self._eager = dry, eager
        self._started: dict[str, Future[Pair | Direct]] = {}
        self._pool = ThreadPoolExecutor(max_workers=24)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, names: Iterable[str], **more: Variant) -> None:
        """Begins to start those that are not there; `more` are variants beside those of the run."""
        self._variants |= more
        for name in [*names, *more]:
            if name not in self._started:
                self._started[name] = self._pool.submit(self._start, name, self._variants[name])

    def wait(self) -> None:
        """Waits until every start has come to its end, whatever that is."""
        wait(self._started.values())

    def keep(self, names: Iterable[str]) -> None:
        """Ends all others."""
        self.end(self._started.keys() - set(names))

    def end(self, names: Iterable[str]) -> None:
        """Ends these, once they have started."""
        futures = [self._started.pop(name) for name in names]
        list(self._pool.map(_stop, futures))

    def pair(self, name: str) -> Pair:
        """Waits for a worker and its frontend; raises what their start raised."""
        found = self._started[name].result()
        assert isinstance(found, Pair)
        return found

    def direct(self, name: str) -> Direct:
        """Waits for a direct arm; raises what its start raised."""
        found = self._started[name].result()
        assert isinstance(found, Direct)
        return found

    def _start(self, name: str, variant: Variant) -> Pair | Direct:
        folder = self._models[variant.model]
        if self._eager:
            variant = replace(variant, arguments={**variant.arguments, "enforce_eager": True})
        if variant.direct:
            arguments = {"dry": True} if self._dry else {"model": str(folder), **variant.arguments}
            return self._services.direct(name, arguments)
        engine = _simulated(variant) if self._dry else vllm_options(variant)
        options = ["--model", str(folder), "--max-waiting-requests", "2048", *engine]
        environment = dict(WITHOUT_MULTICAST)
        if variant.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = variant.gpus
        options += ["--phases", variant.phases]
        return self._services.pair(name, options, environment, variant.start_s)


def _stop(started: Future[Pair | Direct]) -> None:
    if started.exception() is None:
        started.result().stop()


def vllm_options(variant: Variant) -> list[str]:
    """Returns the worker's options that give vLLM the arguments."""
    options = ["--engine", "vllm"]
    for name, value in variant.arguments.items():
        setting = f"vllm.{name.replace('_', '-')}"
        if name not in VllmSettings.model_fields:
            options += ["--vllm.arg", f"{name}={json.dumps(value)}"]
        elif isinstance(value, bool):
            options.append(f"--{setting}" if value else f"--no-{setting}")
        else:
            options += [
                f"--{setting}",
                json.dumps(value) if isinstance(value, dict) else str(value),
            ]
    return options


def _simulated(variant: Variant) -> list[str]:
    options = ["--engine", "simulated", "--model-name", variant.model]
    for name, value in variant.dry.items():
        options += [f"--simulated.{name.replace('_', '-')}", str(value)]
    return options
