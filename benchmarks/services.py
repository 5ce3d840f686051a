"""A worker and a frontend as processes, and the CPU time that each has used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Services:
    """Runs both services on free loopback ports for as long as the context is open."""

    def __init__(self, model: Path, worker_options: tuple[str, ...] = ()) -> None:
        self._commands = {
            "worker": ["-m", "tokenwire_worker", "--model", str(model), *worker_options],
            "frontend": ["-m", "tokenwire_frontend"],
        }
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._logs: list[IO[str]] = []
        self.target = ""
        """The frontend's HOST:PORT."""

    def __enter__(self) -> Services:
        worker = self._start("worker")
        self.target = self._start("frontend", "--worker", worker)
        wait = [sys.executable, "-m", "tokenwire_service.probe", self.target]
        while subprocess.run(wait, check=False, capture_output=True).returncode:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes.values()):
            process.terminate()
            process.wait(30)
        for log in self._logs:
            log.close()

    def cpu_s(self) -> dict[str, float]:
        """Returns the seconds of CPU, user and system, that each process has used."""
        used = {}
        for name, process in self._processes.items():
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            used[name] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        return used

    def _start(self, name: str, *options: str) -> str:
        """Starts one service and returns the address that it says it listens on."""
        log = tempfile.NamedTemporaryFile("w+", prefix=f"tokenwire-{name}-", suffix=".log")  # noqa: SIM115 - closed on exit
        self._logs.append(log)
        command = [sys.executable, *self._commands[name], *options, "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        self._processes[name] = process
        assert process.stderr is not None
        for line in process.stderr:
            if '"listening"' in line:
                address: str = json.loads(line)["address"]
                # What it says from now on goes nowhere; a full pipe would block it.
                subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
                return address
        raise RuntimeError(f"{name} ended with {process.wait()} before it listened")
