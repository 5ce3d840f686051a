"""vLLM as an engine module: imported only when the engine is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.vllm.environment import prepare

prepare()  # vLLM reads the environment when it is imported

from tokenwire_worker.engines.vllm.engine import VllmEngine  # noqa: E402

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings


def check_model(settings: WorkerSettings) -> None:
    """Raises EngineError where the model is no folder with a config.json."""
    path = settings.model_path
    if not (path / "config.json").is_file():
        what = "has no config.json" if path.is_dir() else "is no folder"
        raise EngineError(
            f"--model {settings.model}: {path} {what}; the vllm engine loads a model in Hugging "
            "Face's form"
        )


def build(settings: WorkerSettings) -> VllmEngine:
    """Loads the model; raises EngineError or ModelError where that fails."""
    return VllmEngine(settings)
