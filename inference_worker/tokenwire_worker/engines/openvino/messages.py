"""What the worker and its engine's process say to each other, and how: pickles on a socket pair."""

from __future__ import annotations

import pickle
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from tokenwire_worker.engines.port import (
    EngineInfo,
    EngineLoad,
    Generation,
    Output,
    Step,
)


@dataclass(frozen=True)
class Submit:
    """To the engine: run a generation."""

    key: int
    generation: Generation
    heavy_form: bool = False
    """Its guide takes long to compile."""


@dataclass(frozen=True)
class Cancel:
    """To the engine: stop a generation, or one sequence of it."""

    key: int
    sequence: int | None


@dataclass(frozen=True)
class Drain:
    """To the engine: end once all that is held has ended. No Submit follows."""


@dataclass(frozen=True)
class Close:
    """To the engine: end, cancelling what is held."""


@dataclass(frozen=True)
class Ready:
    """From the engine, first: what it serves."""

    info: EngineInfo
    tokenizer: str | None
    """Where the trial process of guides loads the tokenizer from; None: no guides."""
    unguided: str
    """Why there are none."""


@dataclass(frozen=True)
class Failed:
    """From the engine, first: it can't be built."""

    error: Exception


@dataclass(frozen=True)
class Stepped:
    """From the engine: a step."""

    step: Step
    load: EngineLoad


@dataclass(frozen=True)
class Compiling:
    """From the engine, again and again: it only waits for forms to be compiled."""


@dataclass(frozen=True)
class Died:
    """From the engine, last: the pipeline has failed."""

    reason: str


class Channel:
    """One end. One thread receives; any may send, and waits where the other end is behind."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, message: object) -> None:
        """Sends a message.

        Raises:
            OSError: the other end is gone.
        """
        packed = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with self._sending:
            self._connection.send_bytes(packed)

    def send_step(self, step: Step, load: EngineLoad) -> None:
        """Sends a step, as tuples: ten times as fast to pickle as the objects.

        Raises:
            OSError: the other end is gone.
        """
        outputs = [
            (each.key, each.sequence, each.token_ids, each.finish, each.logprobs, each.error)
            for each in step.outputs
        ]
        self.send(
            (step.began_s, step.started, outputs, load.running_sequences, load.kv_cache_usage)
        )

    def fileno(self) -> int:
        """Returns what is readable when `receive` would return at once, as `waiting` tells."""
        return self._connection.fileno()

    def waiting(self) -> bool:
        """Tells whether `receive` would return at once."""
        return self._connection.poll()

    def receive(self) -> object:
        """Returns the next message, waiting for it; None: the other end is gone."""
        try:
            # The peer is this program, over a socket pair that nothing else holds.
            message: Any = pickle.loads(self._connection.recv_bytes())  # noqa: S301
        except (EOFError, OSError):
            return None
        if isinstance(message, tuple):
            began_s, started, outputs, running, usage = message
            step = Step(
                [
                    Output(key, sequence, ids, finish, logprobs, error=error)
                    for key, sequence, ids, finish, logprobs, error in outputs
                ],
                started,
                began_s,
            )
            return Stepped(step, EngineLoad(running, usage))
        return message

    def close(self) -> None:
        """Closes this end."""
        self._connection.close()
