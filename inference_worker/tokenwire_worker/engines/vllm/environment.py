"""What vLLM is told by environment variables, which it reads when it is imported or spawned."""

from __future__ import annotations

import importlib.util
import os


def prepare() -> None:
    """Sets the variables that the user has not set."""
    chosen = {
        # A serving process tells nobody of itself and downloads nothing: models are folders.
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        # The worker has threads by then, and forking those is not safe.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        # The worker's own log is JSON lines on stderr; vLLM's is neither and says much.
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        # UCX reads another process's GPU memory by CUDA IPC where it sees NVLink, and else over
        # TCP: without NVLink that is slower than by PCIe, or within one GPU.
        "UCX_CUDA_IPC_ENABLE_GET_ZCOPY": "on",
    }
    if importlib.util.find_spec("flashinfer") is None:
        # vLLM asks for FlashInfer's sampler even where the package is missing.
        chosen["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
