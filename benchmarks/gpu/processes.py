"""The processes of a run: workers, frontends, and the direct arm; their logs are kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from tokenwire import Client

from benchmarks.cpu import own_cpu_s

ROOT = Path(__file__).resolve().parents[2]
START_S = 300.0
"""Bound of a start: loading and compiling an 8B model takes about 40 s, and longer where several do
so at once or a host does it for the first time."""
SERVING_S = 90.0
"""Bound until a frontend serves, which builds a tokenizer of 128,256 entries."""
STOP_S = 60.0


class Service:
    """One service, which listens on a free loopback port."""

    def __init__(
        self,
        module: str,
        options: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        limit_s: float = START_S,
        processes: int = 1,
    ) -> None:
        """Starts it and waits for its address; a RuntimeError where that does not come in time.

        Of several `processes` that share the address, which its options ask for, all are waited
        for.
        """
        self.name = log.stem
        self._command = [sys.executable, "-m", module, *options, "--log-format", "json"]
        self._environment = {**os.environ, **(environment or {})}
        self._limit_s, self._processes = limit_s, processes
        self._start(log, "127.0.0.1:0")

    def _start(self, log: Path, listen: str) -> None:
        start_s = time.perf_counter()
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*self._command, "--listen", listen],
                cwd=ROOT,
                stdout=file,
                stderr=file,
                env=self._environment,
            )
        try:
            self.own_addresses = self._addresses("listening")
            """Of each of its processes."""
            self.address = self._addresses("sharing" if self._processes > 1 else "listening")[0]
        except BaseException:
            self.stop()
            raise
        self.start_s = time.perf_counter() - start_s
        """Time that it took to listen; a worker does so once its engine is there."""

    def cpu_s(self) -> float:
        """Returns the seconds of CPU that it has used, an engine's own processes apart."""
        return own_cpu_s(self.process.pid)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Returns the log's lines of an event so far."""
        found = []
        for line in self._log.read_text().splitlines():
            with suppress(ValueError):  # a line that is not whole yet, or an engine's own
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == name:
                    found.append(event)
        return found

    def wait_until_serving(self) -> None:
        """Waits until its health is SERVING; a RuntimeError where that takes too long."""
        probe = [sys.executable, "-m", "tokenwire_service.probe", self.address]
        deadline_s = time.monotonic() + SERVING_S
        while subprocess.run(probe, check=False, capture_output=True).returncode:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{self.name} does not serve")

    def restart(self) -> None:
        """Ends it as an operator would, and starts it again with the same options and address."""
        self.stop()
        self._start(self._log.with_stem(f"{self._log.stem}-again"), self.address)

    def wait_until_ready(self) -> None:
        """Waits until a frontend's every process has reached its every worker.

        Raises:
            RuntimeError: that takes too long.
        """
        deadline_s = time.monotonic() + SERVING_S
        for address in self.own_addresses:
            with Client(address) as client:
                while any(each.state != "ready" for each in client.workers()):
                    if time.monotonic() > deadline_s:
                        raise RuntimeError(f"{self.name} has not reached every worker")
                    time.sleep(0.1)

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends it by SIGTERM, or after a minute by SIGKILL."""
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
            return
        self.kill()

    def _addresses(self, event: str) -> list[str]:
        deadline_s = time.monotonic() + self._limit_s
        while time.monotonic() < deadline_s and self.process.poll() is None:
            found = [str(each["address"]) for each in self.events(event)]
            if len(found) >= self._processes:
                return found
            time.sleep(0.2)
        raise RuntimeError(f"{self.name} did not start:\n{self._log.read_text()[-3000:]}")


@dataclass
class Pair:
    """A worker and a frontend of its own."""

    worker: Service
    frontend: Service

    def cpu_s(self) -> dict[str, float]:
        """Returns the seconds of CPU that each service has used."""
        return {"worker": self.worker.cpu_s(), "frontend": self.frontend.cpu_s()}

    def stop(self) -> None:
        """Ends both."""
        self.frontend.stop()
        self.worker.stop()


class Direct:
    """The direct arm's process."""

    def __init__(self, name: str, arguments: Mapping[str, Any], logs: Path) -> None:
        """Starts it, and waits for its engine."""
        with (logs / f"{name}-direct.log").open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu.direct", json.dumps(arguments)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self.ready: dict[str, Any] = self._receive()["ready"]
        """What the engine told of itself."""

    def run(self, load: Mapping[str, Any]) -> dict[str, float]:
        """Runs a load and returns the figures."""
        assert self._process.stdin is not None
        print(json.dumps(load), file=self._process.stdin, flush=True)
        return self._receive()

    def stop(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the direct arm's process has ended; see its log")
        answer: dict[str, Any] = json.loads(line)
        return answer


StartedT = TypeVar("StartedT", Service, Direct)


class Services:
    """Starts services, from any thread, and ends those that are left at the end of its context."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._lock = threading.Lock()
        self._started: list[Service | Direct] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for service in reversed(self._started):
            service.stop()

    def worker(
        self,
        name: str,
        options: Sequence[str],
        environment: Mapping[str, str] | None = None,
        limit_s: float = START_S,
    ) -> Service:
        """Starts a worker."""
        return self._start("tokenwire_worker", f"{name}-worker", options, environment, limit_s)

    def frontend(
        self, name: str, workers: Sequence[Service], *options: str, processes: int = 1
    ) -> Service:
        """Starts a frontend of workers that run, and waits until each of them is ready there."""
        named = [word for each in workers for word in ("--worker", each.address)]
        given = [*named, *options, "--processes", str(processes)]
        service = self._start("tokenwire_frontend", f"{name}-frontend", given, processes=processes)
        service.wait_until_serving()
        service.wait_until_ready()
        return service

    def pair(
        self,
        name: str,
        options: Sequence[str],
        environment: Mapping[str, str] | None = None,
        limit_s: float = START_S,
    ) -> Pair:
        """Starts a worker and a frontend."""
        worker = self.worker(name, options, environment, limit_s)
        return Pair(worker, self.frontend(name, [worker]))

    def direct(self, name: str, arguments: Mapping[str, Any]) -> Direct:
        """Starts the direct arm."""
        return self._kept(Direct(name, arguments, self._logs))

    def _start(
        self,
        module: str,
        name: str,
        options: Sequence[str],
        environment: Mapping[str, str] | None = None,
        limit_s: float = START_S,
        processes: int = 1,
    ) -> Service:
        log = self._logs / f"{name}.log"
        return self._kept(
            Service(module, options, log, environment, limit_s=limit_s, processes=processes)
        )

    def _kept(self, started: StartedT) -> StartedT:
        with self._lock:
            self._started.append(started)
        return started
