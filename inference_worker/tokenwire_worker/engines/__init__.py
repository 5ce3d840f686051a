"""Engines by name. An engine's package is imported only when that engine is chosen."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from tokenwire_worker.engines.adapters import ADAPTERS

if TYPE_CHECKING:
    from tokenwire_worker.engines.port import Engine
    from tokenwire_worker.settings import WorkerSettings


class EngineError(ValueError):
    """An engine can't be built as the settings say; the message says what to do about it."""


class EngineStartError(RuntimeError):
    """An engine could not be started for a reason that may be gone next time."""


class EngineModule(Protocol):
    """What an adapter's module offers."""

    def check_model(self, settings: WorkerSettings) -> None:
        """Raises EngineError where the model can't be one for this engine; quick."""

    def build(self, settings: WorkerSettings) -> Engine:
        """Loads the model, for as long as that takes.

        Raises:
            EngineError: it can't as the settings say.
            EngineStartError: it failed for another reason.
        """


def module_of(settings: WorkerSettings) -> EngineModule:
    """Returns the module of the engine that the settings name.

    Raises:
        EngineError: the engine's package is not installed.
    """
    adapter = ADAPTERS[settings.engine]
    try:
        module: Any = importlib.import_module(adapter.module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in adapter.needs:
            raise
        raise EngineError(
            f"--engine {settings.engine} needs a package that is not installed: "
            f"{adapter.how_to_install}"
        ) from error
    engine_module: EngineModule = module
    return engine_module
