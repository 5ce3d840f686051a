"""TensorRT-LLM as an engine module: imported only when the engine is chosen."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
from tokenwire_service.signals import FROM_TERMINAL

from tokenwire_worker.engines import EngineError, EngineStartError
from tokenwire_worker.engines.tensorrt_llm import arguments
from tokenwire_worker.engines.tensorrt_llm.installed import find
from tokenwire_worker.engines.tensorrt_llm.limits import engine_info, within_cache
from tokenwire_worker.engines.tensorrt_llm.surface import recorded
from tokenwire_worker.model_files import read_limits

# The package prints its version to standard output when it is imported.
with contextlib.redirect_stdout(sys.stderr):
    import tensorrt_llm

from tokenwire_worker.engines.guides.checker import compiler_checker
from tokenwire_worker.engines.tensorrt_llm.engine import TensorRtLlmEngine
from tokenwire_worker.engines.tensorrt_llm.lora import Adapters
from tokenwire_worker.engines.tensorrt_llm.sampling import Fixed
from tokenwire_worker.engines.tensorrt_llm.warm_up import warm_up
from tokenwire_worker.engines.text import told

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

log = structlog.get_logger()


def check_model(settings: WorkerSettings) -> None:
    """Raises EngineError where the model or the settings can't be right; quick."""
    path = settings.model_path
    if not (path / "config.json").is_file():
        what = "has no config.json" if path.is_dir() else "is not a folder"
        raise EngineError(
            f"--model {settings.model}: {path} {what}; the tensorrt_llm engine loads a checkpoint "
            "in Hugging Face's form"
        )
    arguments.constructor_arguments(settings.tensorrt_llm, str(path), 2, _phases(settings))
    arguments.speculative_arguments(settings.tensorrt_llm.speculative_config)


def build(settings: WorkerSettings) -> TensorRtLlmEngine:
    """Loads the model and warms it up, for as long as that takes.

    Raises:
        EngineError: TensorRT-LLM refuses the model or a setting.
        EngineStartError: it could not be started for another reason, such as a lack of memory.
        ModelError: the model's config.json lacks what is needed.
    """
    own = settings.tensorrt_llm
    limits = read_limits(settings.text_folder, settings.context_tokens)
    if own.max_seq_len is not None:
        limits = replace(limits, context_tokens=min(limits.context_tokens, own.max_seq_len))
    installed, known = tensorrt_llm.__version__, recorded()["version"]
    if installed.split(".")[:2] != known.split(".")[:2]:
        log.warning("engine_version_unknown", installed=installed, adapter_knows=known)
    llm = _load(settings, limits.context_tokens)
    fixed = Fixed(
        eos_token_ids=limits.eos_token_ids,
        pad_id=limits.eos_token_ids[0] if limits.eos_token_ids else 0,
        lora=Adapters(own.lora.items()),
        guide_backend=own.guided_decoding_backend or "",
        vocabulary_size=limits.vocabulary_size,
        kv_retention=own.kv_retention,
    )
    engine = TensorRtLlmEngine(llm, fixed)
    try:
        engine.run(warm_up(llm, own.warm_up_requests, limits, engine.meter.take))
    except Exception as error:
        engine.close()
        raise EngineStartError(f"TensorRT-LLM failed in warm-up: {told(error)}") from error
    offered = engine_info(own, limits, installed, transfers=settings.transfers)
    engine.info = within_cache(offered, engine.meter)
    if own.guided_decoding_backend is not None:
        engine.guides = compiler_checker(
            settings.model_path, limits.vocabulary_size, own.guided_decoding_backend
        )
    return engine


def _phases(settings: WorkerSettings) -> str | None:
    return settings.phases if settings.transfers else None


def _load(settings: WorkerSettings, context_tokens: int) -> Any:
    own = settings.tensorrt_llm
    path = str(settings.model_path)
    given = arguments.constructor_arguments(own, path, context_tokens, _phases(settings))
    speculative = arguments.speculative_arguments(own.speculative_config)
    try:
        if speculative is not None:
            name, fields = speculative
            given["speculative_config"] = find(f"tensorrt_llm.llmapi:{name}")(**fields)
        with _without_interrupts():
            return tensorrt_llm.LLM(**given)
    except (ValueError, TypeError) as error:  # pydantic's are ValueErrors
        raise EngineError(f"TensorRT-LLM refuses a setting or the model: {error}") from error
    except Exception as error:
        raise EngineStartError(f"TensorRT-LLM did not start: {told(error)}") from error


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Has the processes that are spawned meanwhile inherit a blocked SIGINT and SIGHUP.

    Ctrl-C reaches a terminal's whole group of processes; it is to drain the worker, and not to end
    its engine.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
