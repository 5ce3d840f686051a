"""Tokenwire's Python client: text generation over gRPC.

    from tokenwire import Client

    with Client("127.0.0.1:50051") as client:
        for delta in client.stream(chat=[{"role": "user", "content": "hi"}], timeout=10):
            print(delta.text, end="", flush=True)

`Client` blocks, `AsyncClient` awaits; both have the same methods. The generated stubs of both
contracts are in `tokenwire.frontend.v1` and `tokenwire.worker.v1`.
"""

from importlib.metadata import version

from tokenwire._api_key import ApiKey
from tokenwire._channel import Tls
from tokenwire._retry import RetryPolicy
from tokenwire.activity import ActivityStream, AsyncActivityStream
from tokenwire.async_client import AsyncClient
from tokenwire.client import Client
from tokenwire.errors import (
    DeadlineExceededError,
    FieldViolation,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    Quota,
    RequestCancelledError,
    TokenwireError,
    UnauthenticatedError,
    UnavailableError,
    UnreachableError,
    UnsupportedError,
)
from tokenwire.options import ChatOptions, GenerationOptions
from tokenwire.session import Session, SessionGeneration
from tokenwire.streams import AsyncGenerationStream, GenerationStream
from tokenwire.types import (
    Accepted,
    Activity,
    Alternative,
    Answer,
    Attempt,
    ChatMessage,
    ConversationPrompt,
    Delta,
    FinishReason,
    ModelInfo,
    Outcome,
    Quantiles,
    Record,
    RenderedChat,
    SequenceResult,
    Stage,
    Timings,
    TokenLogprob,
    Tokens,
    ToolCall,
    ToolCallDelta,
    Usage,
    WorkerInfo,
)

__version__ = version("tokenwire")

__all__ = [
    "Accepted",
    "Activity",
    "ActivityStream",
    "Alternative",
    "Answer",
    "ApiKey",
    "AsyncActivityStream",
    "AsyncClient",
    "AsyncGenerationStream",
    "Attempt",
    "ChatMessage",
    "ChatOptions",
    "Client",
    "ConversationPrompt",
    "DeadlineExceededError",
    "Delta",
    "FieldViolation",
    "FinishReason",
    "GenerationOptions",
    "GenerationStream",
    "InternalError",
    "InvalidRequestError",
    "ModelInfo",
    "NotFoundError",
    "Outcome",
    "OverloadedError",
    "PermissionDeniedError",
    "Quantiles",
    "Quota",
    "Record",
    "RenderedChat",
    "RequestCancelledError",
    "RetryPolicy",
    "SequenceResult",
    "Session",
    "SessionGeneration",
    "Stage",
    "Timings",
    "Tls",
    "TokenLogprob",
    "Tokens",
    "TokenwireError",
    "ToolCall",
    "ToolCallDelta",
    "UnauthenticatedError",
    "UnavailableError",
    "UnreachableError",
    "UnsupportedError",
    "Usage",
    "WorkerInfo",
    "__version__",
]
