"""Three workers and two frontends as real processes, each behind a relay of its own."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from tokenwire import AsyncClient, RetryPolicy, TokenwireError

from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/demo/openvino"
HOST = "127.0.0.1"

RECOVERY_S = 90.0
"""Longest time until a service that was started again serves; a busy machine takes 10 s."""

ANSWER_S = 1.0
"""Time that a frontend has to answer; one that is stopped does not."""

POLL_S = 0.1

DRAIN_GRACE_S = 2.0
"""Shorter than the longest generations, so that some are still open as it ends."""

STALL_S = 5.0
"""Of engines: ten times the longest step of this load on a busy machine."""

READY = "ready"


class FleetError(Exception):
    """A service did not start, or did not come back: the run can't go on."""


@dataclass
class Service:
    """One service, on a port that it keeps when it is started again."""

    name: str
    module: str
    port: int
    arguments: Sequence[str]
    log: Path
    relay: int
    """Number of its relay."""
    address: str = ""
    """Of its relay: what callers are given."""
    starting: bool = False
    """It was started and has not served since: nothing depends on it."""
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def direct(self) -> str:
        """Its own address, which no relay cuts off."""
        return f"{HOST}:{self.port}"

    @property
    def runs(self) -> bool:
        """Whether its process has not ended; one that is stopped has not."""
        return self.process.poll() is None

    def start(self) -> None:
        """Starts it, for the first time or again."""
        own = {name: value for name, value in os.environ.items() if not _sets(name)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "--listen", self.direct, *self.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=own,
            )  # fmt: skip
        self.starting = True

    def signal(self, number: int) -> None:
        """Sends its process a signal, unless it has ended."""
        if self.runs:
            self.process.send_signal(number)

    async def ended(self) -> int:
        """Waits until its process has ended, and returns the exit code.

        Raises:
            FleetError: it does not.
        """
        end_s = time.monotonic() + RECOVERY_S
        while self.runs:
            if time.monotonic() > end_s:
                raise FleetError(f"{self.name} has not ended after {RECOVERY_S:g} s")
            await asyncio.sleep(POLL_S)
        return self.process.returncode

    def engine(self) -> int | None:
        """Returns the process that its engine runs in, by its id; None: it has none."""
        with suppress(OSError):
            for task in Path(f"/proc/{self.process.pid}/task").iterdir():
                for child in (task / "children").read_text().split():
                    if b"engines.openvino.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return int(child)
        return None


def _sets(name: str) -> bool:
    """Whether an environment variable would set up a service."""
    return name.startswith(("TOKENWIRE_", "OTEL_"))


