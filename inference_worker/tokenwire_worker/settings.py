"""The worker's settings: command line, then TOKENWIRE_WORKER_* variables, then these defaults."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict
from tokenwire_service.limits import NAME_CHARACTERS
from tokenwire_service.settings import (
    HIGHEST_PORT,
    Address,
    ServerTlsSettings,
    ServiceSettings,
)

from tokenwire_worker import cache
from tokenwire_worker.engines.adapters import ADAPTERS
from tokenwire_worker.engines.openvino.settings import OpenVinoSettings
from tokenwire_worker.engines.simulated.settings import SimulatedSettings
from tokenwire_worker.engines.tensorrt_llm.settings import TensorRtLlmSettings
from tokenwire_worker.engines.vllm.settings import VllmSettings

Name = Annotated[str, Field(max_length=NAME_CHARACTERS)]
"""A name that frontends take: they refuse a worker with a longer one."""


TransferGroup = Annotated[str, Field(max_length=NAME_CHARACTERS // 2)]
"""What the engine says of its transfers takes the other half of a name."""


class WorkerTlsSettings(ServerTlsSettings):
    """TLS of a worker's port."""

    admin_names: list[str] = Field(
        default=[],
        description="DNS names and URIs of which the certificate of a caller of AdminService, such "
        "as `tokenwire lora`, must have one; repeat for several; where there is `ca`, and no "
        "name here, nobody may call it",
    )


