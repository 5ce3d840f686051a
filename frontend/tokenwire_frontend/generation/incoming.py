"""A generation as a door has received it, not read yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from opentelemetry.context import Context
from opentelemetry.trace import SpanContext
from tokenwire_service.telemetry import loop_lag

from tokenwire_frontend.core.caller import ANYONE, Caller
from tokenwire_frontend.core.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class Terms:
    """How a caller wants a generation kept."""

    detaches: bool = False
    """Its calls may end before it does."""
    ttl_s: float | None = None
    """How long it is kept without a caller; None: not said."""
    key: str = ""
    """The request's idempotency key; empty: none."""
    digest: bytes = b""
    """Of what has to be the same in a request of the same key."""
    so_far: Sequence[tuple[Sequence[int], bool]] = ()
    """Ids of each sequence that the caller has, and whether it has the end too; empty: none of
    any."""


@dataclass(slots=True)
class Incoming:
    """What is known of a generation at no cost, and how to read the rest."""

    reads: Callable[[], GenerationRequest] | None
    """Returns the generation; raises InvalidRequestError with paths from the request's root."""
    path: str
    """Where the generation stands in the caller's message, such as `open.generation`."""
    caller: Caller = ANYONE
    """Whose it is."""
    lane: str = ""
    """The connection that it came by: those of a tenant are served in turn."""
    model: str = ""
    priority: int = 0
    """As the caller says, not checked yet."""
    size_bytes: int = 0
    """About what it takes in memory while it is not read."""
    continues: bool = False
    """It goes on with output that exists."""
    request_id: str = ""
    is_chat: bool = False
    deadline_s: float | None = None
    """Time from the receipt after which the caller no longer waits; None: it waits."""
    context: Context | None = None
    """Trace context that the generation is a part of; None: the current one."""
    links: Sequence[SpanContext] = ()
    """Spans that the generation's own is linked to."""
    keeps: Callable[[], Terms] | None = None
    """Returns how it is kept; raises as `reads`. None: it ends with its call."""
    may_move: bool = True
    """Where another process has the generation of its key, it may be asked for there."""
    answer_bytes_limit: int | None = None
    """Bytes of the whole answer, where it has to fit into one message."""
    lag_s: float = field(default_factory=loop_lag.last_s)
    """What it has waited for the event loop until now."""
    received_s: float = field(init=False)
    """time.monotonic() of the receipt."""

    def __post_init__(self) -> None:
        self.received_s = time.monotonic() - self.lag_s
        if self.deadline_s is not None:  # told as what is left now
            self.deadline_s += self.lag_s

    def read(self) -> GenerationRequest:
        """Returns the generation, once; what it was read from is let go, which may be large.

        Raises:
            InvalidRequestError: it can't be read.
        """
        reads, self.reads = self.reads, None
        assert reads is not None  # noqa: S101 - read once; for the type checker
        return reads()
