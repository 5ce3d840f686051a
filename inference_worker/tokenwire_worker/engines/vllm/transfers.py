"""How vLLM engines fetch the KV cache of prompts from each other: its NIXL connector.

The engine that computes a prompt keeps its blocks, and tells with the request's end what another
needs to read them (`RequestOutput.kv_transfer_params`). That one reads the blocks of the whole
prompt, and computes its last token again: so it draws the first token itself, with the request's
own state, and the one that the first engine had to make is dropped.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Any

from vllm.config import KVTransferConfig

from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.handles import has, opened, sealed

if TYPE_CHECKING:
    from tokenwire_worker.engines.port import Generation
    from tokenwire_worker.engines.vllm.settings import VllmSettings

CONNECTOR = "NixlConnector"

ROLES = {"any": "kv_both", "prefill": "kv_producer", "decode": "kv_consumer"}
"""kv_role by what a worker is for."""

DEFAULTS: dict[str, Any] = {
    "kv_connector": CONNECTOR,
    # A prompt whose blocks are gone is computed, and its request does not fail.
    "kv_load_failure_policy": "recompute",
}

ASKED = {"do_remote_decode": True, "do_remote_prefill": False}
"""kv_transfer_params of a prompt that another engine goes on with."""

_NEEDED: dict[str, type] = {
    "do_remote_prefill": bool,
    "remote_block_ids": list,
    "remote_engine_id": str,
    "remote_request_id": str,
    "remote_host": str,
    "remote_port": int,
    "tp_size": int,
}
"""What vLLM reads of such parameters."""


def transfer_config(own: VllmSettings, phases: str) -> Any:
    """Returns the KVTransferConfig that the settings ask for, and says where NIXL is to listen.

    Args:
        own: the settings.
        phases: what the worker is for.

    Raises:
        EngineError: vLLM does not take it.
    """
    free_port = _free_port(own.nixl_host)
    os.environ["VLLM_NIXL_SIDE_CHANNEL_HOST"] = own.nixl_host
    os.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(own.nixl_port or free_port)
    try:
        changes = own.kv_transfer_config or {}
        return KVTransferConfig(**{**DEFAULTS, "kv_role": ROLES[phases], **changes})
    except (TypeError, ValueError) as error:
        raise EngineError(f"--vllm.kv-transfer-config: {error}") from error


def _free_port(host: str) -> int:
    try:
        family = socket.getaddrinfo(host, None)[0][0]
        with socket.socket(family) as probe:
            probe.bind((host, 0))
            address, port = probe.getsockname()[:2]
    except OSError as error:
        raise EngineError(f"--vllm.nixl-host {host}: {error}") from error
    if ipaddress.ip_address(address).is_unspecified:
        raise EngineError(
            f"--vllm.nixl-host {host}: others can't find this worker there; "
            "its own address is required"
        )
    return int(port)


def packed(generation: Generation, parameters: dict[str, Any] | None) -> bytes:
    """Returns what vLLM told at the end of a prompt as a handle; empty: nobody can fetch it."""
    if not parameters or not parameters.get("remote_block_ids"):
        return b""
    return sealed(generation, parameters)


def unpacked(generation: Generation) -> dict[str, Any] | None:
    """Returns the kv_transfer_params of a generation's handle; None: it is not one of its prompt.

    With parameters that lack something vLLM would end, or wait for ever.
    """
    parameters = opened(generation)
    if parameters is None or not has(parameters, _NEEDED) or not parameters["remote_block_ids"]:
        return None
    return parameters
