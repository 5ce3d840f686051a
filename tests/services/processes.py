"""Workers and frontends as real processes, watched through their own log lines."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenwire_service import probe

ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(os.environ.get("TOKENWIRE_TEST_MODEL", ROOT / "models/demo/openvino"))
MODEL_NAME = "demo"

WAIT_S = 120.0
"""Bound of every wait: longer than a loaded machine takes, so that a hang fails instead."""

EX_USAGE = 64
"""Exit code of a service that was started wrongly."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def free_address() -> str:
    """Returns an address of this host that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Process:
    """One service. Its standard error, one JSON object a line, is read as it comes."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: dict[str, str] | None = None,
        python: Path | str = sys.executable,
    ) -> None:
        self.process = subprocess.Popen(
            [python, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=_environment(environment),
        )
        self.lines: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                if line.startswith("{"):
                    self._events.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()

    def wait_for(self, event: str, *, after: int = 0, **fields: Any) -> dict[str, Any]:
        """Waits for a log line of this event and these fields, the `after`-th or later line."""

        def found() -> dict[str, Any] | None:
            for each in self._events[after:]:
                if each.get("event") == event and fields.items() <= each.items():
                    return each
            return None

        with self._news:
            self._news.wait_for(lambda: found() or self._closed, WAIT_S)
            line = found()
        assert line is not None, f"no {event} {fields} in:\n{self.output}"
        return line

    def events(self, **fields: Any) -> list[dict[str, Any]]:
        """Returns the log lines so far that have these fields."""
        with self._news:
            return [each for each in self._events if fields.items() <= each.items()]

    @property
    def event_count(self) -> int:
        """Log lines so far: pass it as `after` to wait for a later one."""
        with self._news:
            return len(self._events)

    @property
    def output(self) -> str:
        """All of standard error so far."""
        with self._news:
            return "\n".join(self.lines)

    @property
    def address(self) -> str:
        """HOST:PORT that it listens on; waits until it does."""
        address: str = self.wait_for("listening")["address"]
        return address

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Waits for the exit and returns the exit code."""
        try:
            code = self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end; it wrote:\n{self.output}") from None
        self._close()
        return code

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self.process.kill()
        self.process.wait(WAIT_S)
        self._close()

    def _close(self) -> None:
        self._reader.join(WAIT_S)
        assert self.process.stderr is not None
        # A child that outlives it has the pipe too; closing it while it is read waits for ever.
        if not self._reader.is_alive():
            self.process.stderr.close()


def _environment(changes: dict[str, str] | None) -> dict[str, str]:
    """Returns this process's environment without settings that the tests do not make."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TOKENWIRE_", "OTEL_"))
    }
    return {**own, **(changes or {})}


class Processes:
    """Starts services, and ends every one that is left at the end of a test or session.

    Args:
        python: the interpreter of the environment that the services are installed in.
    """

    def __init__(self, python: Path | str = sys.executable) -> None:
        self._python = python
        self._all: list[Process] = []

    def run(
        self, module: str, arguments: Sequence[str], environment: dict[str, str] | None = None
    ) -> Process:
        """Starts a module of either service as it is told."""
        process = Process(module, arguments, environment, self._python)
        self._all.append(process)
        return process

    def worker(
        self,
        *arguments: str,
        listen: str = "127.0.0.1:0",
        model: Path | str = MODEL,
        environment: dict[str, str] | None = None,
    ) -> Process:
        """Starts a worker with exact numerics; `address` waits until it answers."""
        return self.run(
            "tokenwire_worker",
            [
                *("--model", str(model), "--model-name", MODEL_NAME, "--openvino.exact"),
                *("--openvino.threads", "2", "--listen", listen, "--log-format", "json"),
                *arguments,
            ],
            environment,
        )

    def simulated(
        self,
        *arguments: str,
        listen: str = "127.0.0.1:0",
        environment: dict[str, str] | None = None,
    ) -> Process:
        """Starts a worker whose engine simulates: where ids may be any, at a third of the cost."""
        return self.run(
            "tokenwire_worker",
            [
                *("--model", str(MODEL), "--model-name", MODEL_NAME, "--engine", "simulated"),
                *("--listen", listen, "--log-format", "json", *arguments),
            ],
            environment,
        )

    def frontend(
        self,
        *arguments: str,
        workers: Sequence[Process | str] = (),
        environment: dict[str, str] | None = None,
    ) -> Process:
        """Starts a frontend of these workers on a port of its own."""
        addresses = [each if isinstance(each, str) else each.address for each in workers]
        named = [part for address in addresses for part in ("--worker", address)]
        return self.run(
            "tokenwire_frontend",
            ["--listen", "127.0.0.1:0", "--log-format", "json", *named, *arguments],
            environment,
        )

    def end(self) -> None:
        """Kills what still runs."""
        for process in self._all:
            process.kill()


def listening(process: Process) -> set[int]:
    """Returns the ports that a process listens on, as Linux tells them."""
    folder = Path(f"/proc/{process.process.pid}")
    sockets = {str(each.readlink()) for each in (folder / "fd").iterdir() if each.is_symlink()}
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in (folder / "net" / table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


def wait_for_health(
    channel: grpc.Channel, status: int, service: str = "", *, while_waiting: Callable[[], Any] = str
) -> None:
    """Waits until the service's health reads so."""
    stub = health_pb2_grpc.HealthStub(channel)
    call = stub.Watch(
        health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S, wait_for_ready=True
    )
    while_waiting()
    try:
        for answer in call:
            if answer.status == status:
                return
    finally:
        call.cancel()
    raise AssertionError(f"health of {service!r} never became {status}")


def check_refused(process, setting: str) -> None:
    """Checks that the process exits with code 64 and one readable line that names the setting."""
    assert process.wait() == EX_USAGE, process.output
    assert setting in process.output
    assert "Traceback" not in process.output
    assert process.output.strip()


def check_probe(arguments: list[str], code: int) -> None:
    """Checks the exit code of the probe, run in this process, and that it says why in few lines."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            ended = probe.main(arguments)
        except SystemExit as exit_:
            ended = int(exit_.code or 0)
    said = (out if code == 0 else err).getvalue().splitlines()
    assert ended == code, said
    assert 1 <= len(said) <= 2
