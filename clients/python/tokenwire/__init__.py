"""Tokenwire's Python client: text generation over gRPC.

    from tokenwire import Client

    with Client("127.0.0.1:50051") as client:
        for delta in client.stream(chat=[{"role": "user", "content": "hi"}], timeout=10):
            print(delta.text, end="", flush=True)

`Client` blocks, `AsyncClient` awaits; both have the same methods. The generated stubs of both
contracts are in `tokenwire.frontend.v1` and `tokenwire.worker.v1`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

_HOMES = {
    "_api_key": ("ApiKey",),
    "_channel": ("Tls",),
    "_retry": ("RetryPolicy",),
    "activity": (
        "ActivityStream",
        "AsyncActivityStream",
    ),
    "async_client": ("AsyncClient",),
    "client": ("Client",),
    "errors": (
        "DeadlineExceededError",
        "FieldViolation",
        "InternalError",
        "InvalidRequestError",
        "NotFoundError",
        "OverloadedError",
        "PermissionDeniedError",
        "Quota",
        "RequestCancelledError",
        "TokenwireError",
        "UnauthenticatedError",
        "UnavailableError",
        "UnreachableError",
        "UnsupportedError",
    ),
    "options": (
        "ChatOptions",
        "GenerationOptions",
    ),
    "session": (
        "Session",
        "SessionGeneration",
    ),
    "streams": (
        "AsyncGenerationStream",
        "GenerationStream",
    ),
    "types": (
        "Accepted",
        "Activity",
        "Alternative",
        "Answer",
        "Attempt",
        "ChatMessage",
        "ConversationPrompt",
        "Delta",
        "FinishReason",
        "ModelInfo",
        "Outcome",
        "Quantiles",
        "Record",
        "RenderedChat",
        "SequenceResult",
        "Stage",
        "Timings",
        "TokenLogprob",
        "Tokens",
        "ToolCall",
        "ToolCallDelta",
        "Usage",
        "WorkerInfo",
    ),
}
"""Public names by module. Each is imported when it is first asked for: the services need little of
this package, and start 0.2 s sooner for it."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__version__ = version("tokenwire")

__all__ = [*sorted(_HOME_OF), "__version__"]  # noqa: PLE0604 - the stub has them one by one


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
