"""What a caller of a worker does, on raw stubs, and what must hold of every stream.

Every message that is read here is checked against the contract: acceptance first, nothing of a
handle before it or after its end, columns that agree with each other.
"""

from __future__ import annotations

import queue
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from google.rpc import status_pb2
from tokenwire.worker.v1 import execution_pb2 as pb

from tests.services.calls import Worker, duration
from tests.services.processes import WAIT_S

LONG = 3900
"""Tokens of a generation that would run for many seconds: the model's context less a prompt."""

STOP = pb.FINISH_REASON_STOP
LENGTH = pb.FINISH_REASON_LENGTH
TIME_BUDGET = pb.FINISH_REASON_TIME_BUDGET
CANCELLED = pb.FINISH_REASON_CANCELLED


def prompt(seed: int = 0, tokens: int = 40) -> list[int]:
    """Returns token ids that mean nothing, the same for the same seed."""
    return random.Random(seed).choices(range(8, 4000), k=tokens)


def request(seed: int = 0, max_tokens: int = 12, *, tokens: int = 40, **fields: Any) -> pb.Request:
    """Returns a greedy request that runs to max_tokens; `fields` are the contract's own."""
    sampling = {"temperature": 0.0, **fields.pop("sampling", {})}
    stopping = {"max_tokens": max_tokens, "ignore_eos": True, **fields.pop("stopping", {})}
    if "time_budget" in fields:
        fields["time_budget"] = duration(fields["time_budget"])
    return pb.Request(
        **{
            "prompt_token_ids": prompt(seed, tokens),
            "sampling": pb.Sampling(**sampling),
            "stopping": pb.Stopping(**stopping),
            **fields,
        }
    )


@dataclass
class Generated:
    """What came of one generation."""

    sequences: int = 1
    accepted: bool = False
    ids: dict[int, list[int]] = field(default_factory=dict)
    logprobs: dict[int, list[pb.TokenLogprob]] = field(default_factory=dict)
    prompt_logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    endings: dict[int, pb.Ending] = field(default_factory=dict)
    completed: pb.Completed | None = None
    failure: status_pb2.Status | None = None

    def take_tokens(self, sequence: int, ids: list[int], logprobs: Any) -> None:
        assert self.accepted, "tokens before it was accepted"
        assert not self.over, "tokens after the end"
        assert sequence not in self.endings, "tokens after the end of their sequence"
        self.ids.setdefault(sequence, []).extend(ids)
        self.logprobs.setdefault(sequence, []).extend(logprobs)

    def take_prompt_logprobs(self, told: pb.PromptLogprobs) -> None:
        assert self.accepted, "log probabilities of the prompt before it was accepted"
        assert not self.ids, "log probabilities of the prompt after tokens"
        assert told.token_offset == len(self.prompt_logprobs), "a gap or a repeat"
        self.prompt_logprobs += told.tokens

    def take_ending(self, sequence: int, ending: pb.Ending) -> None:
        assert sequence not in self.endings, "a second end of one sequence"
        self.endings[sequence] = ending

    def take_completed(self, completed: pb.Completed) -> None:
        assert not self.over, "a second end"
        assert len(self.endings) == self.sequences, "complete before every sequence has ended"
        counted = sum(len(ids) for ids in self.ids.values())
        assert completed.completion_tokens == counted, "tokens lost or counted twice"
        self.completed = completed

    @property
    def over(self) -> bool:
        return self.completed is not None or self.failure is not None

    @property
    def reasons(self) -> list[int]:
        return [self.endings[sequence].reason for sequence in sorted(self.endings)]


