"""What must hold of a loaded worker: cancelling frees KV blocks, a shared prefix is reused."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from typing import Any, Self

import grpc
from google.protobuf.duration_pb2 import Duration
from tokenwire import AsyncClient
from tokenwire.worker.v1 import worker_pb2, worker_pb2_grpc

GREEDY: dict[str, Any] = {"ignore_eos": True, "temperature": 0.0}


class LoadWatch:
    """Keeps a worker's latest load, from WatchLoad at its shortest interval."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self.latest = worker_pb2.WatchLoadResponse()

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._worker)
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await self._channel.close()

    async def _watch(self) -> None:
        stub = worker_pb2_grpc.WorkerServiceStub(self._channel)
        request = worker_pb2.WatchLoadRequest(min_interval=Duration(nanos=10_000_000))
        async for load in stub.WatchLoad(request):
            self.latest = load

    async def until(self, running: int, usage: float, limit_s: float) -> None:
        """Waits until no more than so many run and no more of the KV cache is in use.

        Raises:
            TimeoutError: that does not happen in time.
        """
        deadline_s = time.perf_counter() + limit_s
        while self.latest.running_sequences > running or self.latest.kv_cache_usage > usage:
            if time.perf_counter() > deadline_s:
                raise TimeoutError(f"still {self.latest}")
            await asyncio.sleep(0.005)


async def cancel_half(
    frontend: str, worker: str, requests: int, prompt_tokens: int, vocabulary_size: int
) -> dict[str, Any]:
    """Cancels half of the generations mid-flight, and times the freeing of their blocks.

    All prompts are of one length, so half of the generations hold half of the blocks; what the
    other half needs for the tokens that it goes on to generate is allowed for with a tenth.
    """
    source = random.Random(5)
    prompts = [
        source.choices(range(300, vocabulary_size), k=prompt_tokens) for _ in range(requests)
    ]
    async with (
        LoadWatch(worker) as watch,
        AsyncClient(frontend, timeout=600) as client,
        client.session() as session,
    ):
        open_ = [session.open(prompt, max_tokens=2000, **GREEDY) for prompt in prompts]
        begun = [asyncio.Event() for _ in open_]
        readers = [asyncio.create_task(_read(*each)) for each in zip(open_, begun, strict=True)]
        await asyncio.gather(*(each.wait() for each in begun))
        await asyncio.sleep(0.5)
        before, start_s = watch.latest, time.perf_counter()
        await asyncio.gather(*(each.cancel() for each in open_[: requests // 2]))
        await watch.until(requests // 2, before.kv_cache_usage * 0.55, 30)
        freed_s = time.perf_counter() - start_s
        after = watch.latest
        await asyncio.gather(*(each.cancel() for each in open_[requests // 2 :]))
        await asyncio.gather(*readers)
    return {
        "requests": requests,
        "running_before": before.running_sequences,
        "kv_usage_before": before.kv_cache_usage,
        "running_after_half": after.running_sequences,
        "kv_usage_after_half": after.kv_cache_usage,
        "freed_ms": freed_s * 1e3,
    }


async def _read(generation: Any, begun: asyncio.Event) -> None:
    async for _ in generation:
        begun.set()


async def shared_prefix(
    frontend: str, prompt_tokens: int, shared_tokens: int, rounds: int, vocabulary_size: int
) -> dict[str, Any]:
    """Sends pairs of prompts with a common beginning, one after the other."""
    source = random.Random(7)

    def ids(count: int) -> list[int]:
        return source.choices(range(300, vocabulary_size), k=count)

    cached: list[int] = []
    first_ms: list[float] = []
    second_ms: list[float] = []
    async with AsyncClient(frontend, timeout=600) as client:
        for _ in range(rounds):
            prefix = ids(shared_tokens)
            for times in (first_ms, second_ms):
                start_s = time.perf_counter()
                answer = await client.generate(
                    prefix + ids(prompt_tokens - shared_tokens), max_tokens=1, **GREEDY
                )
                times.append((time.perf_counter() - start_s) * 1e3)
            cached.append(answer.usage.cached_prompt_tokens or 0)
    return {
        "prompt_tokens": prompt_tokens,
        "shared_tokens": shared_tokens,
        "cached_prompt_tokens": min(cached),
        "first_ttft_ms": statistics.median(first_ms),
        "second_ttft_ms": statistics.median(second_ms),
    }
