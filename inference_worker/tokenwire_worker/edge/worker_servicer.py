"""WorkerService: what the worker is, what it carries, and how busy it is."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from tokenwire.worker.v1 import worker_pb2 as pb
from tokenwire_service.errors import invalid

from tokenwire_worker import __version__, errors
from tokenwire_worker.core import validation
from tokenwire_worker.core.kv_events import NumberGoneError
from tokenwire_worker.dispatcher import Dispatcher
from tokenwire_worker.edge import from_proto, to_proto
from tokenwire_worker.engines.port import Ability, EngineInfo
from tokenwire_worker.model_files import TextFiles

CONTRACT_REVISION = 6
"""Revision of tokenwire.worker.v1 that this worker speaks."""

CHUNK_BYTES = 512 * 1024
"""Bytes of a file in one message of GetTokenizer: a message stays under 1 MiB."""

DEFAULT_INTERVAL_S, LEAST_INTERVAL_S, MOST_INTERVAL_S = 0.2, 0.01, 1.0
"""WatchLoadRequest.min_interval: where it is unset, and its bounds; the last is also that of
WatchKvEventsRequest.interval."""

LEAST_HEARTBEAT_S, MOST_HEARTBEAT_S = 1.0, 10.0
"""WatchLoadRequest.max_interval: its bounds; where it is unset, it is the first."""

HEARTBEAT_SHARE = 0.9
"""Of that time, after which there is a message of WatchLoad: a busy event loop is late."""


_PHASES = {
    "any": pb.PHASES_UNSPECIFIED,
    "prefill": pb.PHASES_PREFILL,
    "decode": pb.PHASES_DECODE,
}


@dataclass(frozen=True)
class Identity:
    """What the worker calls itself and its model, and what it is for."""

    worker: str
    model: str
    phases: str = "any"
    transfer_group: str = ""
    """As its operator names it."""


class WorkerServicer:
    """Serves WorkerService."""

    def __init__(self, identity: Identity, dispatcher: Dispatcher, files: TextFiles) -> None:
        """Takes what there is to tell."""
        self._identity = identity
        self._dispatcher = dispatcher
        self._files = files

    async def GetWorkerInfo(
        self, _request: pb.GetWorkerInfoRequest, _context: Any
    ) -> pb.GetWorkerInfoResponse:
        """Tells what the worker serves and what it can do."""
        info = self._dispatcher.info
        return pb.GetWorkerInfoResponse(
            worker_name=self._identity.worker,
            contract_revision=CONTRACT_REVISION,
            model=self._identity.model,
            engine=info.engine,
            engine_version=info.engine_version,
            version=__version__,
            limits=_limits(info, self._dispatcher.waiting_limit),
            capabilities=to_proto.capabilities(info.abilities),
            tokenizer_fingerprint=self._files.fingerprint,
            eos_token_ids=info.eos_token_ids,
            lora_adapters=info.lora_adapters,
            simulated=info.simulated,
            description_number=self._dispatcher.description_number,
            phases=_PHASES[self._identity.phases],
            transfer_group=_transfer_group(info, self._identity.transfer_group),
        )

    async def GetTokenizer(self, _request: pb.GetTokenizerRequest, context: Any) -> None:
        """Streams the text-side files."""
        for file in self._files.files:
            data = file.data
            # An empty file is a message too: the caller then knows that it is there.
            for start in range(0, len(data) or 1, CHUNK_BYTES):
                await context.write(
                    pb.GetTokenizerResponse(
                        file_name=file.name,
                        data=data[start : start + CHUNK_BYTES],
                        file_bytes=len(data),
                        sha256=file.sha256,
                    )
                )

    async def WatchLoad(self, request: pb.WatchLoadRequest, context: Any) -> None:
        """Streams the load: at once, then when it has changed, and as a heartbeat."""
        interval_s, heartbeat_s = _interval_s(request), _heartbeat_s(request)
        dispatcher = self._dispatcher
        changed = dispatcher.watch_load()
        try:
            while True:
                changed.clear()
                await context.write(
                    to_proto.load_response(
                        dispatcher.load(), dispatcher.pace(), dispatcher.description_number
                    )
                )
                if dispatcher.over.is_set():
                    return
                await _set_within(dispatcher.over, interval_s)
                await _set_within(changed, heartbeat_s - interval_s)
        finally:
            dispatcher.unwatch_load(changed)

    async def WatchKvEvents(self, request: pb.WatchKvEventsRequest, context: Any) -> None:
        """Streams what happens to the KV cache, from the number asked for or from now on."""
        info = self._dispatcher.info
        if Ability.KV_EVENTS not in info.abilities:
            raise errors.no_kv_events(info.engine)
        interval_s = _gathering_s(request)
        try:
            feed = self._dispatcher.kv_events
            async with aclosing(feed.watch(request.first_number, interval_s)) as batches:
                async for number, events in batches:
                    await context.write(to_proto.kv_events_response(number, events))
        except NumberGoneError as gone:
            raise errors.kv_events_gone(gone) from gone


def _interval_s(request: pb.WatchLoadRequest) -> float:
    if not request.HasField("min_interval"):
        return DEFAULT_INTERVAL_S
    return _within(request.min_interval, "min_interval", LEAST_INTERVAL_S, MOST_INTERVAL_S)


def _heartbeat_s(request: pb.WatchLoadRequest) -> float:
    longest_s = LEAST_HEARTBEAT_S
    if request.HasField("max_interval"):
        bounds = LEAST_HEARTBEAT_S, MOST_HEARTBEAT_S
        longest_s = _within(request.max_interval, "max_interval", *bounds)
    return longest_s * HEARTBEAT_SHARE


def _within(asked: Duration, field: str, least_s: float, most_s: float) -> float:
    asked_s = from_proto.seconds(asked)
    if math.isnan(asked_s):
        raise invalid(field, "not a valid duration")
    if not least_s <= asked_s <= most_s:
        raise invalid(field, f"{asked_s:g} s is not within {least_s:g} s to {most_s:g} s")
    return asked_s


def _gathering_s(request: pb.WatchKvEventsRequest) -> float:
    asked_s = from_proto.seconds(request.interval)
    if not 0 <= asked_s <= MOST_INTERVAL_S:  # nor is it where it is not a number
        raise invalid("interval", f"{asked_s:g} s is not within 0 and 1 s")
    return asked_s


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Waits until the event is set, and for so long at the most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(seconds, 0.0)):
            await event.wait()


def _transfer_group(info: EngineInfo, named: str) -> str:
    """Returns what workers have in common that can fetch from each other; empty: it can't."""
    return f"{info.transfers} {named}".strip() if info.transfers else ""


def _limits(info: EngineInfo, waiting_limit: int) -> pb.Limits:
    return pb.Limits(
        context_tokens=info.context_tokens,
        prompt_tokens=validation.prompt_token_limit(info),
        vocabulary_size=info.vocabulary_size,
        sequence_count=validation.sequence_count_limit(info),
        running_sequences=info.running_sequences,
        waiting_requests=waiting_limit,
        kv_block_tokens=info.kv_block_tokens,
        kv_blocks=info.kv_blocks,
        top_logprobs=info.top_logprobs,
    )
