"""What a GPU engine has started ends with its worker, also with one that is killed."""

import os
import select
import subprocess
import sys

from tests.services.processes import WAIT_S

WORKER = """
import subprocess, time
from tokenwire_worker.engines import guard
before = subprocess.Popen(["sleep", "600"])
guard.start()
engine = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(before.pid, engine.pid, flush=True)
time.sleep(600)
"""


def test_an_engines_process_ends_with_a_worker_that_is_killed():
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    before, engine = map(int, worker.stdout.readline().split())
    end = os.pidfd_open(engine)
    try:
        assert select.select([end], [], [], 0) == ([], [], [])
        worker.kill()
        assert select.select([end], [], [], WAIT_S)[0], "it lives on"
        os.kill(before, 0)  # what was not started for the engine is left alone
    finally:
        os.close(end)
        os.kill(before, 9)
        worker.wait()
        worker.stdout.close()
