"""The processes of a run: a worker and a frontend, or the direct arm; their logs are kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

ROOT = Path(__file__).resolve().parents[2]
START_S = 400.0
"""Bound of a start: loading and compiling an 8B model takes about 40 s, the first time on a host
several times that."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Pair:
    """Runs a worker and a frontend on free loopback ports for as long as the context is open."""

    def __init__(self, name: str, model: Path, options: list[str], logs: Path) -> None:
        self._name, self._model, self._options, self._logs = name, model, options, logs
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._files: list[IO[str]] = []
        self.worker = ""
        """The worker's HOST:PORT."""
        self.frontend = ""
        """The frontend's HOST:PORT."""
        self.start_s = 0.0
        """Time that the worker took to serve."""

    def __enter__(self) -> Self:
        start_s = time.perf_counter()
        try:
            self.worker = self._start(
                "tokenwire_worker", ["--model", str(self._model), *self._options]
            )
            self.start_s = time.perf_counter() - start_s
            self.frontend = self._start("tokenwire_frontend", ["--worker", self.worker])
            self._wait_until_serving()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for file in self._files:
            file.close()

    def cpu_s(self) -> dict[str, float]:
        """Returns the seconds of CPU that each service has used, the engine's processes apart."""
        used = {}
        for name, process in self._processes.items():
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            used[name] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        return used

    def _start(self, module: str, options: list[str]) -> str:
        """Starts a service and returns the address that its log says it listens on."""
        path = self._logs / f"{self._name}-{module}.log"
        file = path.open("w+")
        self._files.append(file)
        command = [sys.executable, "-m", module, *options, "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(
            [*command, "--log-format", "json"], cwd=ROOT, stdout=file, stderr=file, text=True
        )
        self._processes[module] = process
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            for line in path.read_text().splitlines():
                if line.startswith("{") and json.loads(line).get("event") == "listening":
                    address: str = json.loads(line)["address"]
                    return address
            time.sleep(0.2)
        raise RuntimeError(f"{module} did not start:\n{path.read_text()[-3000:]}")

    def _wait_until_serving(self) -> None:
        probe = [sys.executable, "-m", "tokenwire_service.probe", self.frontend]
        deadline = time.monotonic() + START_S
        while subprocess.run(probe, check=False, capture_output=True).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError("the frontend does not serve")


class Direct:
    """Runs the direct arm's process for as long as the context is open."""

    def __init__(self, name: str, arguments: Mapping[str, Any], logs: Path) -> None:
        self._file = (logs / f"{name}-direct.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.direct", json.dumps(arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._file,
            text=True,
        )
        self.ready: dict[str, Any] = {}
        """What the engine told of itself."""

    def __enter__(self) -> Self:
        self.ready = self._receive()["ready"]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._file.close()

    def run(self, load: Mapping[str, Any]) -> dict[str, float]:
        """Runs a load and returns the figures."""
        assert self._process.stdin is not None
        print(json.dumps(load), file=self._process.stdin, flush=True)
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the direct arm's process has ended; see its log")
        answer: dict[str, Any] = json.loads(line)
        return answer
