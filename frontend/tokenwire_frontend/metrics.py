"""What generations record to; the names are in tokenwire_service.telemetry.registry."""

from __future__ import annotations

from tokenwire_service.telemetry import registry, semconv
from tokenwire_service.telemetry.histogram import Histogram
from tokenwire_service.telemetry.metrics import Tally


class FrontendMetrics:
    """The instruments of all generations."""

    def __init__(self) -> None:
        self.generations = Tally(registry.GENERATIONS)
        self.tokens = Tally(registry.TOKENS)
        self.prefix_cache_tokens = Tally(registry.PREFIX_CACHE_TOKENS)
        self.expected_cache_tokens = Tally(registry.EXPECTED_CACHE_TOKENS)
        self.routed = Tally(registry.ROUTED)
        self.deltas = Tally(registry.DELTAS)
        self.moves = Tally(registry.MOVES)
        self.prefills = Tally(registry.PREFILLS)
        self.request_duration = Histogram(registry.REQUEST_DURATION)
        self.time_to_first_token = Histogram(registry.TIME_TO_FIRST_TOKEN)
        self.time_per_output_token = Histogram(registry.TIME_PER_OUTPUT_TOKEN)
        self.worker_call = Histogram(registry.RPC_CLIENT_DURATION)
        self.text = Histogram(registry.TEXT_DURATION)
        self.queue = Histogram(registry.FRONTEND_QUEUE_DURATION)
        self.refusals = Tally(registry.REFUSALS)
        self.attaches = Tally(registry.ATTACHES)
        self.kept_dropped = Tally(registry.KEPT_DROPPED)

    def forget_worker(self, address: str) -> None:
        """Drops what was measured of one worker: workers come and go, and memory has a bound."""
        self.worker_call.forget(peer(address))


def peer(address: str) -> dict[str, str | int]:
    """Returns the attributes that tell the worker at this address, HOST:PORT."""
    host, _, port = address.rpartition(":")
    return {semconv.SERVER_ADDRESS: host.strip("[]"), semconv.SERVER_PORT: int(port)}


class ConversationMetrics:
    """The instruments of the conversations that are kept."""

    def __init__(self) -> None:
        self.turns = Tally(registry.CONVERSATION_TURNS)
        self.evictions = Tally(registry.CONVERSATION_EVICTIONS)
        self.tokens = Tally(registry.CONVERSATION_TOKENS)
        # Values that do not exist yet are 0, so that their increase shows.
        for result in semconv.TURN_RESULTS:
            self.turns.count(result)
        for cause in (semconv.ROOM, semconv.IDLE):
            self.evictions.count(cause)
        for way in (semconv.KEPT, semconv.ENCODED):
            self.tokens.count(way)