class WorkerSettings(ServiceSettings):
    """One model on one engine, token ids in and out. Environment: TOKENWIRE_WORKER_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="TOKENWIRE_WORKER_")

    model: str = Field(
        description="folder of the model, a .gguf file, or a name on the Hugging Face Hub: "
        "ORG/NAME, or ORG/NAME/FILE.gguf"
    )
    model_name: Name = Field(
        default="",
        description="name that callers know the model by; default: the folder's name, or "
        "the name on the hub",
    )
    worker_name: Name = Field(
        default="", description="name of this worker, unique among its kind; default: host:port"
    )
    listen: Address = Field(
        default="127.0.0.1:50061", description="address to listen on; port 0: any that is free"
    )
    tls: WorkerTlsSettings = Field(
        default=WorkerTlsSettings(),
        description="TLS of the listening port; with `ca`, callers must show a certificate",
    )
    engine: str = Field(
        default="openvino", description=f"the engine, one of: {', '.join(sorted(ADAPTERS))}"
    )
    max_waiting_requests: int = Field(
        default=256,
        ge=0,
        le=100_000,
        description="requests that may wait for the engine; the next is refused",
    )
    context_tokens: int | None = Field(
        default=None,
        ge=2,
        description="most tokens of prompt and output together; default: as the model says",
    )
    tokenizer_folder: Path | None = Field(
        default=None,
        description="folder of tokenizer.json and config.json to use instead of the model's own",
    )
    cache_folder: Path | None = Field(
        default=None,
        description="folder for what is made of models: text files of a GGUF file, converted "
        "models; default: tokenwire in XDG_CACHE_HOME or in ~/.cache",
    )
    lora_folder: Path | None = Field(
        default=None,
        description="folder that LoRA adapters may be loaded from while the worker serves "
        "(`tokenwire lora load`); default: none may",
    )
    phases: Literal["any", "prefill", "decode"] = Field(
        default="any",
        description="phases of generations that it is for: any, each generation whole; prefill, "
        "long prompts, whose KV cache workers for decode fetch; see docs/disaggregation.md",
    )
    transfer_group: TransferGroup = Field(
        default="",
        description="name of the workers that can fetch KV caches from this one, and it from them, "
        "where not all with the same engine can",
    )
    stall_s: float | None = Field(
        default=None,
        ge=0,
        description="time in seconds without a sign of progress of the engine, with work in "
        "flight, after which the worker fails that work and exits with code 70; 0: never; default: "
        "the engine's own, see docs/operations.md",
    )
    load_timeout_s: float = Field(
        default=0.0,
        ge=0,
        description="time in seconds that the engine has to load and compile the model, after "
        "which the worker exits with code 70; 0: as long as it takes",
    )
    openvino: OpenVinoSettings = Field(default_factory=OpenVinoSettings)
    simulated: SimulatedSettings = Field(default_factory=SimulatedSettings)
    tensorrt_llm: TensorRtLlmSettings = Field(default_factory=TensorRtLlmSettings)
    vllm: VllmSettings = Field(default_factory=VllmSettings)

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, engine: str) -> str:
        if engine not in ADAPTERS:
            raise ValueError(f"{engine!r} is none of: {', '.join(sorted(ADAPTERS))}")
        return engine

    @field_validator("lora_folder")
    @classmethod
    def _a_folder(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.expanduser().is_dir():
            raise ValueError(f"{folder} is not a folder")
        return folder

    @model_validator(mode="after")
    def _names_of_administrators(self) -> Self:
        if self.tls.admin_names and self.tls.ca is None:
            raise ValueError("--tls.admin-names requires --tls.ca")
        return self

    @model_validator(mode="after")
    def _able_to_transfer(self) -> Self:
        if self.transfers and not ADAPTERS[self.engine].transfers:
            able = ", ".join(name for name in sorted(ADAPTERS) if ADAPTERS[name].transfers)
            given = f"--phases {self.phases}" if self.phases != "any" else "--transfer-group"
            raise ValueError(f"{given} requires an engine whose KV cache others fetch: {able}")
        return self

    @model_validator(mode="after")
    def _ports_for_all(self) -> Self:
        last = int(self.listen.rpartition(":")[2]) + self._workers - 1
        if last > HIGHEST_PORT:
            raise ValueError(
                f"--simulated.workers: the last port would be {last}; ports end at {HIGHEST_PORT}"
            )
        return self

    @property
    def transfers(self) -> bool:
        """Whether it hands over KV caches, or fetches them."""
        return self.phases != "any" or bool(self.transfer_group)

    @property
    def _workers(self) -> int:
        return self.simulated.workers if ADAPTERS[self.engine].simulated else 1

    def of_each_worker(self) -> list[Self]:
        """Returns the settings of each worker of the process."""
        if self._workers == 1:
            return [self]
        host, _, first = self.listen.rpartition(":")
        port = int(first)
        found = []
        for number in range(1, self._workers + 1):
            changes: dict[str, object] = {"simulated": self.simulated.of_worker(number)}
            if port:
                changes["listen"] = f"{host}:{port + number - 1}"
            if self.worker_name or not port:
                changes["worker_name"] = f"{self.shown_worker_name}-{number}"
            found.append(self.model_copy(update=changes))
        return found

    @property
    def model_path(self) -> Path:
        """The model as a path."""
        return Path(self.model).expanduser()

    @property
    def cache_path(self) -> Path:
        """Folder for what is made of models."""
        folder = self.cache_folder
        return cache.default_folder() if folder is None else folder.expanduser()

    @property
    def text_folder(self) -> Path:
        """Folder of the text-side files and of config.json."""
        if self.tokenizer_folder is not None:
            return self.tokenizer_folder.expanduser()
        path = self.model_path
        return path.parent if path.is_file() else path

    @property
    def text_setting(self) -> str:
        """The setting that names `text_folder`, with its value."""
        if self.tokenizer_folder is not None:
            return f"--tokenizer-folder {self.tokenizer_folder}"
        return f"--model {self.model}"

    @property
    def shown_model_name(self) -> str:
        """Name that callers know the model by."""
        return self.model_name or self.model_path.resolve().name.removesuffix(".gguf")

    @property
    def shown_worker_name(self) -> str:
        """Name of this worker."""
        port = self.listen.rpartition(":")[2]
        # With port 0 the port is not known yet; the process id is as unique on a host.
        return self.worker_name or f"{socket.gethostname()}:{port if int(port) else os.getpid()}"