class Fleet:
    """The services of a run, all of them ended as its `async with` block is left.

    Args:
        engine: of the workers: `simulated` or `openvino`.
        logs: folder for the services' logs.
        step_ms: of the simulated engine.
        workers: how many.
        frontends: how many.
    """

    def __init__(
        self, engine: str, logs: Path, step_ms: float, workers: int = 3, frontends: int = 2
    ) -> None:
        self._relays: subprocess.Popen[bytes] | None = None
        logs.mkdir(parents=True, exist_ok=True)
        for old in logs.glob("*.log"):
            old.unlink()
        first = free_ports(workers + frontends)
        names = [f"worker-{number + 1}" for number in range(workers)]
        names += [f"frontend-{number + 1}" for number in range(frontends)]
        every = [
            Service(name, "", first + number, (), logs / f"{name}.log", number)
            for number, name in enumerate(names)
        ]
        self.workers, self.frontends = every[:workers], every[workers:]
        for worker in self.workers:
            worker.module = "tokenwire_worker"
            worker.arguments = _worker_arguments(worker.name, engine, step_ms)
        self._logs = logs
        self._controls: dict[str, AsyncClient] = {}

    @property
    def services(self) -> list[Service]:
        """All of them, by the number of their relay."""
        return [*self.workers, *self.frontends]

    async def __aenter__(self) -> Self:
        self._start_relays()
        named = [part for each in self.workers for part in ("--worker", each.address)]
        grace = ["--drain-grace-s", str(DRAIN_GRACE_S), "--log-format", "json"]
        key = self._logs / "fleet.key"
        key.write_text(secrets.token_hex(32))
        for frontend in self.frontends:
            frontend.module = "tokenwire_frontend"
            peers = [each.address for each in self.frontends if each is not frontend]
            frontend.arguments = [
                *(*named, *grace, "--advertise-address", frontend.address),
                *("--fleet-key", str(key), *(part for each in peers for part in ("--peer", each))),
            ]
            # A connection that was cut off must not hold up the next question.
            self._controls[frontend.name] = AsyncClient(
                frontend.direct, timeout=ANSWER_S, retry=RetryPolicy(attempts=1)
            )
        for service in self.services:
            service.start()
        try:
            for frontend in self.frontends:
                await self.wait_for_workers(frontend, len(self.workers))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        for client in self._controls.values():
            await client.close()
        for service in self.services:
            service.signal(signal.SIGKILL)
            service.process.wait()
        if self._relays is not None:
            self._relays.kill()
            self._relays.communicate()

    def _start_relays(self) -> None:
        ports = [str(each.port) for each in self.services]
        with (self._logs / "relay.log").open("wb") as log:
            self._relays = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.relay", *ports],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT,
            )  # fmt: skip
        relayed = json.loads(_pipe(self._relays.stdout).readline())
        for service in self.services:
            service.address = f"{HOST}:{relayed[service.relay]}"

    def cut(self, service: Service, command: str) -> None:
        """Tells a service's relay what to do: hold, pass, reset or close."""
        assert self._relays is not None
        pipe = _pipe(self._relays.stdin)
        pipe.write(f"{service.relay} {command}\n".encode())
        pipe.flush()

    async def ready_workers(self, frontend: Service) -> set[str] | None:
        """Asks a frontend for the names of its ready workers; None: it does not answer."""
        try:
            workers = await self._controls[frontend.name].workers()
        except TokenwireError:
            return None
        return {each.name for each in workers if each.state == READY}

    async def active_generations(self, frontend: Service) -> int:
        """Asks a frontend how many generations it holds."""
        async for activity in self._controls[frontend.name].activity(records=0):
            return activity.active_generations
        return 0

    async def wait_for_workers(self, frontend: Service, least: int) -> None:
        """Waits until a frontend has so many ready workers.

        Raises:
            FleetError: a service has ended, or it takes too long.
        """
        end_s = time.monotonic() + RECOVERY_S
        while len(await self.ready_workers(frontend) or ()) < least:
            if not frontend.runs or time.monotonic() > end_s:
                raise FleetError(f"{frontend.name} does not serve; see {frontend.log}")
            await asyncio.sleep(POLL_S)
        frontend.starting = False

    def tracebacks(self) -> list[str]:
        """Returns the lines of the logs with which a traceback begins, after the log's name."""
        return [
            f"{log.stem}: {line[:1000]}"
            for log in sorted(self._logs.glob("*.log"))
            for line in log.read_text(errors="replace").splitlines()
            if "Traceback (most recent call last)" in line
        ]

    def lines_of(self, trace_id: str, limit: int) -> list[str]:
        """Returns the log lines of a trace, after the log's name; at most `limit`."""
        lines = (
            f"{log.stem}: {line[:1000]}"
            for log in sorted(self._logs.glob("*.log"))
            for line in log.read_text(errors="replace").splitlines()
            if trace_id in line
        )
        return [line for line, _ in zip(lines, range(limit), strict=False)]


def _worker_arguments(name: str, engine: str, step_ms: float) -> list[str]:
    common = ["--model", str(MODEL), "--model-name", "demo", "--worker-name", name]
    common += ["--engine", engine, "--log-format", "json", "--drain-grace-s", str(DRAIN_GRACE_S)]
    if engine == "simulated":
        return [*common, "--simulated.step-ms", str(step_ms)]
    return [
        *(*common, "--openvino.exact", "--openvino.threads", "1", "--openvino.kv-blocks", "1024"),
        *("--stall-s", str(STALL_S)),
    ]


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
