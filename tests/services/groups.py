"""Frontends of two processes, as their admin port tells of them."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.ports import free_ports
from tests.services.processes import WAIT_S, Process, Processes

TWO = ("--processes", "2", "--admin-listen", "127.0.0.1:0")


@dataclass
class Group:
    """The supervising process, and what its admin port says."""

    process: Process

    @property
    def address(self) -> str:
        """HOST:PORT that both processes listen on."""
        address: str = self.process.wait_for("sharing")["address"]
        return address

    def processes(self) -> list[dict[str, Any]]:
        return json.loads(self.get("/processes"))

    def get(self, path: str) -> str:
        admin = self.process.wait_for("admin_listening")["address"]
        with urllib.request.urlopen(f"http://{admin}{path}", timeout=WAIT_S) as answer:
            return answer.read().decode()

    def counter(self, name: str) -> float:
        """Returns the sum of a metric's samples."""
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def until(self, holds: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Waits until a condition on the processes holds; returns them."""
        deadline_s = time.monotonic() + WAIT_S
        while not holds(told := self.processes()):
            assert time.monotonic() < deadline_s, f"{told}\n{self.process.output}"
            time.sleep(0.05)
        return told

    def both_serve(self) -> list[dict[str, Any]]:
        return self.until(lambda told: all(each["state"] == "serving" for each in told))


def adjacent(processes: Processes, worker: Process) -> Group:
    """Returns two processes that serve, at ports of their own that follow each other."""
    first = free_ports(2)
    group = group_of(processes, "--process-listen", f"127.0.0.1:{first}", workers=[worker])
    told = group.both_serve()
    assert [each["address"] for each in told] == [f"127.0.0.1:{first + n}" for n in range(2)]
    return group


def group_of(processes: Processes, *arguments: str, **options: Any) -> Group:
    return Group(processes.frontend(*TWO, *arguments, **options))
