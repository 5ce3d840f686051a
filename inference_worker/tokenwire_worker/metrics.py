"""What the worker measures; the names are in tokenwire_service.telemetry.registry."""

from __future__ import annotations

from tokenwire_service.telemetry import registry, semconv
from tokenwire_service.telemetry.histogram import Histogram
from tokenwire_service.telemetry.metrics import Tally


class WorkerMetrics:
    """The instruments of one worker's generations and engine steps.

    Args:
        model: name of the model, an attribute of most.
    """

    def __init__(self, model: str) -> None:
        self.generations = Tally(registry.GENERATIONS)
        tokens = Tally(registry.TOKENS)
        self.prompt_tokens = tokens.count(model, semconv.INPUT)
        self.generated_tokens = tokens.count(model, semconv.OUTPUT)
        self.prefix_cache_tokens = Tally(registry.PREFIX_CACHE_TOKENS)
        self.fetched_tokens = Tally(registry.FETCHED_TOKENS).count(model)
        self.request_duration = Histogram(registry.REQUEST_DURATION)
        self.time_to_first_token = Histogram(registry.TIME_TO_FIRST_TOKEN)
        self.time_per_output_token = Histogram(registry.TIME_PER_OUTPUT_TOKEN)
        self.queue_duration = Histogram(registry.QUEUE_DURATION)
        self._step_duration = Histogram(registry.STEP_DURATION)
        self._step_sequences = Histogram(registry.STEP_SEQUENCES)

    def step(self, took_s: float, sequences: int) -> None:
        """Records one engine step and the sequences that it brought something to."""
        self._step_duration.record(took_s)
        self._step_sequences.record(sequences)
