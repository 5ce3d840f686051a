"""Who a request is from, in the form that `edge/callers.py` asks of a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aiohttp import web

from tokenwire_frontend.edge.callers import CREDENTIAL_KEY, TENANT_KEY

_KEYS = (CREDENTIAL_KEY, TENANT_KEY)
"""Not a voucher's: other frontends do not call here."""


class Headers:
    """A request's headers as metadata, and the names of its client's certificate."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request

    def invocation_metadata(self) -> Iterable[tuple[str, str]]:
        """Returns what says who calls."""
        headers = self._request.headers
        return [(key, headers[key]) for key in _KEYS if key in headers]

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Returns the names of a certificate that was checked, as gRPC names them."""
        transport = self._request.transport
        told = transport.get_extra_info("peercert") if transport else None
        if not told:
            return {}
        names: dict[str, list[bytes]] = {}
        for kind, name in told.get("subjectAltName", ()):
            key = {"URI": "peer_uri", "DNS": "peer_dns"}.get(kind)
            if key is not None:
                names.setdefault(key, []).append(name.encode())
        for relative in told.get("subject", ()):
            for kind, name in relative:
                if kind == "commonName":
                    names.setdefault("x509_common_name", []).append(name.encode())
        return names
