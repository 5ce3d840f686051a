"""Who may call a worker: frontends, and those who administer it."""

from __future__ import annotations

from typing import Any

import grpc
from tokenwire_service.client_names import ClientNames
from tokenwire_service.rpc_boundary import Admit

from tokenwire_worker.settings import WorkerTlsSettings

ADMIN_SERVICE = "tokenwire.worker.v1.AdminService"


def admission(tls: WorkerTlsSettings) -> Admit | None:
    """Returns what lets calls in; None: the port knows nobody, and everybody may do everything.

    Who administers a worker need not be one of its clients, and the other way round: a frontend's
    certificate does not change what is served.
    """
    if tls.ca is None:
        return None
    names = tls.client_names
    clients = ClientNames("--tls.client-names", names) if names else None
    administrators = ClientNames("--tls.admin-names", tls.admin_names)

    def admit(method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if method.startswith(f"{ADMIN_SERVICE}/"):
            administrators.admit(method, context)
        elif clients is not None:
            clients.admit(method, context)

    return admit
