"""How a client reaches its server: target, TLS, channel arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import grpc

from tokenwire.channel_arguments import CLIENT

ChannelArgument = tuple[str, int | str]


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


def open_channel(
    target: str, tls: Tls | None, arguments: Sequence[ChannelArgument]
) -> grpc.Channel:
    """Returns a channel; it connects with its first call."""
    options = [*CLIENT, *arguments]
    if tls is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, tls.credentials(), options)


def open_async_channel(
    target: str, tls: Tls | None, arguments: Sequence[ChannelArgument]
) -> grpc.aio.Channel:
    """Returns a channel of the running event loop; it connects with its first call."""
    options = [*CLIENT, *arguments]
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, tls.credentials(), options)


def _read(path: str | PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
