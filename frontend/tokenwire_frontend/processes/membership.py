"""What a process that serves beside others knows of them: the supervising process, who asks all."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import structlog
from tokenwire_service.tasks import Supervisor
from tokenwire_service.telemetry import semconv
from tokenwire_service.telemetry.providers import Telemetry

from tokenwire_frontend import kept_errors
from tokenwire_frontend.core.signer import KEY_BYTES
from tokenwire_frontend.edge.grpc.activity import ActivityView, Found, Part
from tokenwire_frontend.processes.link import ANSWER_S, Answers, Link, SilentError

log = structlog.get_logger()


SUPERVISOR_ANSWER_S = 2 * ANSWER_S
"""Time that the supervising process has to answer, which may ask the others first."""


Share = Callable[[], Awaitable[None]]
"""Has a process listen where all do."""


class SupervisorGoneError(Exception):
    """The supervising process has ended."""


@dataclass(frozen=True)
class Seat:
    """Where a process serves; the supervising process says so as it starts it."""

    descriptor: int
    """Of the link's socket."""
    index: int
    """Which of the processes it is, from 0."""
    run: int
    """Which run of it: what has ended by itself is started again."""
    shared: str
    """HOST:PORT that all listen on, with the port that was taken."""
    own: str
    """HOST:PORT of this one; port 0 takes any."""
    openai: str
    """HOST:PORT of the OpenAI-compatible interface, which all listen on; empty: it is off."""
    waits: bool
    """Whether it listens on the shared address only once it has a worker: others serve there."""
    secret: bytes
    """Which all processes have, and nobody else."""

    @property
    def name(self) -> str:
        """A name that no other run of any process has."""
        return f"{self.index}.{self.run}"

    @property
    def attributes(self) -> dict[str, str]:
        """What tells its metrics from those of others, where they must not be summed."""
        return {semconv.PROCESS: str(self.index)}

    def arguments(self) -> list[str]:
        """Returns what `parsed` makes it from."""
        numbers = (self.descriptor, self.index, self.run, int(self.waits))
        return [*map(str, numbers), self.shared, self.own, self.openai]

    @classmethod
    def parsed(cls, arguments: Sequence[str]) -> Seat:
        """Returns what these arguments say, and what the link brings first: the secret.

        Other users of this host see a process's arguments.
        """
        *numbers, shared, own, openai = arguments
        descriptor, index, run, waits = map(int, numbers)
        secret = os.read(descriptor, KEY_BYTES)
        return cls(descriptor, index, run, shared, own, openai, bool(waits), secret)


