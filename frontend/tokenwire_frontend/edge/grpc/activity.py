"""What a frontend does and has just done, of one process or of several, as messages."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from google.protobuf import timestamp_pb2
from tokenwire.frontend.v1 import activity_pb2, model_pb2
from tokenwire_service.telemetry import semconv

from tokenwire_frontend import errors
from tokenwire_frontend.core.activity import (
    WINDOW_S,
    Counts,
    Latencies,
    Outcome,
    Quantiles,
    Record,
)
from tokenwire_frontend.edge.grpc import to_proto
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.record import Recorder
from tokenwire_frontend.workers.messages import duration

_OUTCOMES = {
    Outcome.COMPLETED: activity_pb2.OUTCOME_COMPLETED,
    Outcome.CANCELLED: activity_pb2.OUTCOME_CANCELLED,
    Outcome.REFUSED: activity_pb2.OUTCOME_REFUSED,
    Outcome.FAILED: activity_pb2.OUTCOME_FAILED,
}


@dataclass(frozen=True, slots=True)
class Part:
    """One process's share of the activity."""

    message: activity_pb2.WatchActivityResponse
    """Everything but the quantiles, which cannot be added up."""
    latencies: Latencies
    ended_s: list[float]
    """time.monotonic() of the end of each of the message's records."""

    def packed(self) -> tuple[Any, ...]:
        """Returns it in plain types, to be sent."""
        times = self.latencies
        values = (times.time_to_first_token_s, times.time_per_output_token_s, times.total_s)
        return self.message.SerializeToString(), values, self.ended_s

    @classmethod
    def unpacked(cls, packed: tuple[Any, ...]) -> Part:
        """Returns what `packed` returned of."""
        message, values, ended_s = packed
        return cls(
            activity_pb2.WatchActivityResponse.FromString(message), Latencies(*values), ended_s
        )


Found = tuple[float, bytes]
"""A record that was found: time.monotonic() of its end, and its message."""


class ActivityView:
    """This process's own activity."""

    def __init__(self, generator: Generator, recorder: Recorder) -> None:
        self._generator = generator
        self._recorder = recorder
        self._started_s = time.monotonic()

    def part(self, records: int, tenant: str | None) -> Part:
        """Returns it now, with as many records: of one tenant, or with None of all."""
        generator, activity = self._generator, self._recorder.activity
        now_s = time.monotonic()
        latest = activity.latest(records, tenant)
        counts = self._counts() if tenant is None else activity.counts(tenant)
        message = activity_pb2.WatchActivityResponse(
            workers=to_proto.workers(generator.pool),
            active_generations=(
                generator.admission.held
                if tenant is None
                else sum(1 for _ in generator.live(tenant))
            ),
            generations_limit=generator.admission.limit,
            queued_generations=sum(each.waits for each in generator.live(tenant)),
            prompt_tokens=counts.prompt_tokens,
            completion_tokens=counts.completion_tokens,
            outcomes=[
                activity_pb2.OutcomeCount(outcome=number, count=counts.outcomes[outcome])
                for outcome, number in _OUTCOMES.items()
            ],
            records=map(_record, latest),
            uptime=duration(now_s - self._started_s),
        )
        latencies = activity.latencies(now_s, tenant)
        return Part(message, latencies, [each.ended_s for each in latest])

    def _counts(self) -> Counts:
        """Returns what was counted of all tenants, running generations' tokens included."""
        metrics = self._recorder.metrics
        ended = {each: metrics.generations.total(semconv.OUTCOME, each.value) for each in Outcome}
        return Counts(
            Counter(ended),
            metrics.tokens.total(semconv.GEN_AI_TOKEN_TYPE, semconv.INPUT),
            metrics.tokens.total(semconv.GEN_AI_TOKEN_TYPE, semconv.OUTPUT),
        )

    def cancel(self, request_id: str, tenant: str | None) -> int:
        """Ends the live generations of this request id; returns how many there were."""
        found = [
            each for each in self._generator.live(tenant) if each.record.request_id == request_id
        ]
        for each in found:
            each.cancel("request_id")
        return len(found)

    def find(self, request_id: str, tenant: str | None) -> Found | None:
        """Returns the newest record of this request id, or None."""
        record = self._recorder.activity.find(request_id, tenant)
        return None if record is None else (record.ended_s, _record(record).SerializeToString())


class Processes(Protocol):
    """All processes that serve together. A tenant of None stands for all."""

    async def parts(self, records: int, tenant: str | None) -> Mapping[str, Part]:
        """Returns the activity of each that answers, by a name that no other process ever has."""
        ...

    async def find(self, request_id: str, tenant: str | None) -> Sequence[Found]:
        """Returns the record of each that remembers the request."""
        ...

    async def cancel(self, request_id: str, tenant: str | None) -> int:
        """Ends the live generations of this request id; returns how many there were."""
        ...


class OneProcess:
    """The only one."""

    def __init__(self, view: ActivityView) -> None:
        self._view = view

    async def parts(self, records: int, tenant: str | None) -> Mapping[str, Part]:
        """Returns its activity."""
        return {"": self._view.part(records, tenant)}

    async def find(self, request_id: str, tenant: str | None) -> Sequence[Found]:
        """Returns the record if it remembers one."""
        found = self._view.find(request_id, tenant)
        return [] if found is None else [found]

    async def cancel(self, request_id: str, tenant: str | None) -> int:
        """Ends its own."""
        return self._view.cancel(request_id, tenant)


