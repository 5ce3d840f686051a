"""Handles by which an engine fetches a prompt: what another told of it, and whose it is.

A handle is only as good as the caller that brings it. With that of another prompt, engines have
ended; so it names its prompt, and what does not fit is as none.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from array import array
from typing import Any

from tokenwire_worker.engines.port import Generation

TOLD_BYTES = 16 * 2**20
"""Most bytes of what is unpacked: what vLLM tells of a prompt of a million tokens has 0.5 MB."""


def sealed(generation: Generation, told: dict[str, Any]) -> bytes:
    """Returns the handle of a generation's prompt.

    Args:
        generation: whose prompt was computed.
        told: what the engine told of it, in values of JSON.
    """
    text = json.dumps({"prompt": _digest(generation), "told": told}, separators=(",", ":"))
    return zlib.compress(text.encode())


def opened(generation: Generation) -> dict[str, Any] | None:
    """Returns what was told in a generation's handle; None: it is not that of its prompt."""
    try:
        reader = zlib.decompressobj()
        read = json.loads(reader.decompress(generation.transfer_handle, TOLD_BYTES))
        if read["prompt"] != _digest(generation):
            return None
        told: Any = read["told"]
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def has(told: dict[str, Any], needed: dict[str, type]) -> bool:
    """Tells whether all that an engine reads is there, of the right types."""
    return all(isinstance(told.get(name), kind) for name, kind in needed.items())


def _digest(generation: Generation) -> str:
    """Returns what stands for all that a prompt's blocks follow from."""
    of = f"{generation.lora_adapter}\0{generation.cache_salt}\0".encode()
    digest = hashlib.blake2b(of, digest_size=16)
    digest.update(array("I", generation.prompt).tobytes())
    return digest.hexdigest()
