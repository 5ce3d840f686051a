"""Runs requests before the worker is ready, and learns the size of the KV cache from them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from tensorrt_llm import SamplingParams
from tokenwire_service.tasks import Scope

from tokenwire_worker.model_files import ModelLimits

log = structlog.get_logger()

PROMPT_TOKENS, OUTPUT_TOKENS = 64, 8
"""Enough for a prefill and for decoding in every CUDA graph that a few sequences use."""

STATISTICS_S = 5.0
"""Time that the first statistics have to come; they come within 0.5 s of a request, or never."""


async def warm_up(
    llm: Any, requests: int, limits: ModelLimits, take: Callable[[dict[str, Any]], None]
) -> None:
    """Runs requests at once and to their ends; on the engine's loop.

    Args:
        llm: the tensorrt_llm.LLM.
        requests: how many; with none nothing is done.
        limits: the model's.
        take: takes statistics.
    """
    if not requests:
        return
    faults: list[Exception] = []
    async with Scope("warm_up") as scope:
        await asyncio.wait(
            [
                scope.start(_run(llm, number, limits), on_fault=faults.append, request=number)
                for number in range(requests)
            ]
        )
    if faults:
        raise faults[0]
    try:
        async for statistics in llm.get_stats_async(timeout=STATISTICS_S):
            take(statistics)
            if statistics.get("kvCacheStats"):
                return
    except Exception as error:  # noqa: BLE001 - orchestrators that are prototypes may have none
        log.warning("engine_statistics_failed", error=str(error) or type(error).__name__)


async def _run(llm: Any, number: int, limits: ModelLimits) -> None:
    # Each a prompt of its own, since a cached one would leave no prefill to do.
    prompt_tokens = max(min(PROMPT_TOKENS, limits.context_tokens - OUTPUT_TOKENS), 1)
    prompt = [(number + at) % limits.vocabulary_size for at in range(prompt_tokens)]
    output_tokens = min(OUTPUT_TOKENS, limits.context_tokens - prompt_tokens)
    params = SamplingParams(
        end_id=-1, pad_id=0, max_tokens=output_tokens, top_k=1, detokenize=False
    )
    async for _ in llm.generate_async(prompt, params, streaming=True):
        pass
