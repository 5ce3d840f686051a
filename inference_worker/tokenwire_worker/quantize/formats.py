"""The formats that a model can be quantised to, and what loads and computes each."""

from __future__ import annotations

from dataclasses import dataclass


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
