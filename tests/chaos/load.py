"""Callers of every kind, until enough requests are made; each answer is compared with its own."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc
from tokenwire import Answer, AsyncClient, TokenwireError
from tokenwire.channel_arguments import USE_LOCAL_SUBCHANNEL_POOL
from tokenwire.errors import from_rpc_error
from tokenwire.frontend.v1 import generation_pb2 as pb

from tests.chaos.answers import BrokenError, Pace, Told, difference, told_of
from tests.chaos.by_hand import ByHand, Place
from tests.chaos.cases import Known

HUNG_S = 90.0
"""Several of the longest gaps that are allowed, one after the other: who waits longer hangs."""

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
    gaps: list[tuple[float, float]] = field(default_factory=list)

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
        detaches: whether some detach and attach.
    """

    def __init__(
        self,
        frontends: Sequence[str],
        known: Sequence[Known],
        seed: str,
        requests: int,
        end_s: float,
        *,
        detaches: bool,
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
        ways: list[tuple[str, Callable[..., Awaitable[list[Told]]]]] = [
            ("client stream", self._stream),
            ("client answer", self._generate),
            ("stub stream", self._continued_by_hand),
        ]
        if detaches:
            ways.append(("stub detached", self._detached))
        self._ways = ways

    async def run(self, callers: int) -> None:
        """Sends all of them: so many callers at once, of which a third have sessions."""
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                caller = self._session_caller if number % 3 == 2 else self._caller
                group.create_task(caller(number))
        await self._by_hand.close()

    def _more(self) -> bool:
        return self.sent < self._requests and time.monotonic() < self._end_s

    def _client(self, number: int) -> AsyncClient:
        turn = number % len(self._frontends)
        targets = ",".join(self._frontends[turn:] + self._frontends[:turn])
        own = [(USE_LOCAL_SUBCHANNEL_POOL, 1)]
        return AsyncClient(f"ipv4:{targets}", channel_arguments=own)

    async def _caller(self, number: int) -> None:
        source = Random(f"{self._seed}/caller/{number}")
        async with self._client(number) as client:
            while self._more():
                way, ask = source.choice(self._ways)
                await self._one(way, source.choice(self._known), ask, client, source)

    async def _session_caller(self, number: int) -> None:
        source = Random(f"{self._seed}/caller/{number}")
        async with self._client(number) as client:
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
        ask: Callable[..., Awaitable[list[Told]]],
        through: object,
        source: Random,
    ) -> bool:
        """Makes a request, notes its outcome, and returns whether it is the right one."""
        self.sent += 1
        outcome = Outcome(f"chaos-{self.sent}", way, known.case.kind, time.monotonic())
        try:
            async with asyncio.timeout(HUNG_S):
                told = await ask(known, outcome, through, source)
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
        self.outcomes.append(outcome)
        self.statuses[outcome.status] += 1
        if outcome.status != "completed":
            # Else a fleet that is away for a moment would fail all requests that are left.
            await asyncio.sleep(FAILED_S)
        return outcome.status == "completed"

    async def _generate(
        self, known: Known, outcome: Outcome, client: AsyncClient, source: Random
    ) -> list[Told]:
        case = known.case
        answer = await client.generate(
            case.prompt, chat=case.chat, request_id=outcome.request_id, **_of_client(known)
        )
        return _noted(outcome, answer)

    async def _stream(
        self, known: Known, outcome: Outcome, client: AsyncClient, source: Random
    ) -> list[Told]:
        case = known.case
        stream = client.stream(
            case.prompt, chat=case.chat, request_id=outcome.request_id, **_of_client(known)
        )
        return await _read(stream, outcome)

    async def _in_session(
        self, known: Known, outcome: Outcome, session: Any, source: Random
    ) -> list[Told]:
        case = known.case
        generation = session.open(
            case.prompt, chat=case.chat, request_id=outcome.request_id, **_of_client(known)
        )
        return await _read(generation, outcome)

    async def _continued_by_hand(
        self, known: Known, outcome: Outcome, client: AsyncClient, source: Random
    ) -> list[Told]:
        place = Place(known.case.generation(outcome.request_id), known.case.sequences, source)
        try:
            return await self._by_hand.stream(place)
        finally:
            _note_place(outcome, place)

    async def _detached(
        self, known: Known, outcome: Outcome, client: AsyncClient, source: Random
    ) -> list[Told]:
        place = Place(known.case.generation(outcome.request_id), known.case.sequences, source)
        try:
            return await self._by_hand.detached(place)
        finally:
            _note_place(outcome, place)


def _of_client(known: Known) -> Any:
    return known.case.options


async def _read(stream: Any, outcome: Outcome) -> list[Told]:
    pace = Pace()
    try:
        async for _ in stream:
            pace.tick()
        return _noted(outcome, stream.result)
    finally:
        outcome.trace_id = stream.trace_id
        outcome.first_s, outcome.gaps = pace.first_s, pace.gaps


def _noted(outcome: Outcome, answer: Answer) -> list[Told]:
    outcome.trace_id = answer.trace_id
    return told_of(answer)


def _note_place(outcome: Outcome, place: Place) -> None:
    collected = place.collected
    outcome.first_s, outcome.gaps = collected.pace.first_s, collected.pace.gaps
    outcome.continued = place.continued
    outcome.attempts = [_part(each) for each in collected.attempts]
    if collected.accepted is not None:
        outcome.trace_id = collected.accepted.trace_id


def _part(attempt: pb.Attempt) -> dict[str, Any]:
    return {
        "worker": attempt.worker,
        "sequence": attempt.sequence,
        "token_offset": attempt.token_offset,
        "mode": pb.AttemptMode.Name(attempt.mode).removeprefix("ATTEMPT_MODE_").lower(),
        "left_because": attempt.left_because,
    }
