"""OpenVINO as an engine module: imported only when the engine is chosen."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tokenwire_worker import safetensors
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.openvino import conversion, gguf
from tokenwire_worker.engines.openvino.engine import OpenVinoEngine
from tokenwire_worker.engines.openvino.files import MODEL_FILE, WEIGHTS_FILE
from tokenwire_worker.engines.openvino.made import converted, reencoded
from tokenwire_worker.engines.openvino.settings import OpenVinoSettings
from tokenwire_worker.gguf import header
from tokenwire_worker.model_files import ModelError
from tokenwire_worker.model_source import GGUF, is_gguf

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

# Only the engine's process imports them, which takes a quarter of a second.
for package in ("numpy", "openvino", "openvino_genai"):
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

_ONE_DEVICE = re.compile(r"(?!AUTO|MULTI|HETERO|BATCH)[A-Z]+(\.\d+)?")


def check_model(settings: WorkerSettings) -> None:
    """Raises EngineError where the model or a setting can't be right; quick."""
    fault = _fault(settings.model_path)
    if fault is not None:
        raise EngineError(f"--model {settings.model}: {fault}")
    _check_device(settings.openvino.device)
    _check_settings(settings.openvino)


def _fault(path: Path) -> str | None:
    """Returns what is wrong with the model's files, and what to do about it."""
    if (path / MODEL_FILE).is_file():
        lacks = not (path / WEIGHTS_FILE).is_file()
        return f"{path} has {MODEL_FILE} and no {WEIGHTS_FILE}" if lacks else None
    try:
        if is_gguf(path):
            gguf.check(header.read(path))
            return None
        if path.is_dir() and safetensors.files_of(path):
            conversion.check(path)
            return None
    except (EngineError, ModelError) as error:
        return str(error)
    if path.is_file():
        what = f"it is not a {GGUF} file"
    elif path.is_dir():
        what = f"{path} has no {MODEL_FILE} and no safetensors"
    else:
        what = f"no such folder: {path}"
    return f"{what}; the openvino engine loads OpenVINO IR, GGUF and safetensors"


def build(settings: WorkerSettings) -> OpenVinoEngine:
    """Starts the engine's process and loads the model."""
    path = settings.model_path
    if is_gguf(path):
        loaded = reencoded(settings)
    elif (path / MODEL_FILE).is_file():
        loaded = path
    else:
        loaded = converted(settings)
    changes = {"model": str(loaded), "tokenizer_folder": settings.text_folder}
    return OpenVinoEngine(settings.model_copy(update=changes))


def _check_device(device: str) -> None:
    if device == "CPU" or not _ONE_DEVICE.fullmatch(device):
        return  # AUTO, HETERO:GPU,CPU and the like are OpenVINO's to judge
    import openvino as ov  # noqa: PLC0415 - see above

    present = ov.Core().available_devices
    # A device that is alone is told without its number, and is number 0.
    if not any(device in (each, f"{each}.0") or each.startswith(f"{device}.") for each in present):
        raise EngineError(
            f"--openvino.device {device}: OpenVINO finds no such device here; "
            f"it finds {', '.join(present)}"
        )


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
