"""The engine's process: `python -m tokenwire_worker.engines.openvino.process FD`.

FD is its end of the channel. The first message to it is the worker's settings. It ends when it is
told to, or when the worker is gone.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from typing import Any

from tokenwire_service.signals import HANDLED, leave_to_parent

from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.guides.process import FaultOf
from tokenwire_worker.engines.openvino.forms import Forms
from tokenwire_worker.engines.openvino.messages import Channel, Died, Failed, Ready
from tokenwire_worker.engines.openvino.pipeline import Loaded, load
from tokenwire_worker.engines.openvino.stepper import Stepper
from tokenwire_worker.engines.openvino.trial import Trial
from tokenwire_worker.engines.text import told
from tokenwire_worker.model_files import ModelError


def main() -> None:
    """Runs as a process; see the module."""
    _serve()
    # The pipeline's destructors take a quarter of a second to free what ends with the process.
    os._exit(0)


def _serve() -> None:
    """Loads, says so, and steps."""
    # Signals reach every process of a terminal or a unit; when this one ends is the worker's to
    # say, which lets what is live finish before.
    leave_to_parent(*HANDLED)
    if sys.platform == "linux":
        # It computes all the time, and on a CPU on all cores: it shall not interrupt the services,
        # whose work is short, only because it waited for them.
        with suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    settings: Any = channel.receive()
    try:
        loaded = load(settings)
    except (EngineError, ModelError) as error:
        channel.send(Failed(error))
        return
    with suppress(OSError):  # the worker is gone
        channel.send(Ready(loaded.info, loaded.tokenizer, loaded.unguided))
        _step(loaded, channel)
    loaded.folders.close()


def _step(loaded: Loaded, channel: Channel) -> None:
    info = loaded.info

    def fault_of() -> FaultOf:
        # On the pipeline's own tokenizer, with which compiled forms are cached.
        tokenizer = loaded.pipeline.get_tokenizer()
        return Trial(tokenizer, info.vocabulary_size, info.eos_token_ids[0]).fault

    forms = Forms(fault_of)
    try:
        Stepper(loaded, channel, forms).run()
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the pipeline raises
        channel.send(Died(told(error)))
    forms.close()


if __name__ == "__main__":
    main()