def read_execute(call: Any, sequences: int = 1) -> Generated:
    """Reads an Execute call to its end."""
    generated = Generated(sequences)
    for message in call:
        event = message.WhichOneof("event")
        if event == "accepted":
            assert not generated.accepted, "accepted twice"
            generated.accepted = True
        elif event == "completed":
            generated.take_completed(message.completed)
        elif event == "prompt_logprobs":
            generated.take_prompt_logprobs(message.prompt_logprobs)
        else:
            tokens = message.tokens
            assert tokens.token_ids or tokens.HasField("ending"), "a message without news"
            generated.take_tokens(tokens.sequence, list(tokens.token_ids), tokens.logprobs)
            if tokens.HasField("ending"):
                generated.take_ending(tokens.sequence, tokens.ending)
    assert generated.completed is not None, "it ended before Completed"
    return generated


def execute(worker: Worker, asked: pb.Request) -> Generated:
    """Runs a request by Execute."""
    call = worker.execution.Execute(pb.ExecuteRequest(request=asked), timeout=WAIT_S)
    return read_execute(call, asked.sequence_count or 1)


class Received:
    """What an Exchange call has brought, by handle."""

    def __init__(self) -> None:
        self.messages: list[pb.ExchangeResponse] = []
        self._live: dict[int, Generated] = {}

    def expect(self, handle: int, sequences: int = 1) -> None:
        """What comes under the handle from now on is another generation's."""
        self._live[handle] = Generated(sequences)

    def __getitem__(self, handle: int) -> Generated:
        return self._live[handle]

    def take(self, message: pb.ExchangeResponse) -> None:
        """Takes the next message."""
        self.messages.append(message)
        for handle in message.accepted:
            assert not self[handle].accepted, "accepted twice"
            self[handle].accepted = True
        for told in message.prompt_logprobs:
            self[told.handle].take_prompt_logprobs(told)
        self._take_tokens(message)
        for ended in message.endings:
            self[ended.handle].take_ending(ended.sequence, ended.ending)
        for completion in message.completions:
            self[completion.handle].take_completed(completion.completed)
        for failure in message.failures:
            assert not self[failure.handle].over, "a failure after the end"
            self[failure.handle].failure = failure.status

    def _take_tokens(self, message: pb.ExchangeResponse) -> None:
        entries = len(message.handles)
        sequences = list(message.sequences) or [0] * entries
        counts = list(message.counts) or [1] * entries
        assert len(sequences) == len(counts) == entries
        assert sum(counts) == len(message.token_ids)
        assert all(counts), "an entry without ids"
        logprobs = {each.entry: each.tokens for each in message.logprobs}
        start = 0
        for entry, handle in enumerate(message.handles):
            ids = list(message.token_ids[start : start + counts[entry]])
            start += counts[entry]
            self[handle].take_tokens(sequences[entry], ids, logprobs.get(entry, ()))


class Exchange(Received):
    """An Exchange call: commands go out at once; messages are read by the caller's own thread."""

    def __init__(self, worker: Worker, timeout: float = WAIT_S) -> None:
        self._commands: queue.SimpleQueue[pb.ExchangeRequest | None] = queue.SimpleQueue()
        self.call = worker.execution.Exchange(iter(self._commands.get, None), timeout=timeout)
        super().__init__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_sending()
        self.call.cancel()

    def send(self, **command: Any) -> None:
        self._commands.put(pb.ExchangeRequest(**command))

    def submit(self, handle: int, asked: pb.Request) -> None:
        self.expect(handle, asked.sequence_count or 1)
        self.send(submit=pb.Submit(handle=handle, request=asked))

    def cancel(self, handle: int, *sequences: int) -> None:
        self.send(cancel=pb.Cancel(handle=handle, sequences=sequences))

    def close_sending(self) -> None:
        self._commands.put(None)

    def read_until(self, done: Callable[[], bool]) -> None:
        """Reads messages until something holds."""
        while not done():
            self.take(next(self.call))

    def read_to_end(self) -> None:
        """Reads what is left."""
        for message in self.call:
            self.take(message)

    def finish(self, *handles: int) -> list[Generated]:
        """Reads until these generations are over."""
        self.read_until(lambda: all(self[handle].over for handle in handles))
        return [self[handle] for handle in handles]
