"""Every engine by name: where its adapter is, and what it needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Adapter:
    """Where an engine's adapter is, and what it needs."""

    module: str
    """A module that is an `EngineModule`."""
    needs: tuple[str, ...]
    """Top-level modules that the engine's own package brings."""
    extra: str
    """Extra of `tokenwire-worker` that installs it; empty where the worker brings all."""
    constraints: str
    """File of the versions that it was tested with, in a checkout."""
    simulated: bool = False
    """It computes nothing, so one process has room for several of its workers."""
    transfers: bool = False
    """It can hand over the KV cache of a prompt, and fetch one."""
    guarded: bool = False
    """Its processes do not end by themselves when the worker does; see `guard`."""

    @property
    def how_to_install(self) -> str:
        """The command, for somebody in a checkout."""
        worker = f"'./inference_worker[{self.extra}]'"
        return f"pip install -c {self.constraints} {worker} in a checkout of Tokenwire"


ADAPTERS = {
    "openvino": Adapter(
        "tokenwire_worker.engines.openvino.adapter",
        ("openvino_genai", "openvino", "numpy"),
        "openvino",
        "constraints/cpu.txt",
    ),
    "simulated": Adapter(
        "tokenwire_worker.engines.simulated.adapter",
        (),
        "",
        "constraints/cpu.txt",
        simulated=True,
        transfers=True,
    ),
    "tensorrt_llm": Adapter(
        "tokenwire_worker.engines.tensorrt_llm.adapter",
        ("tensorrt_llm",),
        "tensorrt-llm",
        "constraints/tensorrt_llm.txt",
        transfers=True,
        guarded=True,
    ),
    "vllm": Adapter(
        "tokenwire_worker.engines.vllm.adapter",
        ("vllm", "torch", "zmq", "msgspec"),
        "vllm",
        "constraints/vllm.txt",
        transfers=True,
        guarded=True,
    ),
}
"""Every engine; a further one is a line here and a package."""
