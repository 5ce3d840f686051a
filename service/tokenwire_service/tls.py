"""TLS credentials from PEM files, which may change while the service runs.

A port uses a new certificate from the next connection on; a channel that is opened has what the
files said last. Connections that exist stay as they are.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc

from tokenwire_service.settings import TlsSettings
from tokenwire_service.watching import Watched

Credentials = Callable[[], grpc.ChannelCredentials | None]
"""Returns the credentials of a channel that is about to be opened; None: plain text."""


class TlsError(ValueError):
    """The TLS settings do not go together, or a file of theirs can't be used; names the setting."""


class ServerTls:
    """TLS of listening ports.

    Args:
        tls: the settings.
        setting: what their names begin with, for errors.

    Raises:
        TlsError: one of certificate and key is missing, or a file can't be used.
    """

    def __init__(self, tls: TlsSettings, setting: str = "--tls.") -> None:
        self.files: Watched[grpc.ServerCertificateConfiguration] | None = None
        """To be watched; None: plain text."""
        self._asks = tls.ca is not None
        if _is_served(tls, setting):
            self.files = Watched(f"{setting}*", _paths(tls), partial(_of_server, tls, setting))

    def credentials(self) -> grpc.ServerCredentials | None:
        """Returns the credentials of one port, or None for plain text."""
        files = self.files
        if files is None:
            return None
        served = files.value

        def changed() -> grpc.ServerCertificateConfiguration | None:
            """Called by gRPC before each handshake, on a thread of its own."""
            nonlocal served
            if files.value is served:
                return None
            served = files.value
            return served

        return grpc.dynamic_ssl_server_credentials(
            served,
            changed,  # type: ignore[arg-type] # it may return None, as gRPC says
            require_client_authentication=self._asks,
        )


class HttpTls:
    """TLS of a port that speaks HTTP.

    Args:
        tls: the settings.
        setting: what their names begin with, for errors.

    Raises:
        TlsError: one of certificate and key is missing, or a file can't be used.
    """

    def __init__(self, tls: TlsSettings, setting: str = "--tls.") -> None:
        self.files: Watched[ssl.SSLContext] | None = None
        """To be watched; None: plain text."""
        if _is_served(tls, setting):
            self.files = Watched(f"{setting}*", _paths(tls), partial(_of_http, tls, setting))

    def context(self) -> ssl.SSLContext | None:
        """Returns what the port is opened with, or None for plain text."""
        files = self.files
        if files is None:
            return None

        def changed(handshake: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
            """Called before each handshake goes on."""
            handshake.context = files.value

        files.value.sni_callback = changed
        return files.value


class ChannelTls:
    """TLS of channels.

    Args:
        tls: the settings.
        setting: what their names begin with, for errors, such as `--tls.`.

    Raises:
        TlsError: a certificate without a key or the reverse, or a file can't be used.
    """

    def __init__(self, tls: TlsSettings, setting: str) -> None:
        self.files: Watched[grpc.ChannelCredentials] | None = None
        """To be watched; None: plain text."""
        if tls.ca is not None:
            read = partial(_of_channel, tls.ca, tls, setting)
            self.files = Watched(f"{setting}*", _paths(tls), read)
        elif tls.certificate or tls.key:
            raise TlsError(f"{setting}ca is missing, the authority to trust")

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Returns the credentials of a channel, or None for plain text."""
        return None if self.files is None else self.files.value


def _paths(tls: TlsSettings) -> list[Path]:
    return [path for path in (tls.certificate, tls.key, tls.ca) if path is not None]


def _is_served(tls: TlsSettings, setting: str) -> bool:
    """Returns whether a port has TLS."""
    if tls.certificate is None and tls.key is None:
        if tls.ca is not None:
            raise TlsError(f"{setting}ca needs {setting}certificate and {setting}key")
        return False
    return True


def _of_http(tls: TlsSettings, setting: str) -> ssl.SSLContext:
    _pair(tls, setting)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca is not None:
        _authorities(tls.ca, setting)
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(tls.ca)
    assert tls.certificate is not None  # noqa: S101 - checked before; for the type checker
    made.load_cert_chain(tls.certificate, tls.key, "")
    return made


def _of_server(tls: TlsSettings, setting: str) -> grpc.ServerCertificateConfiguration:
    authorities = _authorities(tls.ca, setting) if tls.ca else None
    return grpc.ssl_server_certificate_configuration([_pair(tls, setting)], authorities)


def _of_channel(ca: Path, tls: TlsSettings, setting: str) -> grpc.ChannelCredentials:
    authorities = _authorities(ca, setting)
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
    except (ssl.SSLError, OSError) as error:
        raise TlsError(
            f"{setting}certificate {tls.certificate} and {setting}key {tls.key} "
            f"can't be used together: {error}"
        ) from error
    return pair


def _authorities(path: Path, setting: str) -> bytes:
    content = _read(path, f"{setting}ca")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise TlsError(f"{setting}ca {path} holds no certificate: {error}") from error
    return content


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{setting} {path}: {error.strerror}") from error
