"""LoRA adapters of vLLM."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from tokenwire_worker.engines.loop_thread import LoopThread
from tokenwire_worker.engines.port import Refused
from tokenwire_worker.engines.text import told

_OF_LOAD = "-"
"""Stands in vLLM's name of an adapter between ours and the number of the load."""


def own_name(name: str | None) -> str:
    """Returns the name of the adapter that vLLM calls so; empty for none."""
    return (name or "").rpartition(_OF_LOAD)[0]


class Adapters:
    """What vLLM has loaded, by name; used on the engine's loop.

    vLLM knows an adapter by a number, and KV blocks by the name in its request. Both are new with
    each load, so that nothing is reused of an earlier adapter of the same name.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._requests: dict[str, Any] = {}
        self._loads = 0

    def request(self, name: str) -> Any:
        """Returns the LoRARequest of an adapter that is loaded; None for an empty name."""
        return self._requests[name] if name else None

    async def load(self, name: str, path: Path) -> None:
        """Loads an adapter; raises whatever vLLM does."""
        self._loads += 1
        request = LoRARequest(f"{name}{_OF_LOAD}{self._loads}", self._loads, str(path))
        await self._llm.add_lora(request)
        self._requests[name] = request

    async def unload(self, name: str) -> None:
        """Lets go of an adapter."""
        await self._llm.remove_lora(self._requests[name].lora_int_id)
        del self._requests[name]


class LiveAdapters:
    """Changes the adapters of an engine that runs; called on any other loop.

    Args:
        adapters: the engine's.
        thread: the engine's.
    """

    def __init__(self, adapters: Adapters, thread: LoopThread) -> None:
        self._adapters = adapters
        self._thread = thread

    async def load(self, name: str, path: Path) -> None:
        """Loads an adapter from its folder, in PEFT's form."""
        try:
            await asyncio.to_thread(self._thread.run, self._adapters.load(name, path))
        except EngineDeadError:
            raise
        except Exception as error:  # vLLM tells what is wrong with files in errors of every kind
            raise Refused("path", told(error)) from error

    async def unload(self, name: str) -> None:
        """Lets go of an adapter."""
        await asyncio.to_thread(self._thread.run, self._adapters.unload(name))
