"""LoRA adapters of TensorRT-LLM, which loads one when a request first brings it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tensorrt_llm import SamplingParams
from tensorrt_llm.llmapi import LoRARequest, RequestError

from tokenwire_worker.engines.loop_thread import LoopThread
from tokenwire_worker.engines.port import Refused
from tokenwire_worker.engines.text import told


class Adapters:
    """What requests may bring, by name.

    TensorRT-LLM keeps weights and KV blocks by an adapter's number. It is new with each load, so
    that nothing is reused of an earlier adapter of the same name.

    Args:
        named: those that the settings name, with their folders.
    """

    def __init__(self, named: Iterable[tuple[str, Path]]) -> None:
        self._requests: dict[str, Any] = {}
        self._numbers = 0
        for name, path in named:
            self.add(name, self.numbered(name, path.expanduser()))

    def numbered(self, name: str, path: Path) -> Any:
        """Returns the LoRARequest of an adapter with a number that none has had."""
        self._numbers += 1
        return LoRARequest(name, self._numbers, str(path))

    def add(self, name: str, request: Any) -> None:
        """Has requests bring an adapter."""
        self._requests[name] = request

    def remove(self, name: str) -> None:
        """Has requests bring it no more; TensorRT-LLM drops its weights when others need room."""
        del self._requests[name]

    def request(self, name: str) -> Any:
        """Returns the LoRARequest of an adapter."""
        return self._requests[name]


class LiveAdapters:
    """Changes the adapters of an engine that runs; called on any other loop.

    Args:
        llm: the tensorrt_llm.LLM.
        adapters: the engine's.
        thread: the engine's.
    """

    def __init__(self, llm: Any, adapters: Adapters, thread: LoopThread) -> None:
        self._llm = llm
        self._adapters = adapters
        self._thread = thread

    async def load(self, name: str, path: Path) -> None:
        """Loads an adapter from its folder, by a request of one token for it."""
        try:
            request = self._adapters.numbered(name, path)
            await asyncio.to_thread(self._thread.run, self._try(request))
        except (RequestError, ValueError, OSError) as error:
            raise Refused("path", told(error)) from error
        self._adapters.add(name, request)

    async def unload(self, name: str) -> None:
        """Lets go of an adapter."""
        self._adapters.remove(name)

    async def _try(self, request: Any) -> None:
        params = SamplingParams(end_id=-1, pad_id=0, max_tokens=1, top_k=1, detokenize=False)
        async for _ in self._llm.generate_async([0], params, lora_request=request, streaming=True):
            pass
