"""While the model loads: what the worker tells, and that it can be stopped."""

from __future__ import annotations

import os
import select
import signal
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.services.calls import Worker
from tests.services.processes import MODEL, SERVING, WAIT_S, Process, free_address, wait_for_health


@dataclass
class Loading:
    """A worker that loads until it is told to go on."""

    process: Process
    fifo: Path
    address: str

    def wait(self) -> int:
        """Waits until it loads, and returns the id of the loading's own process."""
        self.process.wait_for(
            "loading", engine="openvino", model="demo", service="tokenwire-worker"
        )
        child: int = self.process.wait_for("child_started")["pid"]
        return child

    def go_on(self, how: str = "on") -> None:
        """Lets it load to the end, or fail."""
        with self.fifo.open("w") as fifo:
            fifo.write(f"{how}\n")

    def get(self, path: str) -> int:
        """Returns the status of a page of the admin port."""
        address = self.process.wait_for("admin_listening")["address"]
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=WAIT_S) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture
def loading(processes, tmp_path):
    """Starts a worker that loads."""

    def start(*arguments: str) -> Loading:
        fifo, address = tmp_path / "fifo", free_address()
        os.mkfifo(fifo)
        process = processes.run(
            "tests.worker.slow_worker",
            [
                *("--model", str(MODEL), "--model-name", "demo", "--listen", address),
                *("--admin-listen", "127.0.0.1:0", "--log-format", "json", *arguments),
            ],
            {"SLOW_WORKER_FIFO": str(fifo)},
        )
        return Loading(process, fifo, address)

    return start


def has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], WAIT_S)[0])


def test_while_it_loads_the_admin_port_answers_and_the_log_tells_how_long_it_takes(loading):
    worker = loading()
    worker.wait()
    assert worker.get("/healthz") == 200
    assert worker.get("/readyz") == 503
    assert worker.get("/metrics") == 200
    for _ in range(3):
        worker.process.wait_for("loading", after=worker.process.event_count)
    with grpc.insecure_channel(worker.address) as channel:
        worker.go_on()
        assert worker.process.wait_for("loaded")["took_s"] > 0
        count = len(worker.process.events(event="loading"))
        wait_for_health(channel, SERVING)
    assert worker.get("/readyz") == 200
    with Worker(worker.address) as client:
        client.wait_until_idle()
    assert len(worker.process.events(event="loading")) == count
    worker.process.terminate()
    assert worker.process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_stopped_while_it_loads_leaves_nothing(loading, number):
    worker = loading()
    child = os.pidfd_open(worker.wait())
    try:
        worker.process.process.send_signal(number)
        assert worker.process.wait() == 0
        assert has_ended(child)
    finally:
        os.close(child)
    assert worker.process.events(event="stopped")
    assert "Traceback" not in worker.process.output
    assert not worker.process.events(level="error")


def test_a_load_that_fails_ends_with_70(loading):
    worker = loading()
    worker.wait()
    worker.go_on("fail")
    assert worker.process.wait() == 70
    assert worker.process.wait_for("engine_did_not_start")["reason"] == "no memory left"
    assert "Traceback" not in worker.process.output


def test_a_load_that_takes_too_long_ends_with_70(loading):
    worker = loading("--load-timeout-s", "1")
    child = os.pidfd_open(worker.wait())
    try:
        assert worker.process.wait() == 70
        assert has_ended(child)
    finally:
        os.close(child)
    assert "--load-timeout-s 1" in worker.process.wait_for("engine_did_not_start")["reason"]
    assert "Traceback" not in worker.process.output
