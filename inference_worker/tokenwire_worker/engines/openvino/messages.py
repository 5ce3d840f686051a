"""What the worker and its engine's process say to each other, and how: pickles on a socket pair."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from select import select
from typing import Any

from tokenwire_worker.engines.port import (
    Columns,
    EngineInfo,
    EngineLoad,
    Generation,
    Output,
    Step,
)

HEADER_BYTES = 4
"""Before each message: its size in bytes."""


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
    """An end of a socket pair, for a thread that may wait: for messages, and to send them."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: object) -> None:
        """Sends a message.

        Raises:
            OSError: the other end is gone.
        """
        self._end.sendall(packed(message))

    def send_step(self, step: Step, load: EngineLoad) -> None:
        """Sends a step, as tuples and columns: ten times as fast to pickle as the objects.

        Raises:
            OSError: the other end is gone.
        """
        outputs = [
            (each.key, each.sequence, each.token_ids, each.finish, each.logprobs, each.error)
            for each in step.outputs
        ]
        made = step.columns
        columns = (made.keys, made.sequences, made.counts, made.token_ids)
        self.send(
            (
                *(step.began_s, step.started, columns, outputs),
                *(load.running_sequences, load.kv_cache_usage),
            )
        )

    def fileno(self) -> int:
        """Returns what is readable when there is something to receive."""
        return self._end.fileno()

    def waiting(self) -> bool:
        """Tells whether there is something to receive."""
        return bool(select([self._end], [], [], 0)[0])

    def receive(self) -> object:
        """Returns the next message, waiting for it; None: the other end is gone."""
        header = self._exactly(HEADER_BYTES)
        body = header and self._exactly(int.from_bytes(header))
        return _unpacked(body) if body else None

    def _exactly(self, size: int) -> bytes:
        """Returns the next bytes, so many; none where the other end is gone."""
        parts = []
        while size:
            try:
                part = self._end.recv(size)
            except OSError:
                part = b""
            if not part:
                return b""
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Arrived:
    """What has arrived of messages, for a thread that does not wait."""

    def __init__(self) -> None:
        """Starts empty."""
        self._bytes = bytearray()

    def messages(self, data: bytes) -> Iterator[object]:
        """Adds bytes, and yields the messages that are complete."""
        held = self._bytes
        held += data
        start = 0
        try:
            while len(held) - start >= HEADER_BYTES:
                begin = start + HEADER_BYTES
                end = begin + int.from_bytes(held[start:begin])
                if end > len(held):
                    break
                start = end
                yield _unpacked(held[begin:end])
        finally:
            del held[:start]


def packed(message: object) -> bytes:
    """Returns a message as it is sent: its size and a pickle."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return len(body).to_bytes(HEADER_BYTES) + body


def _unpacked(body: bytes | bytearray) -> object:
    # The peer is this program, over a socket pair that nothing else holds.
    message: Any = pickle.loads(body)  # noqa: S301
    if not isinstance(message, tuple):
        return message
    began_s, started, columns, outputs, running, usage = message
    step = Step(
        [
            Output(key, sequence, ids, finish, logprobs, error=error)
            for key, sequence, ids, finish, logprobs, error in outputs
        ],
        started,
        began_s,
        Columns(*columns),
    )
    return Stepped(step, EngineLoad(running, usage))
