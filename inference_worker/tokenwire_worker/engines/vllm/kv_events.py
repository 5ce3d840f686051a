"""vLLM's KV cache events, from its publisher's socket to the port's values."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import structlog
import zmq
import zmq.asyncio
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch

from tokenwire_worker.engines.port import KvCleared, KvEvent, KvRemoved, KvStored
from tokenwire_worker.engines.vllm.lora import own_name

log = structlog.get_logger()

RECEIVED_AHEAD = 10_000
"""Batches that may wait to be read: one for each step, so minutes of them. Beyond it they are
dropped, which the numbers of the next ones show."""

_HASH_MASK = 2**64 - 1


class KvEventReader:
    """Subscribes to vLLM's publisher, on a socket file that only this user can reach."""

    def __init__(self) -> None:
        """Makes the folder of the socket; `close` removes it."""
        self._folder = tempfile.mkdtemp(prefix="tokenwire-")
        self.endpoint = f"ipc://{self._folder}/kv"
        """Where vLLM is to publish."""

    async def run(self, block_tokens: int, publish: Callable[[Sequence[KvEvent]], None]) -> None:
        """Reads batches until cancelled, and publishes what is in each.

        Args:
            block_tokens: tokens of a KV block; events of blocks of another size are dropped.
            publish: takes the events, in order.
        """
        decode = msgspec.msgpack.Decoder(KVEventBatch).decode
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.SUB)
        expected = 0
        try:
            socket.set_hwm(RECEIVED_AHEAD)
            socket.subscribe(b"")
            socket.connect(self.endpoint)
            while True:
                _topic, number, payload = await socket.recv_multipart()
                sequence = int.from_bytes(number, "big")
                events: list[KvEvent] = []
                if sequence != expected:
                    log.warning("kv_events_missed", expected=expected, received=sequence)
                    events.append(KvCleared())
                expected = sequence + 1
                events += translate(decode(payload).events, block_tokens)
                if events:
                    publish(events)
        finally:
            context.destroy(linger=0)

    def close(self) -> None:
        """Removes the socket's folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


def translate(events: Iterable[Any], block_tokens: int) -> list[KvEvent]:
    """Returns vLLM's events as the port's; removals that follow one another become one.

    Left out is what the port has no word for: blocks of other memories than the GPU's, of a
    hybrid model's further groups of layers, and of another size.
    """
    found: list[KvEvent] = []
    removed: list[int] = []
    for event in events:
        if isinstance(event, BlockRemoved):
            if _is_ours(event):
                removed += map(_hash, event.block_hashes)
            continue
        if removed:
            found.append(KvRemoved(removed))
            removed = []
        if isinstance(event, AllBlocksCleared):
            found.append(KvCleared())
        elif isinstance(event, BlockStored) and _is_ours(event, block_tokens):
            found.append(_stored(event))
    if removed:
        found.append(KvRemoved(removed))
    return found


def _is_ours(event: Any, block_tokens: int | None = None) -> bool:
    if event.medium not in (None, "GPU") or event.group_idx:
        return False
    return block_tokens is None or event.block_size == block_tokens


def _stored(event: Any) -> KvStored:
    parent = event.parent_block_hash
    return KvStored(
        parent_hash=0 if parent is None else _hash(parent),
        block_hashes=[_hash(each) for each in event.block_hashes],
        token_ids=event.token_ids,
        lora_adapter=own_name(event.lora_name),
        cache_salt=_salt(event),
    )


def _salt(event: Any) -> str:
    """Returns the salt of a prompt's first block; empty: none, or it is a later block."""
    if event.parent_block_hash is not None or not event.extra_keys or not event.extra_keys[0]:
        return ""
    # What its hash takes beside the ids: the adapter's name first, the salt last.
    keys = event.extra_keys[0][1 if event.lora_name else 0 :]
    return keys[-1] if keys and isinstance(keys[-1], str) else ""


def _hash(block_hash: Any) -> int:
    """Returns the low 64 bits, which is what vLLM gives as a number; it can also give all bytes."""
    if isinstance(block_hash, bytes):
        return int.from_bytes(block_hash[-8:], "big")
    return int(block_hash) & _HASH_MASK
