"""Asks services for their health every 50 ms and tells the longest wait: `... ADDRESS ADDRESS`.

Each line on standard input is answered with one line on standard output: a JSON list of the longest
time, in seconds, that each address took to answer since the line before.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

INTERVAL_S = 0.05


class Ping:
    """Asks one service, on a thread and a connection of its own."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._longest_s = 0.0
        self._asked_s: float | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def take_longest_s(self) -> float:
        """Returns the longest time since the last call, one that has no answer yet included."""
        asked_s = self._asked_s
        open_s = 0.0 if asked_s is None else time.perf_counter() - asked_s
        longest_s, self._longest_s = max(self._longest_s, open_s), 0.0
        return longest_s

    def _run(self) -> None:
        check = health_pb2_grpc.HealthStub(self._channel).Check
        while True:
            began_s = self._asked_s = time.perf_counter()
            check(health_pb2.HealthCheckRequest(), timeout=120)
            self._asked_s = None
            took_s = time.perf_counter() - began_s
            self._longest_s = max(self._longest_s, took_s)
            time.sleep(max(INTERVAL_S - took_s, 0.0))


def main() -> None:
    """Runs until standard input ends."""
    pings = [Ping(address) for address in sys.argv[1:]]
    for _ in sys.stdin:
        print(json.dumps([ping.take_longest_s() for ping in pings]), flush=True)


if __name__ == "__main__":
    main()
