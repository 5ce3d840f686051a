"""One generation that outlives the calls that read it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tokenwire_frontend.core.caller import scoped
from tokenwire_frontend.core.events import Resume
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.incoming import Terms
from tokenwire_frontend.generation.readers import Readers

TTL_DEFAULT_S = 60.0
"""As the contract says."""

RECONNECT_S = 10.0
"""A generation that is kept for its key alone goes on for so long when its caller has gone: time
for a client to notice that it has lost its connection, connect again, and repeat the request."""

OBJECT_BYTES = 16 * 1024
"""Counted for a kept generation beside its log: its objects, its record and its span. So the bound
in bytes is one of their number too."""

RUNNING_BYTES = 64 * 1024
"""Counted in advance for one that runs: what may come between two looks at its size, which is 49
KiB of 256 tokens with 20 alternatives each."""


class Kept:
    """A kept generation: who reads it, what it holds, and when it is dropped.

    Args:
        name: no other has it.
        tenant: whose it is.
        terms: how it is kept.
        ttl_s: how long without a caller.
        readers: who reads it.
    """

    def __init__(
        self, name: str, tenant: str, terms: Terms, ttl_s: float, readers: Readers
    ) -> None:
        self.name = name
        self.tenant = tenant
        self.key = scoped(tenant, terms.key) if terms.key else ""
        """Its idempotency key as no other tenant has it; empty: none."""
        self.terms = terms
        self.ttl_s = ttl_s
        self.readers = readers
        self.bytes = 0
        """Counted for it."""
        self.started: asyncio.Future[Exception | None]
        """Done once it has begun, with None, or did not, with why."""
        self.started = asyncio.get_running_loop().create_future()
        self.dropped = False
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def generation(self) -> Generation:
        """The generation, once it has begun."""
        generation = self.readers.generation
        assert generation is not None  # noqa: S101 - `started` was awaited; for the type checker
        return generation

    @property
    def done(self) -> bool:
        """Nothing more will come of it."""
        return self.readers.ended.is_set()

    def begin(self, generation: Generation, resume: Resume) -> None:
        """Notes that it has begun."""
        generation.resume = resume
        self.settle(None)

    def settle(self, refusal: Exception | None) -> None:
        """Tells whoever waits for its beginning; the first word counts."""
        if not self.started.done():
            self.started.set_result(refusal)

    def size(self) -> int:
        """Returns the bytes to count for it now."""
        size = OBJECT_BYTES if self.done else OBJECT_BYTES + RUNNING_BYTES
        generation = self.readers.generation
        if generation is None:
            return size
        prompt = 0 if generation.prompt_log is None else generation.prompt_log.bytes_held
        return size + prompt + sum(log.bytes_held for log in generation.logs)

    def expire_later(self, expire: Callable[[Kept], None]) -> None:
        """Has it expire when it has had no reader for its time, from now on."""
        self.stay()
        if self.readers or self.dropped:
            return
        detached = self.terms.detaches or self.done
        delay_s = self.ttl_s if detached else min(self.ttl_s, RECONNECT_S)
        self._expiry = asyncio.get_running_loop().call_later(delay_s, expire, self)

    def stay(self) -> None:
        """Lets it not expire: it has a reader, or is dropped."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
