"""A runner that is killed leaves no process behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RUNNER = """
import os, subprocess, sys
from tests.guardian import guarded

GRANDCHILD = "import time; print('up', flush=True); time.sleep(600)"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GRANDCHILD!r}])"
with guarded():
    subprocess.run([sys.executable, "-c", CHILD])
"""


def test_a_killed_runner_leaves_nothing_behind():
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[1],
        # Marks of its own.
        env={name: value for name, value in os.environ.items() if not name.startswith("TEST_RUN_")},
    )
    assert runner.stdout is not None
    with runner.stdout:
        assert runner.stdout.readline() == b"up\n"
        runner.kill()
        runner.wait()
        # The pipe ends once the last of its writers is gone: child, grandchild and guardian.
        assert runner.stdout.read() == b""
