"""vLLM as an engine module: imported only when the engine is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.vllm.environment import prepare

prepare()  # vLLM reads the environment when it is imported

from tokenwire_worker.engines.vllm.engine import VllmEngine  # noqa: E402
from tokenwire_worker.gguf import header  # noqa: E402
from tokenwire_worker.model_source import is_gguf  # noqa: E402

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings


def check_model(settings: WorkerSettings) -> None:
    """Raises EngineError where the model is neither a folder with a config.json nor a GGUF file."""
    path = settings.model_path
    if is_gguf(path):
        _check_gguf(settings)
        return
    if not (path / "config.json").is_file():
        what = "has no config.json" if path.is_dir() else "is not a folder"
        raise EngineError(
            f"--model {settings.model}: {path} {what}; the vllm engine loads a folder in Hugging "
            "Face's form, a GGUF file, or a name on the Hugging Face Hub"
        )


def _check_gguf(settings: WorkerSettings) -> None:
    """Raises EngineError where the file is not whole; which architectures run is vLLM's to say."""
    try:
        header.read(settings.model_path)
    except header.GgufError as error:
        raise EngineError(f"--model {settings.model}: {error}") from error


def build(settings: WorkerSettings) -> VllmEngine:
    """Loads the model; raises EngineError or ModelError where that fails."""
    return VllmEngine(settings)
