"""TLS credentials from PEM files."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from tokenwire_service.settings import TlsSettings


class TlsError(ValueError):
    """The TLS settings do not go together, or a file of theirs can't be used; names the setting."""


def server_credentials(tls: TlsSettings, setting: str = "--tls.") -> grpc.ServerCredentials | None:
    """Returns the credentials of a listening port, or None for plain text.

    Args:
        tls: the settings.
        setting: what their names begin with, for errors.

    Raises:
        TlsError: one of certificate and key is missing, or a file can't be used.
    """
    if tls.certificate is None and tls.key is None:
        if tls.ca is not None:
            raise TlsError(f"{setting}ca needs {setting}certificate and {setting}key")
        return None
    pair = _pair(tls, setting)
    authorities = _authorities(tls.ca, setting) if tls.ca else None
    return grpc.ssl_server_credentials(
        [pair], root_certificates=authorities, require_client_auth=authorities is not None
    )


def channel_credentials(tls: TlsSettings, setting: str) -> grpc.ChannelCredentials | None:
    """Returns the credentials of a channel, or None for plain text.

    Args:
        tls: the settings.
        setting: what their names begin with, for errors, such as `--tls.`.

    Raises:
        TlsError: a certificate without a key or the reverse, or a file can't be used.
    """
    if tls.ca is None:
        if tls.certificate or tls.key:
            raise TlsError(f"{setting}ca is missing, the authority to trust")
        return None
    authorities = _authorities(tls.ca, setting)
    if tls.certificate is None and tls.key is None:
        return grpc.ssl_channel_credentials(root_certificates=authorities)
    key, chain = _pair(tls, setting)
    return grpc.ssl_channel_credentials(authorities, private_key=key, certificate_chain=chain)


def _pair(tls: TlsSettings, setting: str) -> tuple[bytes, bytes]:
    """Returns the key and the certificate chain.

    gRPC says of a file that it can't use only that the port can't be opened, so both are tried
    here.
    """
    if tls.certificate is None or tls.key is None:
        raise TlsError(f"{setting}certificate and {setting}key go together")
    pair = _read(tls.key, f"{setting}key"), _read(tls.certificate, f"{setting}certificate")
    try:
        # An empty password, so that an encrypted key fails and nothing is asked on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, "")
    except ssl.SSLError as error:
        raise TlsError(
            f"{setting}certificate {tls.certificate} and {setting}key {tls.key} "
            f"can't be used together: {error}"
        ) from error
    return pair


def _authorities(path: Path, setting: str) -> bytes:
    content = _read(path, f"{setting}ca")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise TlsError(f"{setting}ca {path} holds no certificate: {error}") from error
    return content


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{setting} {path}: {error.strerror}") from error
