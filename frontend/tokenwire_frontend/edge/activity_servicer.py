"""tokenwire.frontend.v1.ActivityService."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf import timestamp_pb2
from tokenwire.frontend.v1 import activity_pb2, activity_pb2_grpc
from tokenwire_service.errors import invalid
from tokenwire_service.telemetry import semconv

from tokenwire_frontend import errors
from tokenwire_frontend.core.activity import WINDOW_S, Outcome, Quantiles, Record
from tokenwire_frontend.edge import from_proto, to_proto
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.record import Recorder
from tokenwire_frontend.workers.messages import duration

Context = grpc.aio.ServicerContext[Any, Any]

INTERVAL_DEFAULT_S = 1.0
INTERVAL_LEAST_S = 0.1
INTERVAL_MOST_S = 60.0
RECORDS_MOST = 100
"""A message of so many records has about 30 KB."""

_OUTCOMES = {
    Outcome.COMPLETED: activity_pb2.OUTCOME_COMPLETED,
    Outcome.CANCELLED: activity_pb2.OUTCOME_CANCELLED,
    Outcome.REFUSED: activity_pb2.OUTCOME_REFUSED,
    Outcome.FAILED: activity_pb2.OUTCOME_FAILED,
}


class ActivityServicer(activity_pb2_grpc.ActivityServiceServicer):
    """Tells what the generator does, and what the recorder has written down."""

    def __init__(self, generator: Generator, recorder: Recorder) -> None:
        self._generator = generator
        self._recorder = recorder
        self._started_s = time.monotonic()

    async def WatchActivity(  # type: ignore[override] # a coroutine that writes: see rpc_boundary
        self, request: activity_pb2.WatchActivityRequest, context: Context
    ) -> None:
        """Streams the activity."""
        interval_s = INTERVAL_DEFAULT_S
        if request.HasField("interval"):
            interval_s = from_proto.seconds(request.interval, "interval")
        if not INTERVAL_LEAST_S <= interval_s <= INTERVAL_MOST_S:
            raise invalid(
                "interval",
                f"is {interval_s:g} s; bounds are {INTERVAL_LEAST_S:g} s and {INTERVAL_MOST_S:g} s",
            )
        if request.records > RECORDS_MOST:
            raise invalid("records", f"is {request.records}; at most {RECORDS_MOST}")
        over = self._generator.admission.over
        while not over.is_set():
            await context.write(self._snapshot(request.records))
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(over.wait(), interval_s)
        raise errors.draining()

    async def GetRecord(
        self, request: activity_pb2.GetRecordRequest, context: Context
    ) -> activity_pb2.GetRecordResponse:
        """Describes one recent generation."""
        if not request.request_id:
            raise invalid("request_id", "is empty")
        record = self._recorder.activity.find(request.request_id)
        if record is None:
            raise errors.unknown_request(request.request_id)
        return activity_pb2.GetRecordResponse(record=_record(record))

    def _snapshot(self, records: int) -> activity_pb2.WatchActivityResponse:
        generator, metrics = self._generator, self._recorder.metrics
        now_s = time.monotonic()
        latencies = self._recorder.activity.latencies(now_s)
        return activity_pb2.WatchActivityResponse(
            workers=to_proto.workers(generator.pool),
            active_generations=generator.admission.held,
            generations_limit=generator.admission.limit,
            prompt_tokens=metrics.tokens.total(semconv.GEN_AI_TOKEN_TYPE, semconv.INPUT),
            completion_tokens=metrics.tokens.total(semconv.GEN_AI_TOKEN_TYPE, semconv.OUTPUT),
            outcomes=[
                activity_pb2.OutcomeCount(
                    outcome=number, count=metrics.generations.total(semconv.OUTCOME, outcome.value)
                )
                for outcome, number in _OUTCOMES.items()
            ],
            window=duration(WINDOW_S),
            time_to_first_token=_quantiles(latencies.time_to_first_token_s),
            time_per_output_token=_quantiles(latencies.time_per_output_token_s),
            total=_quantiles(latencies.total_s),
            records=map(_record, self._recorder.activity.latest(records)),
            uptime=duration(now_s - self._started_s),
        )


def _quantiles(value: Quantiles) -> activity_pb2.Quantiles:
    if not value.count:
        return activity_pb2.Quantiles()
    return activity_pb2.Quantiles(
        count=value.count,
        p50=duration(value.p50),
        p90=duration(value.p90),
        p99=duration(value.p99),
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
