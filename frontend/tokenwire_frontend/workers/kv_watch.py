"""Takes a worker's KV events into the index that prefix routing asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import grpc
import structlog
from google.protobuf.message import DecodeError
from tokenwire.worker.v1 import worker_pb2

from tokenwire_frontend.core.routing.kv_index import WorkerBlocks
from tokenwire_frontend.workers.remote import Remote

log = structlog.get_logger()

INTERVAL_S = 0.1
"""Time for which a worker gathers events: a message costs more than what is in it, and what this
frontend itself sends a worker it notes at once."""

REOPEN_S = 1.0
"""Wait before a watch is opened again: it ends by itself where the worker, or this frontend, has
too much to do."""

TURN_S = 0.005
"""Time after which the events of a message let others run."""


class KvWatch:
    """The watch of one worker.

    Args:
        address: the worker's, for log lines.
        model: its model.
        blocks: what it holds.
    """

    def __init__(self, address: str, model: str, blocks: WorkerBlocks) -> None:
        self._address = address
        self._model = model
        self._blocks = blocks
        self._next_number = 0
        """Number of the event to come; 0: any."""

    async def run(self, remote: Remote) -> None:
        """Takes events until the worker says that it has none, or until cancelled."""
        while True:
            try:
                async for message in remote.watch_kv_events(INTERVAL_S):
                    if isinstance(message, DecodeError):
                        log.warning(
                            "kv_events_unreadable", address=self._address, error=str(message)
                        )
                        break
                    await self._take(message)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return
            # What has happened until it is open again is not known.
            self._start_over()
            await asyncio.sleep(REOPEN_S)

    async def _take(self, message: worker_pb2.WatchKvEventsResponse) -> None:
        over_s = time.monotonic() + TURN_S
        for event in _each(message):
            self._apply(event)
            if time.monotonic() >= over_s:
                await asyncio.sleep(0)
                over_s = time.monotonic() + TURN_S

    def _apply(self, event: worker_pb2.WatchKvEventsResponse) -> None:
        if self._next_number not in (0, event.number):
            self._start_over()
        self._next_number = event.number + 1
        match event.WhichOneof("event"):
            case "stored":
                stored = event.stored
                self._blocks.stored(
                    stored.parent_hash,
                    stored.block_hashes,
                    stored.token_ids,
                    (self._model, stored.lora_adapter, stored.cache_salt),
                )
            case "removed":
                self._blocks.removed(event.removed.block_hashes)
            case "cleared":
                self._blocks.clear()

    def _start_over(self) -> None:
        self._blocks.clear()
        self._next_number = 0


def _each(
    message: worker_pb2.WatchKvEventsResponse,
) -> Iterator[worker_pb2.WatchKvEventsResponse]:
    yield message
    yield from message.more
