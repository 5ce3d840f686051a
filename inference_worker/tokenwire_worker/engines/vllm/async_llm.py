"""Starts vLLM's AsyncLLM as the settings say, and finds out what it can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.version import __version__

from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.port import GUIDED, Ability, EngineInfo
from tokenwire_worker.engines.vllm import params
from tokenwire_worker.engines.vllm.arguments import engine_arguments, takes_lora
from tokenwire_worker.engines.vllm.lora import Adapters
from tokenwire_worker.model_files import read_eos_token_ids

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

TOP_LOGPROBS = 20
"""Most alternatives that the contract knows."""


STALL_S = 120.0
"""An iteration takes seconds at the most, but the first of a new shape may compile kernels for a
minute."""


@dataclass(frozen=True)
class Started:
    """A running AsyncLLM and what it serves."""

    llm: Any
    info: EngineInfo
    guide_stops: tuple[int, ...]
    """Ids that end a guided output; empty where there is none."""
    adapters: Adapters
    """Its LoRA adapters."""
    traced: bool
    """Whether vLLM writes spans of its own."""


async def start(
    settings: WorkerSettings, kv_events_endpoint: str, on_engine_step: Callable[[Any], None]
) -> Started:
    """Starts the engine's process and loads the model; blocks the loop for as long as that takes.

    Args:
        settings: the worker's.
        kv_events_endpoint: ZeroMQ endpoint for vLLM to publish KV cache events on.
        on_engine_step: called once for each engine step with its SchedulerStats or None, after the
            outputs of the step have been handed to those who wait for them.

    Raises:
        EngineError: vLLM refuses the model or a setting.
        ModelError: the model's config.json lacks what is needed.
    """
    eos = read_eos_token_ids(settings.text_folder)
    arguments = engine_arguments(settings, kv_events_endpoint)
    try:
        llm = AsyncLLM.from_engine_args(
            arguments,
            # The defaults of a server: larger batches than those of a library call.
            usage_context=UsageContext.OPENAI_API_SERVER,
            stat_loggers=[_step_logger(on_engine_step)],
        )
    except Exception as error:
        # Nothing narrower covers what a model, a driver and an engine process can fail with.
        raise EngineError(f"vLLM refuses --model {settings.model}: {error}") from error
    try:
        # Kept by vLLM from here on; each request asks for it first.
        await llm.get_supported_tasks()
        adapters = await _load_adapters(llm, settings)
        stops = _guide_stops(llm, settings, eos)
        info = _info(llm.vllm_config, settings, eos, guided=bool(stops))
        return Started(llm, info, stops, adapters, traced=await llm.is_tracing_enabled())
    except Exception:
        llm.shutdown()
        raise


async def _load_adapters(llm: Any, settings: WorkerSettings) -> Adapters:
    """Loads every adapter, so that a broken one is found now and none is waited for later."""
    adapters = Adapters(llm)
    for name, path in settings.vllm.lora.items():
        try:
            await adapters.load(name, path.expanduser().resolve())
        except Exception as error:
            raise EngineError(f"--vllm.lora {name}: {error}") from error
    return adapters


def _guide_stops(llm: Any, settings: WorkerSettings, eos: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the ids that vLLM allows once a form is complete: its tokenizer's and the model's."""
    if settings.vllm.skip_tokenizer_init:
        return ()
    own = llm.get_tokenizer().eos_token_id
    return eos if own is None else tuple(dict.fromkeys((*eos, own)))


def _info(
    config: Any, settings: WorkerSettings, eos: tuple[int, ...], *, guided: bool
) -> EngineInfo:
    model, cache = config.model_config, config.cache_config
    bounds = (model.max_model_len, settings.context_tokens or model.max_model_len)
    vocabulary = model.get_vocab_size()
    # A stop id beyond the vocabulary is never generated, and masking it would end the engine.
    eos = tuple(token_id for token_id in eos if token_id < vocabulary)
    alternatives = TOP_LOGPROBS if model.max_logprobs < 0 else model.max_logprobs
    return EngineInfo(
        engine="vllm",
        engine_version=__version__,
        context_tokens=min(bounds),
        # vLLM refuses to start where the KV cache cannot hold one whole context.
        prompt_tokens=min(bounds),
        vocabulary_size=vocabulary,
        eos_token_ids=eos,
        running_sequences=config.scheduler_config.max_num_seqs,
        kv_block_tokens=cache.block_size,
        kv_blocks=cache.num_gpu_blocks or 0,
        abilities=_abilities(config, settings, guided=guided),
        top_logprobs=min(alternatives, TOP_LOGPROBS),
        lora_adapters=tuple(settings.vllm.lora),
        highest_temperature=params.HIGHEST_TEMPERATURE,
        # The model's own are added to a request's, and vLLM adds its tokenizer's.
        stop_token_ids=params.STOP_TOKEN_IDS - len(eos) - 1,
        banned_sequences=params.BANNED_SEQUENCES,
        banned_ids=params.BANNED_IDS,
        stall_s=STALL_S,
        transfers=_transfers(config),
    )


def _transfers(config: Any) -> str:
    """Returns what engines have in common that can read each other's blocks; empty: none."""
    transfer, cache = config.kv_transfer_config, config.cache_config
    if transfer is None:
        return ""
    return f"vllm {__version__} {transfer.kv_connector} {cache.cache_dtype} {cache.block_size}"


def _abilities(config: Any, settings: WorkerSettings, *, guided: bool) -> frozenset[Ability]:
    abilities = {
        Ability.LOGPROBS,
        Ability.TOP_LOGPROBS,
        Ability.CACHE_SALT,
        Ability.CACHED_PROMPT_TOKENS,
        Ability.BANNED_SEQUENCES,
        Ability.PROMPT_LOGPROBS,
    }
    if guided:
        abilities |= GUIDED
    if takes_lora(settings.vllm):
        abilities.add(Ability.LORA)
    if settings.vllm.speculative_config is None:
        abilities |= {Ability.MIN_P, Ability.LOGIT_BIAS}  # vLLM refuses them with drafted tokens
    if settings.vllm.kv_events and config.cache_config.enable_prefix_caching:
        abilities.add(Ability.KV_EVENTS)
    return frozenset(abilities)


def _step_logger(on_engine_step: Callable[[Any], None]) -> type:
    """Returns the class of a stat logger that only passes on the scheduler's figures.

    vLLM adds its Prometheus logger, whose histograms cost time for each token, unless it is given
    one; so this is one, and keeps none of it.
    """

    class StepLogger(PrometheusStatLogger):  # type: ignore[misc]  # vLLM has no stubs here
        def __init__(self, vllm_config: Any, engine_indexes: Any = None) -> None:
            """Leaves out what the base class sets up."""

        def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
            on_engine_step(scheduler_stats)

        def log(self) -> None: ...
        def log_engine_initialized(self) -> None: ...
        def record_sleep_state(self, *_: Any, **__: Any) -> None: ...

    return StepLogger
