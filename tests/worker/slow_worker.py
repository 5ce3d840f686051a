"""A worker whose engine loads for as long as the test wants: run as a module.

It loads until a line comes through the FIFO that SLOW_WORKER_FIFO names, and has a child process
meanwhile, whose id it logs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import structlog
from tokenwire_worker import loading
from tokenwire_worker.engines.openvino import adapter
from tokenwire_worker.main import main

build = adapter.build


def slow_build(settings: Any) -> Any:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    structlog.get_logger().info("child_started", pid=child.pid)
    with Path(os.environ["SLOW_WORKER_FIFO"]).open() as fifo:
        told = fifo.readline()
    child.kill()
    child.wait()
    if told.startswith("fail"):
        raise loading.engines.EngineStartError("no memory left")
    return build(settings)


if __name__ == "__main__":
    adapter.build = slow_build
    loading.TELL_EVERY_S = 0.1
    main()
