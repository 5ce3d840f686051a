"""The formats that a model can be quantised to, and what loads and computes each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Format:
    """One format of weights and activations."""

    configuration: str
    """Its name among Model Optimizer's configurations (modelopt.torch.quantization)."""
    engines: tuple[str, ...]
    """Engines that load the checkpoint: those of vLLM 0.26's own list of ModelOpt formats, and of
    TensorRT-LLM 1.2's matrix for its PyTorch backend."""
    capability: tuple[int, int]
    """Least CUDA compute capability whose matrix units compute it."""
    block: int = 1
    """Weights of a row that share a scale; a row is a whole number of these."""
    blocks: tuple[int, ...] = ()
    """Other sizes that the engines load."""


FORMATS = {
    "fp8": Format("FP8_DEFAULT_CFG", ("vllm", "tensorrt_llm"), (8, 9)),
    "fp8_pc_pt": Format("FP8_PER_CHANNEL_PER_TOKEN_CFG", ("vllm", "tensorrt_llm"), (8, 9)),
    "nvfp4": Format("NVFP4_DEFAULT_CFG", ("vllm", "tensorrt_llm"), (10, 0), 16),
    "int4_awq": Format("INT4_AWQ_CFG", ("tensorrt_llm",), (8, 0), 128, (64,)),
    "int8_sq": Format("INT8_SMOOTHQUANT_CFG", (), (8, 0)),
}

KV_CACHE_FORMATS = {"fp8": "FP8_KV_CFG"}
"""Formats of the KV cache, by their names here and Model Optimizer's."""

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Modules that the engines compute as one, and so in one format."""


@dataclass(frozen=True)
class Recipe:
    """What a model is to become."""

    format: str
    """One of FORMATS."""
    kv_cache: str | None = None
    """One of KV_CACHE_FORMATS; None: no scales of a KV cache."""
    block_size: int | None = None
    """None: the format's own."""
    exclude: tuple[str, ...] = ()
    """Patterns of the names of modules that stay in 16 bits, with * for any characters."""

    @property
    def block(self) -> int:
        """Weights of a row that share a scale."""
        return self.block_size or FORMATS[self.format].block

    def excludes(self, module: str) -> bool:
        """Returns whether a module stays in 16 bits."""
        return any(fnmatchcase(module, pattern) for pattern in self.exclude)

    def fault_with(self, modules: Collection[str]) -> str | None:
        """Returns why the patterns do not fit a model that has modules of these names, if so."""
        for pattern in self.exclude:
            if not any(fnmatchcase(module, pattern) for module in modules):
                return f"--exclude: the model has no module {pattern}"
        if all(map(self.excludes, modules)):
            return "--exclude: the model has no module besides"
        for module in modules:
            layer, _, name = module.rpartition(".")
            fused = [f"{layer}.{each}" for group in FUSED if name in group for each in group]
            if len({self.excludes(each) for each in fused if each in modules}) > 1:
                return f"--exclude: all or none of {', '.join(fused)}, which engines compute as one"
        return None
