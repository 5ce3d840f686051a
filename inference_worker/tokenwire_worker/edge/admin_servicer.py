"""AdminService: changes what the worker serves."""

from __future__ import annotations

from typing import Any

from tokenwire.worker.v1 import admin_pb2 as pb

from tokenwire_worker.lora import LoraAdapter, LoraAdapters, LoraState

_STATES = {
    LoraState.LOADING: pb.LORA_ADAPTER_STATE_LOADING,
    LoraState.LOADED: pb.LORA_ADAPTER_STATE_LOADED,
    LoraState.UNLOADING: pb.LORA_ADAPTER_STATE_UNLOADING,
}


class AdminServicer:
    """Serves AdminService."""

    def __init__(self, adapters: LoraAdapters) -> None:
        """Takes what it changes."""
        self._adapters = adapters

    async def LoadLoraAdapter(
        self, request: pb.LoadLoraAdapterRequest, _context: Any
    ) -> pb.LoadLoraAdapterResponse:
        """Loads a LoRA adapter."""
        adapter = await self._adapters.load(request.name, request.path)
        return pb.LoadLoraAdapterResponse(adapter=_adapter(adapter, generations=0))

    async def UnloadLoraAdapter(
        self, request: pb.UnloadLoraAdapterRequest, _context: Any
    ) -> pb.UnloadLoraAdapterResponse:
        """Unloads a LoRA adapter once no generation has it any more."""
        await self._adapters.unload(request.name)
        return pb.UnloadLoraAdapterResponse()

    async def ListLoraAdapters(
        self, _request: pb.ListLoraAdaptersRequest, _context: Any
    ) -> pb.ListLoraAdaptersResponse:
        """Lists the LoRA adapters."""
        return pb.ListLoraAdaptersResponse(
            adapters=[_adapter(each, generations) for each, generations in self._adapters.list()]
        )


def _adapter(adapter: LoraAdapter, generations: int) -> pb.LoraAdapter:
    return pb.LoraAdapter(
        name=adapter.name,
        path=adapter.path,
        state=_STATES[adapter.state],
        generations=generations,
    )
