"""Ctrl-C and SIGTERM for both services of `make serve`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.services.calls import Frontend, endless, read_to_first_token
from tests.services.processes import ROOT, WAIT_S


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def serve(tmp_path):
    """`make serve` as a process group of its own, once it serves: (process, frontend's address)."""
    worker, frontend, openai = free_ports(3)
    command = [sys.executable, "-m", "demo", "--serve", "--logs", str(tmp_path)]
    command += ["--worker-port", str(worker), "--frontend-port", str(frontend)]
    command += ["--openai-port", str(openai)]
    with subprocess.Popen(
        # Without SIGINT, as a shell starts what runs in the background.
        ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            while "Ctrl-C stops both" not in (line := process.stdout.readline()):
                assert line, "it ended"
            yield process, f"127.0.0.1:{frontend}"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_services_that_were_stopped_are_no_fault(serve):
    process, _ = serve
    os.killpg(process.pid, signal.SIGINT)
    out = process.stdout.read()
    assert process.wait(WAIT_S) == 0, out
    assert "Both services have stopped." in out


def test_a_stop_that_has_to_wait_says_so(serve):
    process, address = serve
    with Frontend(address) as client:
        call = client.start(endless())
        read_to_first_token(call)
        process.terminate()
        while "draining" not in (line := process.stdout.readline()):
            assert line, "it ended"
        assert "Ctrl-C again to stop now" in line
        call.cancel()
        assert process.wait(WAIT_S) == 143, "as a shell tells of SIGTERM"
