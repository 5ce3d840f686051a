"""The direct arm: AsyncLLM alone in a process, driven by the load within it.

Takes the engine's arguments as JSON on the command line, says `{"ready": ...}` on standard output,
and answers each line of standard input, a `Load` in JSON, with one line of figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import uvloop
from tokenwire_worker.engines.vllm.environment import prepare

from benchmarks.gpu.load import Load, Open, drive

DRY_TOKEN_S = 0.006
DRY_VOCABULARY_SIZE = 4096


async def main(arguments: dict[str, Any], answers: Any) -> None:
    """Answers loads until standard input ends."""
    engine = _dry() if arguments.get("dry") else _vllm(arguments)
    print(json.dumps({"ready": {"kv_blocks": engine.kv_blocks}}), file=answers, flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        figures = await drive(Load(**json.loads(line)), engine.vocabulary_size, engine.open)
        print(json.dumps(figures), file=answers, flush=True)
    engine.close()


@dataclass(frozen=True)
class _Engine:
    vocabulary_size: int
    kv_blocks: int
    open: Open
    close: Callable[[], None]


def _vllm(arguments: dict[str, Any]) -> _Engine:
    prepare()  # the worker's environment, before vLLM reads it
    # Imported here, since the engine's process is spawned and imports this module again.
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415
    from vllm.inputs.engine import tokens_input  # noqa: PLC0415
    from vllm.sampling_params import RequestOutputKind, SamplingParams  # noqa: PLC0415
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

    # Without figures of its own, which cost it time for each token.
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, disable_log_stats=True))
    numbers = count()

    async def open_(prompt: list[int], tokens: int) -> AsyncIterator[int]:
        params = SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        async for result in engine.generate(tokens_input(prompt), params, str(next(numbers))):
            yield len(result.outputs[0].token_ids)

    config = engine.vllm_config
    blocks = config.cache_config.num_gpu_blocks or 0
    return _Engine(config.model_config.get_vocab_size(), blocks, open_, engine.shutdown)


def _dry() -> _Engine:
    """Returns an engine that waits for each token, for trying a run where there is no GPU."""

    async def open_(_: list[int], tokens: int) -> AsyncIterator[int]:
        for _number in range(tokens):
            await asyncio.sleep(DRY_TOKEN_S)
            yield 1

    return _Engine(DRY_VOCABULARY_SIZE, 0, open_, lambda: None)


if __name__ == "__main__":
    # What libraries print goes elsewhere: standard output is for answers.
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    uvloop.run(main(json.loads(sys.argv[1]), own))
