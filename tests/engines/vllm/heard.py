"""What the tests of the vLLM adapter on the stand-in hear of an engine, and look at in it."""

import queue
import threading

from tokenwire_worker.engines.port import (
    Sampling,
)

from tests.engines.vllm import stand_in

WAIT_S = 10.0
GREEDY = Sampling(temperature=0)


class Listener:
    """Keeps what it hears, with the thread that told it."""

    def __init__(self):
        self.steps = queue.Queue()
        self.deaths = queue.Queue()
        self.kv_events = queue.Queue()
        self.threads = set()

    def on_step(self, step):
        self.threads.add(threading.get_ident())
        self.steps.put(step)

    def on_death(self, reason):
        self.deaths.put(reason)

    def on_kv_events(self, events):
        for event in events:
            self.kv_events.put(event)

    def collect(self, sequences):
        """Returns the outputs until so many sequences have ended, by key and sequence."""
        outputs, ended = {}, 0
        while ended < sequences:
            for output in self.steps.get(timeout=WAIT_S).outputs:
                outputs.setdefault((output.key, output.sequence), []).append(output)
                ended += output.finish is not None or output.error is not None
        return outputs

    def one(self):
        """Returns all outputs of the one sequence that runs."""
        return next(iter(self.collect(1).values()))


def ids(outputs):
    return [token for output in outputs for token in output.token_ids]


def llm():
    return stand_in.AsyncLLM.latest