class Membership:
    """The process's part of the link, and through it all processes.

    Args:
        seat: where it serves.
        telemetry: its metrics.
    """

    def __init__(self, seat: Seat, telemetry: Telemetry) -> None:
        self.seat = seat
        self._telemetry = telemetry
        self._view: ActivityView
        self._share_addresses: Share
        self._shares = False
        self._link: Link | None = None

    def of(self, view: ActivityView) -> Self:
        """Returns this membership, of the process that has this view of itself."""
        self._view = view
        return self

    async def join(
        self, address: str, share: Share, supervisor: Supervisor, reload: Callable[[], None]
    ) -> None:
        """Answers the supervising process from now on; without it this one can't go on.

        Args:
            address: HOST:PORT of this process alone.
            share: has it listen where all do.
            supervisor: owns the task that answers.
            reload: called when all processes are to read their files again.
        """
        self._share_addresses = share
        self._reload = reload
        ours = socket.socket(fileno=self.seat.descriptor)
        ours.setblocking(False)  # noqa: FBT003
        answers: Answers = {
            "alive": self._alive,
            "activity": self._activity,
            "record": self._record,
            "cancel": self._cancel,
            "reload": self._reload_files,
            "metrics": self._metrics,
        }
        self._link = await Link.over(ours, answers)
        supervisor.require("process_link", partial(self._run, self._link))
        await self.tell("listening", address)
        if not self.seat.waits:
            await self._share()

    async def tell_serving(self, *, serving: bool) -> None:
        """Tells whether work is welcome; takes a share of it the first time that it is."""
        if serving and not self._shares:
            await self._share()
        await self.tell("serving", serving)

    async def _share(self) -> None:
        self._shares = True
        await self._share_addresses()

    async def leave(self) -> None:
        """Tells what the metrics have come to in the end."""
        await self.tell("ending", await self._metrics())

    async def _run(self, link: Link) -> None:
        await link.run()
        raise SupervisorGoneError

    async def tell(self, topic: str, *arguments: Any) -> None:
        """Tells the supervising process."""
        try:
            await self._asked(topic, *arguments)
        except SilentError:
            log.warning("supervisor_silent", topic=topic)

    async def parts(self, records: int, tenant: str | None) -> Mapping[str, Part]:
        """Returns the activity of each process that answers, by its name."""
        try:
            answers = await self._asked("everyone", "activity", records, tenant)
        except SilentError:
            return {self.seat.name: self._view.part(records, tenant)}
        return {name: Part.unpacked(packed) for name, packed in answers.items()}

    async def find(self, request_id: str, tenant: str | None) -> Sequence[Found]:
        """Returns the record of each process that remembers the request."""
        try:
            answers = await self._asked("everyone", "record", request_id, tenant)
        except SilentError:
            answers = {self.seat.name: self._view.find(request_id, tenant)}
        return [found for found in answers.values() if found is not None]

    async def cancel(self, request_id: str, tenant: str | None) -> int:
        """Ends the live generations of this request id; returns how many there were."""
        try:
            counts = await self._asked("everyone", "cancel", request_id, tenant)
        except SilentError:
            counts = {self.seat.name: self._view.cancel(request_id, tenant)}
        return sum(counts.values())

    async def address_of(self, process: str) -> str | None:
        """Returns the address of a process by its name; None: it has ended.

        Raises:
            ServiceError: the supervising process does not answer.
        """
        return await self._find("address", process)

    async def claim(self, key: str) -> str | None:
        """Takes an idempotency key; returns the address of the process that has it, if one does.

        Raises:
            ServiceError: the supervising process does not answer.
        """
        return await self._find("claim", self.seat.name, key)

    def release(self, key: str) -> None:
        """Lets go of an idempotency key, if this process has it."""
        if self._link is not None:
            self._link.ask("release", self.seat.name, key).add_done_callback(_heard)

    async def _find(self, topic: str, *arguments: Any) -> str | None:
        """Returns the address that the supervising process answers, if there is one."""
        try:
            address: str | None = await self._asked(topic, *arguments)
        except SilentError as error:
            raise kept_errors.supervisor_silent() from error
        return address

    async def _asked(self, topic: str, *arguments: Any) -> Any:
        if self._link is None:
            raise SilentError
        try:
            async with asyncio.timeout(SUPERVISOR_ANSWER_S):
                return await self._link.ask(topic, *arguments)
        except TimeoutError as error:
            raise SilentError from error

    # What it is asked is of itself alone, so no question goes in circles.

    async def _alive(self) -> None:
        """Answers, which is all that is asked."""

    async def _activity(self, records: int, tenant: str | None) -> tuple[Any, ...]:
        return self._view.part(records, tenant).packed()

    async def _record(self, request_id: str, tenant: str | None) -> Found | None:
        return self._view.find(request_id, tenant)

    async def _cancel(self, request_id: str, tenant: str | None) -> int:
        return self._view.cancel(request_id, tenant)

    async def _reload_files(self) -> None:
        self._reload()

    async def _metrics(self) -> Any:
        return await asyncio.to_thread(self._telemetry.collect)


def _heard(answer: asyncio.Future[Any]) -> None:
    """Takes note of a failure, so that nothing is logged of it: the link's end says enough."""
    if not answer.cancelled():
        answer.exception()
