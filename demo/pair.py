"""A worker and a frontend as two processes of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenwire.channel_arguments import client

HOST = "127.0.0.1"

START_TIMEOUT_S = 60.0
"""A busy machine takes a few seconds to load the model; ten times that is a fault."""

STOP_TIMEOUT_S = 40.0
"""Above the 30 s that the services give to work in flight."""

POLL_S = 0.1
LOG_LINES = 15
"""As many of a failed service's last lines as a terminal shows at a glance."""


SOON_S = 1.0
"""Idle services have mostly stopped by then; those that have not are busy, or wait for requests."""


class PairError(Exception):
    """The services could not be started, or did not run or stop as they should."""


class PairStoppedError(Exception):
    """Somebody else has stopped a service, which ended well."""


class Pair:
    """Runs both services for as long as its `with` block is open.

    They share this process's terminal, so that Ctrl-C reaches all three.
    """

    def __init__(
        self,
        model: Path,
        worker_port: int,
        frontend_port: int,
        logs: Path,
        worker_options: Sequence[str] = (),
        frontend_options: Sequence[str] = (),
        openai_port: int | None = None,
    ) -> None:
        self.worker = f"{HOST}:{worker_port}"
        self.frontend = f"{HOST}:{frontend_port}"
        self.openai = None if openai_port is None else f"{HOST}:{openai_port}"
        self._model = model
        self._logs = logs
        self._worker_options = worker_options
        self._frontend_options = frontend_options
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started_s = 0.0

    def __enter__(self) -> Self:
        if not self._model.is_dir():
            raise PairError(f"there is no model folder {self._model}")
        addresses = {"worker": self.worker, "frontend": self.frontend, "openai": self.openai}
        for name, address in addresses.items():
            if address is not None:
                _check_free(name, address)
        self._logs.mkdir(parents=True, exist_ok=True)
        self._started_s = time.monotonic()
        model = ["--model", str(self._model), *self._worker_options]
        self._start("worker", "tokenwire_worker", "--listen", self.worker, *model)
        named = ["--worker", self.worker, "--shared-cores", *self._frontend_options]
        if self.openai is not None:
            named += ["--openai-listen", self.openai]
        self._start("frontend", "tokenwire_frontend", "--listen", self.frontend, *named)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        faults = [self._stop(name) for name in ("frontend", "worker")]
        if exception is None and any(faults):
            raise PairError("; ".join(filter(None, faults)))

    def wait_until_ready(self) -> float:
        """Returns the seconds since the start once the frontend has a worker to work with.

        Raises:
            PairError: a service ended, or took longer than START_TIMEOUT_S.
        """
        with grpc.insecure_channel(self.frontend, client(self.frontend)) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not _is_serving(health):
                self._pause()
                if time.monotonic() - self._started_s > START_TIMEOUT_S:
                    raise PairError(f"not ready after {START_TIMEOUT_S:g} s; {self._last_lines()}")
        return time.monotonic() - self._started_s

    @property
    def process_ids(self) -> dict[str, int]:
        """Process id of each service, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def watch(self) -> None:
        """Returns never: raises at Ctrl-C, and when a service ends.

        Raises:
            KeyboardInterrupt: at Ctrl-C.
            PairStoppedError: a service was stopped and ended well.
            PairError: a service failed.
        """
        while True:
            self._pause()

    def _pause(self) -> None:
        """Waits a moment, and raises if a service has ended by itself."""
        for name, process in self._processes.items():
            try:
                code = process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
            if code == 0:
                raise PairStoppedError(f"the {name} was stopped")
            raise PairError(f"the {name} ended with exit code {code}; {self._last_lines(name)}")

    def _start(self, name: str, module: str, *arguments: str) -> None:
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own services
                [sys.executable, "-m", module, *arguments], stdout=log, stderr=log
            )
        self._processes[name] = process

    def _stop(self, name: str) -> str:
        """Ends a service, and returns what was wrong with its end, if anything."""
        process = self._processes.get(name)
        if process is None or process.poll() is not None:
            return ""
        process.terminate()
        try:
            code = _wait(name, process)
        except KeyboardInterrupt:
            process.kill()
            process.wait()
            return ""
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"the {name} did not stop within {STOP_TIMEOUT_S:g} s of SIGTERM"
        return f"the {name} ended with exit code {code} after SIGTERM" if code else ""

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _last_lines(self, *names: str) -> str:
        shown = []
        for name in names or self._processes:
            lines = self._log(name).read_text(errors="replace").splitlines()[-LOG_LINES:]
            shown += ["", f"--- last lines of {self._log(name)}", *lines]
        return "\n".join(shown).strip("\n")


def _is_serving(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=1.0, wait_for_ready=True)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _wait(name: str, process: subprocess.Popen[bytes]) -> int:
    """Returns the exit code of a service that has been told to stop."""
    try:
        return process.wait(SOON_S)
    except subprocess.TimeoutExpired:
        print(f"The {name} is draining. Ctrl-C again to stop now.")
        sys.stdout.flush()
        return process.wait(STOP_TIMEOUT_S - SOON_S)


def _check_free(name: str, address: str) -> None:
    port = int(address.rpartition(":")[2])
    with socket.socket() as probe:
        # As servers do, so that connections of an earlier run that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PairError(
                f"port {port} is taken ({error.strerror}); "
                f"stop what listens there, or choose another with --{name}-port"
            ) from None
