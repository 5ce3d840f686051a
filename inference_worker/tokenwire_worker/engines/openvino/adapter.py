"""OpenVINO as an engine module: imported only when the engine is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.openvino.engine import OpenVinoEngine
from tokenwire_worker.engines.openvino.pipeline import GGUF, MODEL_FILE, load
from tokenwire_worker.engines.openvino.settings import OpenVinoSettings

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings


def check_model(settings: WorkerSettings) -> None:
    """Raises EngineError where the model or a setting can't be right; quick."""
    path = settings.model_path
    if path.is_file() and path.suffix == GGUF:
        pass
    elif not (path / MODEL_FILE).is_file():
        what = f"{path} has no {MODEL_FILE}" if path.is_dir() else f"there is no folder {path}"
        raise EngineError(
            f"--model {settings.model}: {what}; the openvino engine loads OpenVINO IR or GGUF, "
            f"and this makes IR of a Hugging Face model: "
            f"optimum-cli export openvino --model {settings.model} FOLDER"
        )
    _check_settings(settings.openvino)


def build(settings: WorkerSettings) -> OpenVinoEngine:
    """Loads the model; raises EngineError or ModelError where that fails."""
    return OpenVinoEngine(load(settings))


def _check_settings(own: OpenVinoSettings) -> None:
    eviction = own.cache_eviction
    if eviction.max_tokens is not None:
        if own.prefix_caching:
            raise EngineError(
                "--openvino.cache-eviction.max-tokens goes only with --no-openvino.prefix-caching: "
                "evicted blocks found again by their prefix end the pipeline (seen in 2026.4)"
            )
        least = eviction.start_tokens + eviction.recent_tokens
        if eviction.max_tokens <= least:
            raise EngineError(
                f"--openvino.cache-eviction.max-tokens {eviction.max_tokens} is not more than "
                f"start-tokens and recent-tokens together, {least}"
            )
    if own.draft_model is not None and own.prompt_lookup_ngram:
        raise EngineError(
            "--openvino.draft-model and --openvino.prompt-lookup-ngram are two ways to draft; "
            "give one"
        )
    if own.draft_model is not None and not (own.draft_model / MODEL_FILE).is_file():
        raise EngineError(f"--openvino.draft-model {own.draft_model}: it has no {MODEL_FILE}")
    if own.lora and (own.draft_model is not None or own.prompt_lookup_ngram):
        raise EngineError("--openvino.lora does not go with a draft of either kind")
    for name, path in own.lora.items():
        if not path.is_file():
            raise EngineError(f"--openvino.lora {name}={path}: there is no such file")
