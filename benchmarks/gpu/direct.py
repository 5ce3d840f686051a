"""The direct arm: AsyncLLM alone in a process, driven by the load within it.

Takes the engine's arguments as JSON on the command line, says `{"ready": ...}` on standard output,
and answers each line of standard input, a `Load` in JSON, with one line of figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import uvloop
from tokenwire_worker.engines.vllm.environment import prepare

from benchmarks.gpu.load import Load, drive


async def main(arguments: dict[str, Any], answers: Any) -> None:
    """Answers loads until standard input ends."""
    prepare()  # the worker's environment, before vLLM reads it
    # Imported here, since the engine's process is spawned and imports this module again.
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415
    from vllm.inputs.engine import tokens_input  # noqa: PLC0415
    from vllm.sampling_params import RequestOutputKind, SamplingParams  # noqa: PLC0415
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

    # Without figures of its own, which cost it time for each token.
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, disable_log_stats=True))
    vocabulary_size = engine.vllm_config.model_config.get_vocab_size()
    blocks = engine.vllm_config.cache_config.num_gpu_blocks
    print(json.dumps({"ready": {"kv_blocks": blocks}}), file=answers, flush=True)
    numbers = count()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        load = Load(**json.loads(line))
        params = SamplingParams(
            temperature=0.0,
            max_tokens=load.output_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

        async def open_(prompt: list[int], params: Any = params) -> AsyncIterator[int]:
            async for result in engine.generate(tokens_input(prompt), params, str(next(numbers))):
                yield len(result.outputs[0].token_ids)

        print(json.dumps(await drive(load, vocabulary_size, open_)), file=answers, flush=True)
    engine.shutdown()


if __name__ == "__main__":
    # What libraries print goes elsewhere: standard output is for answers.
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    uvloop.run(main(json.loads(sys.argv[1]), own))
