"""How a client reaches its server: target, TLS, channel arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from tokenwire._api_key import ApiKey, carrying
from tokenwire.channel_arguments import client, merged

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from tokenwire._spans import Tracing

ChannelArgument = tuple[str, int | str]

_TARGET = re.compile(r"(?:\[[^\]]+\]|[^\[\]:/]+):(?P<port>[0-9]{1,5})")
_GRPC_NAME = re.compile(r"(?:dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):.+")
"""What gRPC resolves beside HOST:PORT."""
_ADDRESSES = re.compile(r"ipv[46]:")
"""Names that are lists with commas themselves."""


@dataclass(frozen=True)
class Tls:
    """TLS of the connection; the files are PEM. `Tls()` trusts the public authorities."""

    ca: str | PathLike[str] | None = None
    """Authorities that the server's certificate must come from."""
    certificate: str | PathLike[str] | None = None
    """Own certificate chain, where the server asks for one; needs `key`."""
    key: str | PathLike[str] | None = None
    """Private key of the certificate."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS: certificate and key go together")

    def credentials(self) -> grpc.ChannelCredentials:
        """Returns the channel's credentials; an unreadable file raises OSError."""
        return grpc.ssl_channel_credentials(
            _read(self.ca), _read(self.key), _read(self.certificate)
        )


def is_target(value: str) -> bool:
    """Whether a client can be given this target: HOST:PORT, or another name that gRPC resolves."""
    found = _TARGET.fullmatch(value)
    return bool(found and 0 < int(found["port"]) < 2**16) or bool(_GRPC_NAME.fullmatch(value))


def checked_targets(target: str | Sequence[str]) -> list[str]:
    """Returns the targets of a client, each once.

    Args:
        target: one, several separated by commas, or a list of them.

    Raises:
        ValueError: one is none.
    """
    if not isinstance(target, str):
        targets = list(target)
    elif _ADDRESSES.match(target):
        targets = [target]
    else:
        targets = [each.strip() for each in target.split(",")]
    for each in targets:
        if not is_target(each):
            raise ValueError(f"target: {each!r} is not HOST:PORT, such as 127.0.0.1:50051")
    if not targets:
        raise ValueError("target: at least one is required")
    return list(dict.fromkeys(targets))


def tracing_to(target: str, tracing: bool | TracerProvider) -> Tracing | None:
    """Returns what makes the spans of calls to a target, if there are to be any.

    Raises:
        ImportError: OpenTelemetry is not installed.
    """
    if tracing is False:
        return None
    try:
        # Only here, because it is no dependency of the client.
        from tokenwire._spans import Tracing  # noqa: PLC0415
    except ImportError:
        message = "tracing needs OpenTelemetry: pip install opentelemetry-api"
        raise ImportError(message) from None
    return Tracing(target, None if tracing is True else tracing)


def open_channel(
    target: str,
    tls: Tls | None,
    arguments: Sequence[ChannelArgument],
    tracing: Tracing | None = None,
    api_key: ApiKey | None = None,
) -> grpc.Channel:
    """Returns a channel; it connects with its first call."""
    options = merged(client(target), *arguments)
    if tls is None:
        channel = grpc.insecure_channel(target, options)
    else:
        channel = grpc.secure_channel(target, tls.credentials(), options)
    channel = carrying(channel, api_key)
    if tracing is None:
        return channel
    from tokenwire.telemetry import ClientInterceptor  # noqa: PLC0415 - as above

    return grpc.intercept_channel(channel, ClientInterceptor(tracing))


def open_async_channel(
    target: str,
    tls: Tls | None,
    arguments: Sequence[ChannelArgument],
    tracing: Tracing | None = None,
    api_key: ApiKey | None = None,
) -> grpc.aio.Channel:
    """Returns a channel of the running event loop; it connects with its first call."""
    options = merged(client(target), *arguments)
    interceptors: list[grpc.aio.ClientInterceptor] = []
    if tracing is not None:
        from tokenwire.telemetry import async_interceptors  # noqa: PLC0415 - as above

        interceptors = async_interceptors(tracing)
    if tls is None:
        channel = grpc.aio.insecure_channel(target, options, interceptors=interceptors)
    else:
        channel = grpc.aio.secure_channel(
            target, tls.credentials(), options, interceptors=interceptors
        )
    return carrying(channel, api_key)


def _read(path: str | PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
