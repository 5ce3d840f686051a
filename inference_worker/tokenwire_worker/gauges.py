"""What is read off the worker when metrics are collected."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokenwire_service.telemetry import metrics, registry
from tokenwire_service.telemetry.registry import Metric

from tokenwire_worker.dispatcher import Dispatcher


def offer_gauges(dispatchers: Sequence[Dispatcher]) -> None:
    """Offers the gauges of the queues, the engines and their KV caches, of all workers together."""
    blocks = sum(dispatcher.info.kv_blocks for dispatcher in dispatchers)

    def used() -> float:
        return sum(each.load().kv_cache_usage * each.info.kv_blocks for each in dispatchers)

    def usage() -> float:
        if blocks:
            return used() / blocks
        # The engine does not tell how many there are.
        return sum(each.load().kv_cache_usage for each in dispatchers) / len(dispatchers)

    def offer(metric: Metric, of_one: Callable[[Dispatcher], float]) -> None:
        metrics.gauge(metric, lambda: [(sum(map(of_one, dispatchers)), {})])

    offer(registry.RUNNING_SEQUENCES, lambda each: each.load().running_sequences)
    offer(registry.RUNNING_LIMIT, lambda each: each.info.running_sequences)
    offer(registry.WAITING_REQUESTS, lambda each: each.load().waiting_requests)
    offer(registry.WAITING_LIMIT, lambda each: each.waiting_limit)
    metrics.gauge(registry.KV_CACHE_USAGE, lambda: [(usage(), {})])
    metrics.gauge(registry.KV_BLOCKS_USED, lambda: [(round(used()), {})] if blocks else [])
    metrics.gauge(registry.KV_BLOCKS_CAPACITY, lambda: [(blocks, {})] if blocks else [])
