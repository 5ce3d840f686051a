"""What is read off the worker when metrics are collected."""

from __future__ import annotations

from collections.abc import Iterable

from tokenwire_service.telemetry import metrics, registry
from tokenwire_service.telemetry.metrics import Attributes

from tokenwire_worker.dispatcher import Dispatcher


def offer_gauges(dispatcher: Dispatcher) -> None:
    """Offers the gauges of the queue, the engine and its KV cache."""
    info = dispatcher.info

    def blocks(share: bool) -> Iterable[tuple[float, Attributes]]:
        if not info.kv_blocks:
            return []  # the engine does not tell
        usage = dispatcher.load().kv_cache_usage if share else 1.0
        return [(round(usage * info.kv_blocks), {})]

    metrics.gauge(registry.RUNNING_SEQUENCES, lambda: [(dispatcher.load().running_sequences, {})])
    metrics.gauge(registry.RUNNING_LIMIT, lambda: [(info.running_sequences, {})])
    metrics.gauge(registry.WAITING_REQUESTS, lambda: [(dispatcher.load().waiting_requests, {})])
    metrics.gauge(registry.WAITING_LIMIT, lambda: [(dispatcher.waiting_limit, {})])
    metrics.gauge(registry.KV_CACHE_USAGE, lambda: [(dispatcher.load().kv_cache_usage, {})])
    metrics.gauge(registry.KV_BLOCKS_USED, lambda: blocks(share=True))
    metrics.gauge(registry.KV_BLOCKS_CAPACITY, lambda: blocks(share=False))
