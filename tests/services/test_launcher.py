"""How a service's process starts, before it is a service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from tokenwire_service.signals import held_back

from tests.services.processes import ROOT, WAIT_S


def test_a_folder_named_as_the_package_does_not_hide_it(tmp_path):
    (tmp_path / "tokenwire" / "docs").mkdir(parents=True)
    ended = subprocess.run(
        [sys.executable, "-c", "from tokenwire import Client"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def launch(tmp_path):
    """Runs a service whose main module has this text, by a shell that has closed some files."""

    def run(module: str, closed: str = "") -> subprocess.CompletedProcess[str]:
        (tmp_path / "its_main.py").write_text(module)
        command = "from tokenwire_service.launcher import launch; launch('its_main')"
        return subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    return run


def test_what_it_opens_never_takes_the_place_of_a_closed_standard_file(launch):
    ended = launch(
        """
import os, subprocess, sys
OPENED = os.open("a_file", os.O_CREAT | os.O_RDWR)
def main():
    print("said", file=sys.stderr, flush=True)
    code = "import os; [os.fstat(number) for number in range(3)]"
    subprocess.run([sys.executable, "-c", code], check=True)
    sys.exit(0 if OPENED > 2 and not os.fstat(OPENED).st_size else 1)
""",
        closed="0<&- 1>&- 2>&-",
    )
    assert ended.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_imports_ends_it_with_0(launch, number):
    ended = launch(f"import os; os.kill(os.getpid(), {int(number)}); raise AssertionError")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_signals_to_a_group_do_not_end_a_process_that_starts():
    code = """
import os, signal
from tokenwire_service.signals import HANDLED, leave_to_parent
for number in HANDLED: os.kill(os.getpid(), number)
leave_to_parent(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
print("ready", signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    with held_back():
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
    said, _ = process.communicate(timeout=WAIT_S)
    assert (said, process.returncode) == ("ready set()\n", 0)


SERVES_UNTIL_STOPPED = """
import asyncio
from tokenwire_service import signals
async def serve():
    stop = signals.stop_signal(lambda: print("reloads", flush=True))
    print("ready", flush=True)
    await stop
    print("stops", flush=True)
signals.end_at_once()
asyncio.run(serve())
"""


def test_hangups_reload_until_the_terminal_has_gone():
    """The same signal comes for both: here from the test, and from the kernel."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-c", SERVES_UNTIL_STOPPED],
        cwd=ROOT,
        stdin=theirs,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "reloads\n"
    os.close(ours)
    said, _ = process.communicate(timeout=WAIT_S)
    assert said.endswith("stops\n")
    assert process.returncode == 0


def test_without_a_terminal_a_hangup_only_reloads():
    process = subprocess.Popen(
        ["setsid", sys.executable, "-c", SERVES_UNTIL_STOPPED],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "reloads\n"
    process.terminate()
    assert process.communicate(timeout=WAIT_S)[0] == "stops\n"
