"""The frontends that a client knows, and which of them a call goes to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from random import random, shuffle
from time import sleep
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc

from tokenwire._api_key import ApiKey
from tokenwire._channel import (
    ChannelArgument,
    Tls,
    checked_targets,
    open_async_channel,
    open_channel,
    tracing_to,
)
from tokenwire.errors import TokenwireError, UnavailableError, UnreachableError
from tokenwire.frontend.v1.activity_pb2_grpc import ActivityServiceStub
from tokenwire.frontend.v1.generation_pb2_grpc import GenerationServiceStub
from tokenwire.frontend.v1.model_pb2_grpc import ModelServiceStub
from tokenwire.frontend.v1.tokenization_pb2_grpc import TokenizationServiceStub

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from tokenwire._spans import Tracing
    from tokenwire.frontend.v1.activity_pb2_grpc import ActivityServiceAsyncStub
    from tokenwire.frontend.v1.generation_pb2_grpc import GenerationServiceAsyncStub
    from tokenwire.frontend.v1.model_pb2_grpc import ModelServiceAsyncStub
    from tokenwire.frontend.v1.tokenization_pb2_grpc import TokenizationServiceAsyncStub

FIRST_REST_S = 1.0
"""How long a frontend that failed is left alone, as long as a restart takes; twice as long after
each further failure."""

LONGEST_REST_S = 30.0
"""Rests grow to this, so that a frontend that was away for long is found again."""


class Frontend:
    """A blocking connection to one frontend; it connects with its first call."""

    def __init__(
        self,
        target: str,
        tls: Tls | None,
        arguments: Sequence[ChannelArgument],
        tracing: Tracing | None,
        api_key: ApiKey | None,
    ) -> None:
        self._channel = open_channel(target, tls, arguments, tracing, api_key)
        self.activity = ActivityServiceStub(self._channel)
        self.generation = GenerationServiceStub(self._channel)
        self.tokenization = TokenizationServiceStub(self._channel)
        self.model = ModelServiceStub(self._channel)

    def connect(self, timeout_s: float) -> None:
        """Returns when it is connected, or after the time.

        A blocking channel gets on with connecting only while somebody watches it. After a mere
        sleep the next attempt would find it no further than before.
        """
        connected = grpc.channel_ready_future(self._channel)
        with suppress(grpc.FutureTimeoutError):
            connected.result(timeout_s)
        connected.cancel()

    def close(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        self._channel.close()


class AsyncFrontend:
    """A connection to one frontend, of the event loop in which its first call is made."""

    def __init__(
        self,
        target: str,
        tls: Tls | None,
        arguments: Sequence[ChannelArgument],
        tracing: Tracing | None,
        api_key: ApiKey | None,
    ) -> None:
        self._settings = (target, tls, arguments)
        self._api_key = api_key
        self.tracing = tracing

    # A channel belongs to the loop that runs when it is made, so it is made by the first call.
    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        return open_async_channel(*self._settings, self.tracing, self._api_key)

    @cached_property
    def activity(self) -> ActivityServiceAsyncStub:
        """The stub of the service of this name, as are the next ones."""
        return ActivityServiceStub(self._channel)

    @cached_property
    def generation(self) -> GenerationServiceAsyncStub:
        """See `activity`."""
        return GenerationServiceStub(self._channel)

    @cached_property
    def tokenization(self) -> TokenizationServiceAsyncStub:
        """See `activity`."""
        return TokenizationServiceStub(self._channel)

    @cached_property
    def model(self) -> ModelServiceAsyncStub:
        """See `activity`."""
        return ModelServiceStub(self._channel)

    async def close(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        if "_channel" in self.__dict__:
            await self._channel.close()


def wait(frontends: Frontends[Frontend], error: TokenwireError, delay_s: float) -> None:
    """Waits before another attempt, and lets the channel that it goes to connect meanwhile."""
    until_s = time.monotonic() + delay_s
    if isinstance(error, UnreachableError):
        frontends.pick().connect(delay_s)
    sleep(max(until_s - time.monotonic(), 0.0))


_FrontendT = TypeVar("_FrontendT")


def each_of(
    kind: Callable[
        [str, Tls | None, Sequence[ChannelArgument], Tracing | None, ApiKey | None], _FrontendT
    ],
    target: str | Sequence[str],
    tls: Tls | None,
    arguments: Sequence[ChannelArgument],
    tracing: bool | TracerProvider,
    api_key: ApiKey | None,
) -> list[_FrontendT]:
    """Returns a connection to each of one or several targets.

    Raises:
        ValueError: as `checked_targets` and `ApiKey.check`.
    """
    targets = checked_targets(target)
    if api_key is not None:
        api_key.check(targets, encrypted=tls is not None)
    return [kind(each, tls, arguments, tracing_to(each, tracing), api_key) for each in targets]


class _Health:
    """What is known of one frontend."""

    __slots__ = ("failures", "rests_until_s")

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self.rests_until_s = 0.0


class Frontends(Generic[_FrontendT]):
    """Several frontends, of which one gets all calls until it fails.

    The order is random, so that many clients spread, and so is what a frontend's clients go to when
    it fails. One frontend at a time, since what a frontend remembers, such as conversations and
    idempotency keys, helps only there. Threads may share it: what they could overwrite of each
    other is a guess in any case.
    """

    def __init__(
        self,
        frontends: Sequence[_FrontendT],
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random,
    ) -> None:
        self._order = list(frontends)
        shuffle(self._order)
        self._health = {id(each): _Health() for each in self._order}
        self._clock = clock
        self._jitter = jitter
        self._current = self._order[0]

    def __iter__(self) -> Iterator[_FrontendT]:
        return iter(self._order)

    def pick(self) -> _FrontendT:
        """Returns the frontend that the next call goes to."""
        return self._current

    def keep(self, frontend: _FrontendT) -> None:
        """Notes that a frontend answers."""
        health = self._health[id(frontend)]
        health.failures, health.rests_until_s = 0, 0.0

    def leave(self, frontend: _FrontendT, error: TokenwireError) -> bool:
        """Notes what a call of a frontend failed with.

        Where it says that the frontend takes no requests, or broke off, the next call goes to
        another. Returns whether that is one of which nothing bad is known.
        """
        if not (isinstance(error, UnavailableError) or error.is_break):
            return False
        now_s, health = self._clock(), self._health[id(frontend)]
        if health.rests_until_s <= now_s:  # else one of the calls that failed together
            rest_s = min(FIRST_REST_S * 2**health.failures, LONGEST_REST_S)
            health.rests_until_s = now_s + rest_s * (1 + self._jitter()) / 2
            health.failures = min(health.failures + 1, 10)
        if frontend is self._current:
            self._current = self._next_after(frontend)
        return self._health[id(self._current)].rests_until_s <= now_s

    def _next_after(self, frontend: _FrontendT) -> _FrontendT:
        """Returns the next that does not rest, or else the one that has rested most."""
        place = self._order.index(frontend) + 1
        others = self._order[place:] + self._order[:place]
        now_s = self._clock()
        return min(others, key=lambda each: max(self._health[id(each)].rests_until_s, now_s))


class AsyncFrontends(Frontends[AsyncFrontend]):
    """Those of an AsyncClient, which belongs to the event loop in which it is first used.

    Its channels do: in another loop gRPC's calls fail with errors of its own, or never end.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def pick(self) -> AsyncFrontend:
        """Returns the frontend that the next call goes to; raises as `check_loop`."""
        self.check_loop()
        return super().pick()

    def check_loop(self) -> None:
        """Notes the event loop of the first use.

        Raises:
            RuntimeError: another event loop runs now, or none.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "an AsyncClient can only be used while an event loop runs; Client needs none"
            ) from None
        if self._loop is None:
            self._loop = running
        elif self._loop is not running:
            raise RuntimeError(
                "this AsyncClient belongs to another event loop, in which it was first used: "
                "create one for each event loop, such as for each asyncio.run"
            )
