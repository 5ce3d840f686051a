"""tokenwire.frontend.v1.ActivityService."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
from tokenwire.frontend.v1 import activity_pb2, activity_pb2_grpc
from tokenwire_service.errors import invalid

from tokenwire_frontend import errors
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.grpc import from_proto
from tokenwire_frontend.edge.grpc.activity import Processes, Watch, record_of
from tokenwire_frontend.generation.admission import Admission

Context = grpc.aio.ServicerContext[Any, Any]

INTERVAL_DEFAULT_S = 1.0
INTERVAL_LEAST_S = 0.1
INTERVAL_MOST_S = 60.0
RECORDS_MOST = 100
"""A message of so many records has about 30 KB."""


class ActivityServicer(activity_pb2_grpc.ActivityServiceServicer):
    """Tells what the processes do, and what they have written down.

    Args:
        processes: all that serve together.
        admission: tells when streams end.
    """

    def __init__(self, processes: Processes, admission: Admission) -> None:
        self._processes = processes
        self._over = admission.over

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
        watch = Watch(self._processes, request.records, callers.current().seen_tenant)
        while not self._over.is_set():
            callers.current()  # a watch may last for days: longer than its credential
            await context.write(await watch.next())
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._over.wait(), interval_s)
        raise errors.draining()

    async def GetRecord(
        self, request: activity_pb2.GetRecordRequest, context: Context
    ) -> activity_pb2.GetRecordResponse:
        """Describes one recent generation."""
        if not request.request_id:
            raise invalid("request_id", "is empty")
        tenant = callers.current().seen_tenant
        record = await record_of(self._processes, request.request_id, tenant)
        return activity_pb2.GetRecordResponse(record=record)
