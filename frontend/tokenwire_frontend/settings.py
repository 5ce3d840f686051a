"""The frontend's settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict
from tokenwire_service.settings import (
    HIGHEST_PORT,
    Address,
    RemoteAddress,
    ServiceSettings,
    TlsSettings,
    check_remote,
)

from tokenwire_frontend.core.parsers.choice import AUTO, reasoning_names, tool_names
from tokenwire_frontend.identity import api_keys
from tokenwire_frontend.tenants_file import read_tenants
from tokenwire_frontend.workers import workers_file
from tokenwire_frontend.workers.discovery import DNS

FLEET_KEY_LEAST_BYTES = 32
"""Of a fleet key: as many as the signature of a token has."""

FLEET_KEY_MOST_BYTES = 4096
"""A file that has more is another one."""


def read_key(path: Path) -> bytes:
    """Returns the key in a file, without white space at its ends.

    Raises:
        ValueError: the file can't be read, or holds no key.
    """
    try:
        with path.open("rb") as file:
            key = file.read(FLEET_KEY_MOST_BYTES + 1).strip()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if not FLEET_KEY_LEAST_BYTES <= len(key) <= FLEET_KEY_MOST_BYTES:
        raise ValueError(
            f"{path} has {len(key)} bytes; a key has {FLEET_KEY_LEAST_BYTES} to "
            f"{FLEET_KEY_MOST_BYTES}"
        )
    return key


def check_target(text: str) -> str:
    """Returns the text; raises ValueError where it is neither HOST:PORT nor dns:///NAME:PORT."""
    check_remote(text.removeprefix(DNS))
    return text


class JwtSettings(BaseModel):
    """JWTs as credentials."""

    model_config = ConfigDict(extra="forbid")

    jwks: Path | None = Field(
        default=None, description="file with the issuer's public keys (JWKS); it is watched"
    )
    issuer: str = Field(default="", description="what `iss` of a token must be")
    audience: str = Field(default="", description="what `aud` of a token must be, or have")
    tenant_claim: str = Field(default="tenant", description="claim that names the tenant")
    roles_claim: str = Field(
        default="roles",
        description="claim with the roles: a list, or names between spaces; others are ignored",
    )

    @field_validator("jwks")
    @classmethod
    def _usable(cls, value: Path | None) -> Path | None:
        if value is not None:
            from tokenwire_frontend.identity.jwts import read_keys  # noqa: PLC0415 - see `main`

            read_keys(value)
        return value

    @model_validator(mode="after")
    def _whose(self) -> Self:
        if self.jwks is not None and not (self.issuer and self.audience):
            raise ValueError("--jwt.jwks requires --jwt.issuer and --jwt.audience")
        if self.jwks is None and (self.issuer or self.audience):
            raise ValueError("--jwt.issuer and --jwt.audience require --jwt.jwks")
        return self


