"""The direct arm: the engine's pipeline driven in this process, as fast as it goes.

    python -m benchmarks.direct MODEL KV_BLOCKS

Runs one load after the other on one pipeline: each comes as a line of JSON on standard input and is
answered with a line of figures. So its KV cache holds the blocks of earlier prompts as a worker's
does; OpenVINO looks through all of them for each block that it takes for a new one.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as ov_genai

from benchmarks.cpu import cpu_s
from benchmarks.throughput import Load


def main() -> None:
    """Loads the model and runs the loads until standard input ends."""
    model = Path(sys.argv[1])
    vocabulary_size = json.loads((model / "config.json").read_text())["vocab_size"]
    scheduler = ov_genai.SchedulerConfig()
    scheduler.num_kv_blocks = int(sys.argv[2])
    scheduler.enable_prefix_caching = True
    scheduler.max_num_seqs = 256  # the worker's default, like the rest
    pipeline = ov_genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU", {})
    _drive(pipeline, Load(1, 1, 8, 8, 0), vocabulary_size)  # the first request compiles
    for line in sys.stdin:
        before_s, start = cpu_s(), time.perf_counter()
        tokens = _drive(pipeline, Load(**json.loads(line)), vocabulary_size)
        elapsed_s = time.perf_counter() - start
        figures = {
            "tokens": tokens,
            "tokens_per_s": tokens / elapsed_s,
            "client_us_per_token": (cpu_s() - before_s) / tokens * 1e6,
            "deltas": 0,
        }
        print(json.dumps(figures), flush=True)


def _drive(pipeline: Any, load: Load, vocabulary_size: int) -> int:
    """Keeps `concurrency` requests running until all are done; returns the tokens generated."""
    config = ov_genai.GenerationConfig()
    config.max_new_tokens = load.output_tokens
    config.ignore_eos = True
    config.do_sample = False
    waiting = list(enumerate(load.prompts(vocabulary_size)))
    live: list[Any] = []
    tokens = 0
    while waiting or live:
        while waiting and len(live) < load.concurrency:
            number, prompt = waiting.pop()
            ids = ov.Tensor(np.array([prompt], dtype=np.int64))
            live.append(pipeline.add_request(number, ids, config))
        pipeline.step()
        for handle in live:
            if handle.can_read():
                for output in handle.read().values():
                    tokens += len(output.generated_ids)
        running = ov_genai.GenerationStatus.RUNNING
        live = [handle for handle in live if handle.get_status() == running]
    return tokens


if __name__ == "__main__":
    main()
