"""Loads an OpenVINO pipeline as the settings say, and finds out what it can hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino_genai as ov_genai

from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.openvino_settings import OpenVinoSettings
from tokenwire_worker.engines.port import Ability, EngineInfo
from tokenwire_worker.model_files import ModelLimits, read_limits

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

IR_FILE = "openvino_model.xml"
"""The model itself, in a folder of OpenVINO IR."""

EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
"""Properties under which a request's greedy ids do not depend on its batch. Seen on 32 random
prompts: equal 32 of 32 times, against 21 without the last and none with the defaults."""

ABILITIES = frozenset(
    {
        Ability.LOGPROBS,
        Ability.GUIDED_JSON_SCHEMA,
        Ability.GUIDED_JSON_OBJECT,
        Ability.GUIDED_REGEX,
        Ability.GUIDED_GRAMMAR,
        Ability.GUIDED_CHOICE,
        Ability.MIN_P,
    }
)


@dataclass(frozen=True)
class Loaded:
    """A pipeline and what it serves."""

    pipeline: Any
    info: EngineInfo
    draft: dict[str, int] = field(default_factory=dict)
    """GenerationConfig values that speculative decoding needs; empty without."""


def check_model(settings: WorkerSettings) -> None:
    """Raises EngineError where the model is neither OpenVINO IR nor GGUF."""
    path = settings.model_path
    if path.is_dir() and (path / IR_FILE).is_file():
        return
    what = f"{path} is no folder" if not path.is_dir() else f"{path} has no {IR_FILE}"
    raise EngineError(
        f"--model {settings.model}: {what}; the openvino engine loads OpenVINO IR, which this "
        f"makes of a Hugging Face model: "
        f"optimum-cli export openvino --model {settings.model} FOLDER"
    )


def load(settings: WorkerSettings) -> Loaded:
    """Loads the model and runs one token, to learn how many blocks the KV cache has.

    Raises:
        EngineError: OpenVINO refuses the model or a setting.
        ModelError: the model's config.json lacks what is needed.
    """
    own = settings.openvino
    limits = read_limits(settings.text_folder, settings.context_tokens)
    try:
        pipeline = ov_genai.ContinuousBatchingPipeline(
            str(settings.model_path), _scheduler(own), own.device, _properties(own)
        )
        blocks = _count_blocks(pipeline)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO refuses --model {settings.model}: {error}") from error
    return Loaded(pipeline, _info(own, limits, blocks))


def _scheduler(own: OpenVinoSettings) -> Any:
    config = ov_genai.SchedulerConfig()
    if own.kv_blocks is not None:
        config.num_kv_blocks = own.kv_blocks
    else:
        config.cache_size = own.kv_cache_gib
    config.max_num_batched_tokens = own.max_batched_tokens
    config.max_num_seqs = own.max_sequences
    config.dynamic_split_fuse = own.split_fuse
    config.enable_prefix_caching = own.prefix_caching
    return config


def _properties(own: OpenVinoSettings) -> dict[str, Any]:
    properties: dict[str, Any] = dict(EXACT) if own.exact else {}
    if own.threads is not None:
        properties["INFERENCE_NUM_THREADS"] = own.threads
    return {**properties, **own.property}


BLOCK_TOKENS = 32
"""Tokens of a KV block on the CPU."""


def _count_blocks(pipeline: Any) -> int:
    """Returns how many blocks the KV cache has: one token holds one, and the usage is told."""
    config = ov_genai.GenerationConfig()
    config.max_new_tokens = 1
    prompt = ov.Tensor(np.array([[0]], dtype=np.int64))
    handle = pipeline.add_request(0, prompt, config)
    pipeline.step()
    handle.read()
    usage: float = pipeline.get_metrics().cache_usage
    return round(100 / usage) if usage > 0 else 0


def _info(own: OpenVinoSettings, limits: ModelLimits, blocks: int) -> EngineInfo:
    context = limits.context_tokens
    if blocks:
        # What outgrows the cache is dropped in mid-generation, so it is bounded beforehand.
        context = min(context, blocks * BLOCK_TOKENS)
    prompt = context if own.split_fuse else min(context, own.max_batched_tokens)
    return EngineInfo(
        engine="openvino",
        engine_version=ov_genai.__version__,
        context_tokens=context,
        prompt_tokens=prompt,
        vocabulary_size=limits.vocabulary_size,
        eos_token_ids=limits.eos_token_ids,
        running_sequences=own.max_sequences,
        kv_block_tokens=BLOCK_TOKENS,
        kv_blocks=blocks,
        abilities=ABILITIES,
    )
