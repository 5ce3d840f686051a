"""The simulated engine as an engine module."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tokenwire_worker import __version__
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.port import Ability, EngineInfo
from tokenwire_worker.engines.simulated.blocks import BlockCache
from tokenwire_worker.engines.simulated.engine import SimulatedEngine
from tokenwire_worker.engines.simulated.faults import Fault
from tokenwire_worker.engines.simulated.model import SimulatedModel
from tokenwire_worker.engines.simulated.scheduler import Pace, Scheduler
from tokenwire_worker.engines.simulated.transfers import TransferPace, Transfers
from tokenwire_worker.model_files import (
    CONFIG,
    ModelLimits,
    Vocabulary,
    read_limits,
    read_vocabulary,
)

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

ABILITIES = frozenset({Ability.CACHE_SALT, Ability.MIN_P, Ability.CACHED_PROMPT_TOKENS})

STALL_S, STALL_STEPS = 20.0, 4
"""It is given up after so much time without a step, or after so many of the longest steps that its
settings allow, whichever is more."""

UNSUPPORTED = frozenset({"repetition_penalty", "presence_penalty", "frequency_penalty"})
"""They count what was generated; the next id is a function of the ids before it, in order."""


def check_model(settings: WorkerSettings) -> None:
    """Raises EngineError where the model is missing; its weights are not needed."""
    if not settings.model_path.exists():
        raise EngineError(f"--model {settings.model}: no such folder")


def build(settings: WorkerSettings) -> SimulatedEngine:
    """Reads what the model's text files tell."""
    own = settings.simulated
    limits, words = _read(settings.text_folder, settings.context_tokens)
    if own.mean_output_tokens is not None and not limits.eos_token_ids:
        raise EngineError(
            "--simulated.mean-output-tokens: the model's files tell no eos_token_id to end with"
        )
    cached_tokens = own.kv_blocks * own.kv_block_tokens
    takes_lora = bool(own.lora) or settings.lora_folder is not None
    abilities = ABILITIES | ({Ability.LORA} if takes_lora else frozenset())
    if own.prefix_caching:
        abilities |= {Ability.KV_EVENTS}
    pace = Pace(
        own.step_ms / 1e3,
        own.sequence_ms / 1e3,
        own.prefill_ms_per_1k / 1e6,
        own.step_tokens,
        own.max_sequences,
    )
    faults = [Fault.parse(text) for text in own.fault]
    transfers = None
    if settings.transfers:
        transfer_pace = TransferPace(own.transfer_ms_per_1k / 1e6, own.transfer_hold_s)
        transfers = Transfers(own.transfer_host, transfer_pace)
    info = EngineInfo(
        engine="simulated",
        engine_version=__version__,
        # What runs is promised all that it may need, so that must fit into the cache.
        context_tokens=min(limits.context_tokens, cached_tokens),
        prompt_tokens=min(limits.context_tokens, cached_tokens),
        vocabulary_size=limits.vocabulary_size,
        eos_token_ids=limits.eos_token_ids,
        running_sequences=own.max_sequences,
        kv_block_tokens=own.kv_block_tokens,
        kv_blocks=own.kv_blocks,
        abilities=abilities,
        lora_adapters=tuple(own.lora),
        unsupported_sampling=UNSUPPORTED,
        transfers="" if transfers is None else "simulated",
        stall_s=max(STALL_S, STALL_STEPS * pace.longest_s * math.prod(f.factor for f in faults)),
        simulated=True,
    )
    model = SimulatedModel(
        min(words.size, limits.vocabulary_size),
        words.added,
        next(iter(limits.eos_token_ids), None),
        own.seed,
        own.mean_output_tokens,
    )
    cache = BlockCache(own.kv_blocks, reuse=own.prefix_caching)
    scheduler = Scheduler(model, info.vocabulary_size, cache, own.kv_block_tokens, pace, faults)
    return SimulatedEngine(info, scheduler, transfers)


@lru_cache(maxsize=1)  # the workers of one process have the same
def _read(folder: Path, context_tokens: int | None) -> tuple[ModelLimits, Vocabulary]:
    """Returns what a folder tells, with or without a config.json."""
    words = read_vocabulary(folder)
    if (folder / CONFIG).is_file():
        return read_limits(folder, context_tokens), words
    if context_tokens is None:
        raise EngineError(
            f"{folder} has no {CONFIG}, which tells the context; give --context-tokens"
        )
    return ModelLimits(context_tokens, words.size, ()), words
