"""What is read off the frontend when metrics are collected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenwire_service.telemetry import metrics, registry, semconv
from tokenwire_service.telemetry.metrics import Attributes

from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.queues import Queues


def _queued(queues: Queues) -> Iterable[tuple[float, Attributes]]:
    return [
        (
            queues.depths[model, priority],
            {semconv.GEN_AI_REQUEST_MODEL: model, semconv.PRIORITY_CLASS: priority},
        )
        for model in queues.models
        for priority in semconv.PRIORITY_CLASSES
    ]


def offer_gauges(generator: Generator, process: Attributes) -> None:
    """Offers what the generator, its tokenizers and its workers tell when they are asked.

    Args:
        generator: the generator.
        process: which of several processes this is.
    """
    pool, tokenizers, admission = generator.pool, generator.tokenizers, generator.admission

    def workers() -> Iterable[tuple[float, Attributes]]:
        states = Counter(link.state for link in pool.links)
        # A state that no worker is in is 0, so that an alert on it has something to look at.
        return [
            (states[state], {semconv.WORKER_STATE: state.value, **process}) for state in LinkState
        ]

    def paired() -> Iterable[tuple[float, Attributes]]:
        return [
            (
                pays,
                {semconv.GEN_AI_REQUEST_MODEL: model, semconv.TRANSFER_GROUP: group, **process},
            )
            for (model, group), pays in pool.pairings
        ]

    metrics.gauge(registry.WORKERS, workers)
    metrics.gauge(registry.PAIRED_GROUPS, paired)
    metrics.gauge(registry.ACTIVE_GENERATIONS, lambda: [(admission.held, {})])
    metrics.gauge(registry.GENERATIONS_LIMIT, lambda: [(admission.limit, {})])
    metrics.gauge(registry.QUEUED_REQUESTS, lambda: _queued(admission.queues))
    metrics.gauge(registry.KEPT_GENERATIONS, lambda: [(len(generator.keeper), {})])
    metrics.gauge(registry.RETAINED_BYTES, lambda: [(generator.keeper.held_bytes, {})])
    metrics.gauge(registry.KV_INDEX_BLOCKS, lambda: [(len(pool.router.index or ()), {})])
    conversations = generator.conversations
    metrics.gauge(registry.CONVERSATIONS, lambda: [(len(conversations), {})])
    metrics.gauge(registry.CONVERSATION_BYTES, lambda: [(conversations.bytes_held, {})])
    metrics.gauge(registry.TOKENIZER_WAITING, lambda: [(tokenizers.held, {})])

    def by_result(hits: int, misses: int) -> Iterable[tuple[float, Attributes]]:
        counted = {"hit": hits, "miss": misses}
        return [(counted[each], {semconv.ENCODING_CACHE_RESULT: each}) for each in counted]

    def cached_texts() -> Iterable[tuple[float, Attributes]]:
        counts = tokenizers.cache_counts
        return by_result(counts.hits, counts.misses)

    def cached_bytes() -> Iterable[tuple[float, Attributes]]:
        counts = tokenizers.cache_counts
        return by_result(counts.hit_bytes, counts.miss_bytes)

    metrics.counter(registry.ENCODING_CACHE_TEXTS, cached_texts)
    metrics.counter(registry.ENCODING_CACHE_TEXT_BYTES, cached_bytes)
    metrics.gauge(registry.ENCODING_CACHE_HELD, lambda: [(tokenizers.cache_counts.held_bytes, {})])
