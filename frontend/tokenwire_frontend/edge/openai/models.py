"""/v1/models: what is served."""

from __future__ import annotations

from typing import Any

from tokenwire_frontend.models.model import Model
from tokenwire_frontend.workers.pool import WorkerPool

PATH = "/v1/models"

ONE = PATH + "/{model}"
"""The route of one model; a name may have slashes."""

OWNER = "tokenwire"


def listed(pool: WorkerPool) -> dict[str, Any]:
    """Returns all models, by name."""
    return {"object": "list", "data": [_told(pool.models[name]) for name in sorted(pool.models)]}


def one(pool: WorkerPool, name: str) -> dict[str, Any]:
    """Returns one model.

    Raises:
        ServiceError: no such model is served here.
    """
    return _told(pool.model(name, "model"))


def _told(model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": OWNER,
        "max_model_len": model.limits.context_tokens,
    }
