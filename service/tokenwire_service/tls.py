"""TLS credentials from PEM files."""

from __future__ import annotations

from pathlib import Path

import grpc

from tokenwire_service.settings import TlsSettings


class TlsError(ValueError):
    """The TLS settings do not go together, or a file of theirs can't be read."""


def server_credentials(tls: TlsSettings) -> grpc.ServerCredentials | None:
    """Returns the credentials of a listening port, or None for plain text.

    Raises:
        TlsError: one of certificate and key is missing, or a file can't be read.
    """
    if tls.certificate is None and tls.key is None:
        if tls.ca is not None:
            raise TlsError("--tls.ca needs --tls.certificate and --tls.key")
        return None
    if tls.certificate is None or tls.key is None:
        raise TlsError("--tls.certificate and --tls.key go together")
    pair = (_read(tls.key), _read(tls.certificate))
    authorities = _read(tls.ca) if tls.ca else None
    return grpc.ssl_server_credentials(
        [pair], root_certificates=authorities, require_client_auth=authorities is not None
    )


def channel_credentials(tls: TlsSettings) -> grpc.ChannelCredentials | None:
    """Returns the credentials of a channel, or None for plain text.

    Raises:
        TlsError: a certificate without a key or the reverse, or a file can't be read.
    """
    if tls.ca is None:
        if tls.certificate or tls.key:
            raise TlsError("a client certificate needs `ca` too, the authority to trust")
        return None
    if (tls.certificate is None) != (tls.key is None):
        raise TlsError("certificate and key go together")
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca),
        private_key=_read(tls.key) if tls.key else None,
        certificate_chain=_read(tls.certificate) if tls.certificate else None,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror}") from error