class FrontendSettings(ServiceSettings):
    """A CPU frontend: text in, streamed text out. Environment: TOKENWIRE_FRONTEND_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="TOKENWIRE_FRONTEND_")

    worker: list[Annotated[str, AfterValidator(check_target)]] = Field(
        [],
        description="address of a worker, HOST:PORT, or a name that stands for several, "
        "dns:///NAME:PORT; repeat for more",
    )
    workers_file: Path | None = Field(
        None,
        description="file that lists further workers, in YAML or JSON: `workers`, a list of "
        "HOST:PORT; it may change at any time",
    )
    worker_dns_interval_s: float = Field(
        5.0,
        ge=1,
        le=3600,
        description="time in seconds between two lookups of a name of --worker",
    )
    listen: Address = Field("127.0.0.1:50051", description="address to serve on; port 0 takes any")
    openai_listen: Address | None = Field(
        None,
        description="address of the OpenAI-compatible HTTP interface; port 0 takes any; without "
        "it the interface is off",
    )
    api_keys_file: Path | None = Field(
        None,
        description="file (YAML) of API keys that callers may show, as `tokenwire-frontend "
        "new-key` writes them; it is watched",
    )
    jwt: JwtSettings = Field(
        default=JwtSettings(), description="JWTs that callers may show; with `jwks`"
    )
    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="processes that serve behind the listening address, each with an event loop "
        "and limits of its own; each connection stays with one of them",
    )
    shared_cores: bool = Field(
        default=False,
        description="for a frontend that shares its cores with an engine or another busy process: "
        "gRPC's thread takes a core as soon as there is something to read. By default it lets the "
        "event loop finish first, which costs less CPU time",
    )
    process_listen: Address = Field(
        "127.0.0.1:0",
        description="where each of several processes is reached by itself: port 0 takes any, "
        "another is that of the first, and the next ones have the next ports",
    )
    worker_tls: TlsSettings = Field(
        default=TlsSettings(), description="TLS of the hop to the workers"
    )
    routing: Literal["prefix", "least_loaded", "round_robin"] = Field(
        "prefix",
        description="how one of several workers is chosen: prefix, the one that has most of the "
        "prompt in its KV cache, unless it has too much to do; least_loaded, whatever caches hold; "
        "round_robin, in turn",
    )
    routing_index_mib: int = Field(
        256,
        ge=1,
        le=16 * 1024,
        description="most memory in MiB for what prefix routing knows of KV caches, about 200 "
        "bytes a block",
    )
    disaggregate_from_tokens: int = Field(
        1024,
        ge=0,
        description="tokens of a prompt, in the KV cache of no worker that it could go to, from "
        "which a worker with --phases prefill computes it, where there is one; 0: none does",
    )
    disaggregate_fetch_factor: float = Field(
        2.0,
        ge=0,
        le=1000,
        description="longest time that fetching such prompts may take, as a multiple of the time "
        "to compute them; if the last ones took longer, each prompt is computed by the worker that "
        "generates its tokens, except for one trial a minute; 0: no limit",
    )
    worker_suspect_s: float = Field(
        3.0,
        ge=1.5,
        le=3600,
        description="silence in seconds after which a worker gets no requests, unless all are "
        "silent, and what it has not accepted goes to another; a worker is heard at least "
        "twice in it",
    )
    worker_lost_s: float = Field(
        8.0,
        ge=1.5,
        le=3600,
        description="silence in seconds after which what a worker has fails as WORKER_LOST",
    )
    worker_answer_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="time in seconds that a worker has to accept or refuse a request before it is "
        "tried elsewhere, the trial of a guided form included, and to complete one that has ended",
    )
    worker_wait_s: float = Field(
        5.0,
        ge=0,
        le=600,
        description="time in seconds, from when no worker of a model is ready any more, in which "
        "new requests for it wait in its queue for one that is; then, and with 0 or without a "
        "queue, they are refused at once",
    )
    move_wait_s: float = Field(
        10.0,
        ge=0,
        le=600,
        description="time in seconds that a generation whose worker was lost waits for another to "
        "go on at, before it fails; 0: it fails at once",
    )
    generations_limit: int = Field(
        1024, ge=1, description="generations at once; the next is refused with RESOURCE_EXHAUSTED"
    )
    queue_limit: int = Field(
        512,
        ge=0,
        le=100_000,
        description="requests that wait here until a worker has room, of each model; 0: none, and "
        "workers are sent what their own queues take",
    )
    queue_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        le=64 * 2**30,
        description="memory in bytes for these requests, of each model",
    )
    queue_wait_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="longest time in seconds that a request waits so; one that would wait for "
        "longer is refused at once",
    )
    worker_ahead: float = Field(
        0.25,
        gt=0,
        le=10,
        description="requests that a worker is sent beyond those that its engine runs at once, as "
        "a share of these, so that it has some when the next ones end",
    )
    tenants_file: Path | None = Field(
        None,
        description="YAML file with the limits of tenants, read again when it changes; without it "
        "tenants have equal shares and no limits",
    )
    retained_bytes: int = Field(
        256 * 2**20,
        ge=2**20,
        le=64 * 2**30,
        description="memory in bytes for generations that outlive their calls, detached or with an "
        "idempotency key; those that ended first make room for others",
    )
    detach_ttl_max_s: float = Field(
        3600.0,
        gt=0,
        le=7 * 86400,
        description="longest time in seconds that such a generation is kept without a caller",
    )
    advertise_address: RemoteAddress | None = Field(
        None, description="address at which other frontends reach this one, HOST:PORT"
    )
    fleet_key: Path | None = Field(
        None,
        description="file with a secret that all frontends have: resume tokens are signed with it, "
        "so that each frontend can read them; without it they are good for this frontend alone",
    )
    peer: list[RemoteAddress] = Field(
        [],
        description="address of another frontend, as that one advertises it: calls for a "
        "generation there are forwarded; repeat for several",
    )
    peer_tls: TlsSettings = Field(
        default=TlsSettings(),
        description="TLS of calls to other frontends, and between the processes of this one",
    )
    tool_parser: str = Field(
        AUTO,
        description="format in which tool calls are read: a name (docs/chat.md), auto for what the "
        "model's files say, or off",
    )
    reasoning_parser: str = Field(
        AUTO, description="likewise for the format in which reasoning is read"
    )
    tokenizer_processes: int = Field(
        2,
        ge=2,
        le=64,
        description="processes that tokenise and render; one of them is kept for short texts",
    )
    fast_encoding: bool = Field(
        default=True,
        description="encode texts with fastokens where it has the ids of tokenizers, short ones "
        "without a process; off leaves all to tokenizers",
    )
    encoding_cache_mib: int = Field(
        32,
        ge=0,
        le=1024,
        description="memory in MiB for encoded texts between special tokens, such as the turns of "
        "a chat, of each model in each tokenizer process; 0 remembers none",
    )
    tokenizer_waiting_limit: int = Field(
        512, ge=1, description="texts in and before the tokenizer; the next is refused"
    )
    conversation_bytes: int = Field(
        256 * 2**20,
        ge=0,
        le=64 * 2**30,
        description="memory in bytes for conversations between two turns: messages, texts and "
        "token ids; the least recently used are dropped first; 0 keeps none",
    )
    conversation_ttl_s: float = Field(
        3600.0,
        gt=0,
        le=30 * 24 * 3600,
        description="time in seconds after which a conversation that is not used is dropped",
    )
    records_limit: int = Field(
        1024,
        ge=0,
        le=100_000,
        description="ended generations to remember for `tokenwire top` and `tokenwire trace`, "
        "about 2 KB each; 0 remembers none",
    )
    trace_content: bool = Field(
        default=False,
        description="write prompts and generated text into spans, at most 16,384 characters each",
    )

    ways_to_authenticate: ClassVar[str] = "--api-keys-file, --jwt.jwks or --tls.ca"

    @property
    def authenticates(self) -> bool:
        """Whether callers must show who they are."""
        return bool(super().authenticates or self.api_keys_file or self.jwt.jwks)

    def addresses(self) -> Iterator[tuple[str, str]]:
        """Yields each address of the services, after its setting's name."""
        yield from super().addresses()
        if self.openai_listen is not None:
            yield "--openai-listen", self.openai_listen
        if self.processes > 1:
            yield "--process-listen", self.process_listen

    @field_validator("api_keys_file")
    @classmethod
    def _usable_keys(cls, value: Path | None) -> Path | None:
        if value is not None:
            api_keys.read(value)
        return value

    @field_validator("workers_file")
    @classmethod
    def _usable_file(cls, value: Path | None) -> Path | None:
        if value is not None:
            workers_file.read(value)
        return value

    @field_validator("processes")
    @classmethod
    def _shared_ports(cls, value: int) -> int:
        if value > 1 and sys.platform != "linux":
            raise ValueError(f"is {value}; more than 1 is supported on Linux alone")
        return value

    @field_validator("process_listen")
    @classmethod
    def _port_of_each(cls, value: str, info: ValidationInfo) -> str:
        last = int(value.rpartition(":")[2]) + info.data.get("processes", 1) - 1
        if last > HIGHEST_PORT:
            raise ValueError(
                f"{value}: the last process has port {last}; ports end at {HIGHEST_PORT}"
            )
        return value

    @field_validator("fleet_key")
    @classmethod
    def _usable_key(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None:
            read_key(value)
            if info.data.get("advertise_address") is None:
                raise ValueError("requires --advertise-address")
        return value

    @field_validator("tenants_file")
    @classmethod
    def _usable_tenants(cls, value: Path | None) -> Path | None:
        if value is not None:
            read_tenants(value)
        return value

    @field_validator("peer")
    @classmethod
    def _same_fleet(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if value and info.data.get("fleet_key") is None:
            raise ValueError("requires --fleet-key")
        return value

    @model_validator(mode="after")
    def _some_workers(self) -> Self:
        if not self.worker and self.workers_file is None:
            raise ValueError("--worker or --workers-file is required")
        return self

    @field_validator("tool_parser", "reasoning_parser")
    @classmethod
    def _known_parser(cls, value: str, info: ValidationInfo) -> str:
        names = tool_names() if info.field_name == "tool_parser" else reasoning_names()
        if value not in names:
            raise ValueError(f"is {value!r}; names are {', '.join(names)}")
        return value