async def record_of(
    processes: Processes, request_id: str, tenant: str | None
) -> activity_pb2.Record:
    """Returns the newest record of this request id.

    Raises:
        ServiceError: no process remembers one.
    """
    found = await processes.find(request_id, tenant)
    if not found:
        raise errors.unknown_request(request_id)
    _, newest = max(found)
    return activity_pb2.Record.FromString(newest)


class Watch:
    """The activity of all processes, as one watcher sees it: what one has counted never falls.

    Args:
        processes: all of them.
        records: most records in each message.
        tenant: whose activity; None: that of all.
    """

    def __init__(self, processes: Processes, records: int, tenant: str | None) -> None:
        self._tenant = tenant
        self._processes = processes
        self._records = records
        self._counted: dict[str, Counter[str]] = {}
        """What each process has counted that this watch has seen, gone or not."""
        self._began_s = time.monotonic()
        self._uptime_s = 0.0

    async def next(self) -> activity_pb2.WatchActivityResponse:
        """Returns the activity now."""
        parts = await self._processes.parts(self._records, self._tenant)
        for name, part in parts.items():
            if counts := _counts(part.message):
                self._counted[name] = counts
        total = sum(self._counted.values(), Counter())
        now = list(parts.values())
        return activity_pb2.WatchActivityResponse(
            workers=_workers([part.message for part in now]),
            active_generations=sum(part.message.active_generations for part in now),
            generations_limit=sum(part.message.generations_limit for part in now),
            queued_generations=sum(part.message.queued_generations for part in now),
            prompt_tokens=total["prompt"],
            completion_tokens=total["completion"],
            outcomes=[
                activity_pb2.OutcomeCount(outcome=number, count=total[outcome.value])
                for outcome, number in _OUTCOMES.items()
            ],
            window=duration(WINDOW_S),
            **_latencies([part.latencies for part in now]),
            records=_newest(now, self._records),
            uptime=duration(self._uptime(now)),
        )

    def _uptime(self, now: Iterable[Part]) -> float:
        """Returns that of the oldest process; it goes on where that one has gone."""
        if not self._uptime_s:
            told = (part.message.uptime.ToNanoseconds() / 1e9 for part in now)
            self._uptime_s = max(told, default=0.0)
        return self._uptime_s + time.monotonic() - self._began_s


def _counts(message: activity_pb2.WatchActivityResponse) -> Counter[str]:
    """Returns what the message counts, without zeros."""
    ended = {each.outcome: each.count for each in message.outcomes}
    counts = {outcome.value: ended.get(number, 0) for outcome, number in _OUTCOMES.items()}
    tokens = {"prompt": message.prompt_tokens, "completion": message.completion_tokens}
    return +Counter({**counts, **tokens})


def _workers(messages: Sequence[activity_pb2.WatchActivityResponse]) -> list[model_pb2.Worker]:
    """Returns each worker as the process sees it that sees it worst, with what all have there."""
    by_address: dict[str, list[model_pb2.Worker]] = {}
    for message in messages:
        for worker in message.workers:
            by_address.setdefault(worker.address, []).append(worker)
    merged = []
    for seen in by_address.values():
        worst = next((each for each in seen if each.state != model_pb2.WORKER_STATE_READY), seen[0])
        worker = model_pb2.Worker()
        worker.CopyFrom(worst)
        worker.in_flight = sum(each.in_flight for each in seen)
        merged.append(worker)
    return sorted(merged, key=lambda worker: worker.address)


def _latencies(every: Sequence[Latencies]) -> dict[str, activity_pb2.Quantiles]:
    fields = {
        "time_to_first_token": [each.time_to_first_token_s for each in every],
        "time_per_output_token": [each.time_per_output_token_s for each in every],
        "total": [each.total_s for each in every],
    }
    return {name: _quantiles(list(chain.from_iterable(values))) for name, values in fields.items()}


def _newest(parts: Iterable[Part], count: int) -> list[activity_pb2.Record]:
    ended = [
        (ended_s, record)
        for part in parts
        for ended_s, record in zip(part.ended_s, part.message.records, strict=True)
    ]
    ended.sort(key=lambda each: each[0], reverse=True)
    return [record for _, record in ended[:count]]


def _quantiles(values: Sequence[float]) -> activity_pb2.Quantiles:
    found = Quantiles.of(values)
    if not found.count:
        return activity_pb2.Quantiles()
    return activity_pb2.Quantiles(
        count=found.count,
        p50=duration(found.p50),
        p90=duration(found.p90),
        p99=duration(found.p99),
    )


def _record(value: Record) -> activity_pb2.Record:
    received_at = timestamp_pb2.Timestamp()
    received_at.FromNanoseconds(round(value.received_at_s * 1e9))
    return activity_pb2.Record(
        request_id=value.request_id,
        trace_id=value.trace_id,
        received_at=received_at,
        model=value.model,
        outcome=_OUTCOMES[value.outcome],
        reason=value.reason,
        route_reason=value.route_reason,
        usage=to_proto.usage(value.completion),
        timings=to_proto.timings(value.completion),
    )
