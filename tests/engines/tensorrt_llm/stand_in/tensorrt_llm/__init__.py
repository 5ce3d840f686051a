"""A strict stand-in of TensorRT-LLM 1.2.1, made of its recorded surface.

It takes what the real package takes and refuses what it refuses, and hands results over the way it
does, with its faults; a few pseudo-random numbers stand for the model.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tensorrt_llm._classes import SURFACE, LoRARequest, SamplingParams, TorchLlmArgs
from tensorrt_llm._executor import Executor
from tensorrt_llm._results import IterationResult, RequestOutput, nothing

__version__ = SURFACE["version"]

# In one write, which no line of the service's log can come into.
sys.stdout.write(f"[TensorRT-LLM] TensorRT LLM version: {__version__}\n")


class LLM:
    """Serves one model."""

    def __init__(self, model: str | Path, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in {**TorchLlmArgs.model_fields, "_mpi_session": None, "backend": None}:
                raise ValueError(f"LLM got invalid argument: {name}")
        self.args = TorchLlmArgs(model=model, **kwargs)
        if "STAND_IN_START_ERROR" in os.environ:
            raise RuntimeError(os.environ["STAND_IN_START_ERROR"])
        config = json.loads((Path(model) / "config.json").read_text())
        if self.args.guided_decoding_backend is not None:
            assert not self.args.skip_tokenizer_init, "guided decoding needs a tokenizer"
        self.args.max_batch_size = self.args.max_batch_size or 2048
        self.args.max_seq_len = self.args.max_seq_len or config["max_position_embeddings"]
        eos = config["eos_token_id"]
        self._executor: Executor | None = Executor(
            self.args, config["vocab_size"], eos if isinstance(eos, int) else eos[0]
        )

    def generate_async(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: LoRARequest | None = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        trace_headers: Any = None,
        _postproc_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        if self._executor is None or self._executor.is_shutdown():
            raise RuntimeError("LLM is shutting down")
        if not isinstance(inputs, list) or not all(isinstance(each, int) for each in inputs):
            raise TypeError(f"The inputs must be type str or list of int, but got {type(inputs)}")
        params = SamplingParams() if sampling_params is None else sampling_params
        if not isinstance(params, SamplingParams):
            raise TypeError("The sampling_params must be type SamplingParams or None")
        if params._stream_interval is not None:
            raise AssertionError("SamplingParams are changed: each request needs its own")
        if params.end_id is None:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        if lora_request is not None and self.args.lora_config is None:
            raise ValueError("LoRA is not enabled")
        if not self.args.enable_chunked_prefill and len(inputs) > self.args.max_num_tokens:
            raise self.request_error(f"The sum of prompt length ({len(inputs)}) should not exceed")
        params._stream_interval = self.args.stream_interval
        prefills = disaggregated_params and disaggregated_params.request_type == "context_only"
        assert streaming != bool(prefills), "these tests stream"
        if disaggregated_params is not None:
            assert self.args.cache_transceiver_config is not None, "no cache transceiver"
        return self._executor.submit(
            inputs,
            params,
            {
                "lora": lora_request,
                "cache_salt": cache_salt,
                "retention": kv_cache_retention_config,
                "disaggregated": disaggregated_params,
            },
        )

    @staticmethod
    def request_error(text: str) -> Exception:
        from tensorrt_llm._classes import RequestError

        return RequestError(text)

    def get_stats_async(self, timeout: float | None = 2) -> IterationResult:
        result = self._executor.stats_result
        if result is None:
            return nothing()
        result.set_timeout(timeout)
        return result

    def get_kv_cache_events_async(self, timeout: float | None = 2) -> IterationResult:
        result = self._executor.kv_events_result
        assert result is not None, "KV Event IterationResult is not properly instantiated."
        result.set_timeout(timeout)
        return result

    def shutdown(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _check_health(self) -> bool:
        return self._executor is not None and not self._executor.is_shutdown()
