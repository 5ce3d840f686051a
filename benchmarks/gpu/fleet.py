"""The engines of a run over several GPUs of one host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.engines import DEMO, Variant, large

WHOLE_ON = {"8b": 0, "moe": -1, "demo-heads": 0, "demo-moe": 0}
"""Models that are compared whole and split, and which GPU has the whole one: the two large ones
would not fit on one beside all the others."""

CACHES_GB = {"8b": 12, "moe": 9}
"""KV cache for 128 requests of 640 tokens, over all GPUs of an engine."""

# FlashInfer's fused all-reduce, which vLLM uses where it is installed, takes NVLink multicast by
# itself; see WITHOUT_MULTICAST in engines.py.
WITHOUT_FUSED = {"compilation_config": {"pass_config": {"fuse_allreduce_rms": False}}}

EXACT = {**DEMO, "enforce_eager": True, "dtype": "float32"}


def visible(limit: int | None) -> tuple[str, ...]:
    """Returns the GPUs that this process may use, at most so many, as CUDA_VISIBLE_DEVICES does.

    Raises:
        RuntimeError: nvidia-smi is missing or fails, or has fewer than `limit`.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(f"the GPUs can't be listed: {error}") from error
        named = ",".join(done.stdout.split())
    gpus = tuple(each.strip() for each in named.split(",") if each.strip())
    if len(gpus) < (limit or 1):
        raise RuntimeError(f"--gpus: {limit or 1} are wanted, and {len(gpus)} are visible")
    return gpus[:limit]


@dataclass(frozen=True)
class Fleet:
    """GPUs of one host, and what runs on them."""

    gpus: tuple[str, ...]
    """As CUDA_VISIBLE_DEVICES names them."""

    @property
    def workers(self) -> tuple[str, ...]:
        """The 8B shape's workers by name, one on each GPU."""
        return tuple(f"worker-{number}" for number in range(1, len(self.gpus) + 1))

    @property
    def apart(self) -> tuple[str, str]:
        """Workers of the 8B shape for prompts and for tokens by name, on the first two GPUs."""
        return "prefill", "decode"

    @property
    def counts(self) -> list[int]:
        """How many workers are measured together: powers of two, and all."""
        powers = [2**exponent for exponent in range(len(self.gpus).bit_length())]
        return sorted({*powers, len(self.gpus)})

    @property
    def split(self) -> int:
        """GPUs that one model is split over: a power of two, as the number of its heads is."""
        return 1 << (len(self.gpus).bit_length() - 1)

    def family(self, model: str) -> tuple[str, ...]:
        """The engines of one of the split models by name, the whole one first."""
        return tuple(self._family(model))

    def variants(self) -> dict[str, Variant]:
        """Every engine of a run by its name."""
        # 256 requests of 768 tokens take 26 GB, as where half of the workers are left.
        found = {
            name: Variant("8b", large(26), gpus=gpu)
            for name, gpu in zip(self.workers, self.gpus, strict=True)
        }
        for phases, gpu in zip(self.apart, self.gpus, strict=False):
            found[phases] = Variant("8b", large(26), gpus=gpu, phases=phases)
        for model in WHOLE_ON:
            found |= self._family(model)
        return found

    def _family(self, model: str) -> dict[str, Variant]:
        gpu = self.gpus[WHOLE_ON[model]]
        found = {f"{model}-one": Variant(model, _arguments(model, 1), gpus=gpu)}
        if self.split > 1:
            of_all = ",".join(self.gpus[: self.split])
            for name, split in self._splits(model).items():
                arguments = {**_arguments(model, self.split), **WITHOUT_FUSED, **split}
                dry = {"step_ms": 4}
                found[f"{model}-{name}"] = Variant(model, arguments, dry=dry, gpus=of_all)
        return found

    def _splits(self, model: str) -> Mapping[str, Mapping[str, Any]]:
        over, half = self.split, self.split // 2
        tensor = {f"tensor-{over}": {"tensor_parallel_size": over}}
        if "moe" in model:
            experts = {"tensor_parallel_size": over, "enable_expert_parallel": True}
            return {**tensor, f"experts-{over}": experts}
        both = {"tensor_parallel_size": half, "pipeline_parallel_size": 2}
        return {**tensor, f"tensor-{half}-pipeline-2" if half > 1 else "pipeline-2": both}


def _arguments(model: str, gpus: int) -> Mapping[str, Any]:
    if model in CACHES_GB:
        return large(CACHES_GB[model] / gpus)  # vLLM's argument is of each GPU
    return EXACT
