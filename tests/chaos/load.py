"""Callers of every kind, until enough requests are made; each answer is compared with its own."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import grpc
from tokenwire import (
    Answer,
    AsyncClient,
    AsyncGenerationStream,
    Session,
    SessionGeneration,
    TokenwireError,
)
from tokenwire.channel_arguments import USE_LOCAL_SUBCHANNEL_POOL
from tokenwire.errors import from_rpc_error

from tests.chaos.answers import BrokenError, Collected, Pace, Told, difference, part_of, told_of
from tests.chaos.by_hand import ByHand, Place
from tests.chaos.cases import Case, Known

HUNG_S = 90.0
"""Time without a delta, or without an answer where it comes as one: several of the longest gaps."""

SESSION_GENERATIONS = 6
"""Open at once in each session of the load."""

SESSION_ROUNDS = 4
"""Times that so many are opened before the session is closed and another one opened."""


FAILED_S = 0.5
"""Before a caller whose request went wrong makes the next one."""


INTERRUPTED = "interrupted"
"""The end of a sequence that no worker could go on with."""


@dataclass
class Outcome:
    """How one request went."""

    request_id: str
    way: str
    kind: str
    begun_s: float
    ended_s: float = 0.0
    status: str = "completed"
    """`completed`, `differs`, `interrupted`, `hung`, `contract broken`, or what it failed with: a
    gRPC code and a reason."""
    detail: str = ""
    trace_id: str = ""
    attempts: list[dict[str, Any]] = field(default_factory=list)
    """Parts that workers had in it, where there was more than one."""
    continued: int = 0
    """Times that its client went on with it on another call."""
    first_s: float | None = None
    """Time until the first delta; None: it was not streamed."""
    gaps: Sequence[tuple[float, float]] = ()

    @property
    def moved(self) -> bool:
        """Whether it left a worker for another."""
        return any(each["left_because"] for each in self.attempts)


class Load:
    """Sends requests through every way that there is, and keeps their outcomes.

    Args:
        frontends: addresses of the frontends.
        known: what to ask for, and the answers.
        seed: of each caller's choices.
        requests: how many are made in all.
        end_s: when the last one is begun at the latest.
    """

    def __init__(
        self,
        frontends: Sequence[str],
        known: Sequence[Known],
        seed: str,
        requests: int,
        end_s: float,
    ) -> None:
        self._frontends = list(frontends)
        self._known = known
        self._seed = seed
        self._requests = requests
        self._end_s = end_s
        self._by_hand = ByHand(frontends)
        self.sent = 0
        self.outcomes: list[Outcome] = []
        self.statuses: Counter[str] = Counter()
        self._ways: list[tuple[str, _Ask]] = [
            ("client stream", self._stream),
            ("client answer", self._generate),
            ("stub stream", self._continued_by_hand),
            ("stub detached", self._detached),
        ]

    async def run(self, callers: int) -> None:
        """Sends all of them: so many callers at once, of which a third have sessions."""
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                caller = self._session_caller if number % 3 == 2 else self._caller
                group.create_task(caller(number))
        await self._by_hand.close()

    def end(self) -> None:
        """Lets no further request begin."""
        self._requests = self.sent

    def _more(self) -> bool:
        return self.sent < self._requests and time.monotonic() < self._end_s

    def _client(self) -> AsyncClient:
        return AsyncClient(self._frontends, channel_arguments=[(USE_LOCAL_SUBCHANNEL_POOL, 1)])

    async def _caller(self, number: int) -> None:
        source = Random(f"{self._seed}/caller/{number}")
        async with self._client() as client:
            while self._more():
                way, ask = source.choice(self._ways)
                await self._one(way, source.choice(self._known), ask, client, source)

    async def _session_caller(self, number: int) -> None:
        source = Random(f"{self._seed}/caller/{number}")
        async with self._client() as client:
            while self._more():
                async with client.session() as session:
                    for _ in range(SESSION_ROUNDS):
                        chosen = [source.choice(self._known) for _ in range(SESSION_GENERATIONS)]
                        asked = [
                            self._one("client session", known, self._in_session, session, source)
                            for known in chosen
                            if self._more()
                        ]
                        if not all(await asyncio.gather(*asked)):
                            break

    async def _one(
        self,
        way: str,
        known: Known,
        ask: _Ask,
        through: Any,
        source: Random,
    ) -> bool:
        """Makes a request, notes its outcome, and returns whether it is the right one."""
        self.sent += 1
        outcome = Outcome(f"chaos-{self.sent}", way, known.case.kind, time.monotonic())
        try:
            async with asyncio.timeout(HUNG_S) as limit:
                pace = Pace(limit, HUNG_S)
                told = await ask(_Request(known.case, outcome, pace, source), through)
            outcome.detail = difference(known.expected, told)
            if any(each.end == INTERRUPTED for each in told):
                outcome.status = INTERRUPTED
            elif outcome.detail:
                outcome.status = "differs"
        except TimeoutError:
            outcome.status = "hung"
        except (TokenwireError, grpc.aio.AioRpcError) as failure:
            error = failure
            if not isinstance(error, TokenwireError):
                error = from_rpc_error(error, outcome.trace_id)
            outcome.status = f"{error.code.name} {error.reason}"
            outcome.detail, outcome.trace_id = error.message, error.trace_id
        except BrokenError as error:
            outcome.status, outcome.detail = "contract broken", str(error)
        outcome.ended_s = time.monotonic()
        outcome.first_s, outcome.gaps = pace.first_s, pace.gaps
        self.outcomes.append(outcome)
        self.statuses[outcome.status] += 1
        if outcome.status != "completed":
            # Else a fleet that is away for a moment would fail all requests that are left.
            await asyncio.sleep(FAILED_S)
        return outcome.status == "completed"

    async def _generate(self, request: _Request, client: AsyncClient) -> list[Told]:
        return _noted(request.outcome, await client.generate(**request.arguments))

    async def _stream(self, request: _Request, client: AsyncClient) -> list[Told]:
        return await _read(request, client.stream(**request.arguments))

    async def _in_session(self, request: _Request, session: Session) -> list[Told]:
        return await _read(request, session.open(**request.arguments))

    async def _continued_by_hand(self, request: _Request, client: AsyncClient) -> list[Told]:
        return await self._through_stubs(request, self._by_hand.stream)

    async def _detached(self, request: _Request, client: AsyncClient) -> list[Told]:
        return await self._through_stubs(request, self._by_hand.detached)

    async def _through_stubs(
        self, request: _Request, ask: Callable[[Place], Awaitable[list[Told]]]
    ) -> list[Told]:
        outcome = request.outcome
        place = Place(
            request.case.generation(outcome.request_id),
            Collected(request.case.sequences, request.pace),
            request.source,
        )
        try:
            return await ask(place)
        finally:
            outcome.continued = place.continued
            outcome.attempts = [part_of(each) for each in place.collected.attempts]
            outcome.trace_id = place.collected.trace_id


@dataclass(frozen=True)
class _Request:
    """One request on its way."""

    case: Case
    outcome: Outcome
    pace: Pace
    source: Random

    @property
    def arguments(self) -> Any:
        """What the client's methods are given."""
        case = self.case
        named = {"chat": case.chat, "request_id": self.outcome.request_id}
        return {"prompt": case.prompt, **named, **case.options}


_Ask = Callable[[_Request, Any], Awaitable[list[Told]]]
"""Makes a request through a client or a session, and returns the answer."""


async def _read(request: _Request, stream: AsyncGenerationStream | SessionGeneration) -> list[Told]:
    try:
        async for _ in stream:
            request.pace.tick()
        return _noted(request.outcome, stream.result)
    finally:
        request.outcome.trace_id = stream.trace_id


def _noted(outcome: Outcome, answer: Answer) -> list[Told]:
    outcome.trace_id, outcome.continued = answer.trace_id, answer.continued
    outcome.attempts = [asdict(each) for each in answer.attempts]
    return told_of(answer)
