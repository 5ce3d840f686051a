"""Gathers what engine steps bring to the generations of one stream into columns.

A frame is what one message of `Exchange` carries, or several where it is large. While a message is
being written, further steps go into the next frame: the longer a write takes, the more each message
carries.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tokenwire_service.errors import ServiceError

from tokenwire_worker.core.generations import Completion, Ending
from tokenwire_worker.engines.port import PromptLogprobs, TokenLogprob

ID_BYTES = 5
ENTRY_BYTES = 3 * 5
LOGPROB_BYTES = 20
ENDING_BYTES = 32
COMPLETION_BYTES = 128
FAILURE_BYTES = 4608
"""Most bytes of each thing on the wire: a varint of 32 bits has 5, a status less than 4 KiB. A log
probability and an alternative to it are alike."""

SPLIT_IDS = 1024
"""An entry of more ids is divided where its frame is: no engine brings as many in a step. One with
log probabilities is divided by their size."""


@dataclass(slots=True)
class Frame:
    """The columns of one message: entry i is some tokens of one sequence."""

    handles: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[tuple[int, list[TokenLogprob]]] = field(default_factory=list)
    """Entry, and one log probability for each of its ids."""
    accepted: list[int] = field(default_factory=list)
    prompts: list[tuple[int, PromptLogprobs, int, int]] = field(default_factory=list)
    """Handle, log probabilities of its prompt, and which of them: the first, and the end."""
    endings: list[tuple[int, int, Ending]] = field(default_factory=list)
    """Handle, sequence, ending."""
    completions: list[tuple[int, Completion]] = field(default_factory=list)
    failures: list[tuple[int, ServiceError]] = field(default_factory=list)
    all_first: bool = True
    """Every entry is of sequence 0: the column need not be sent."""
    all_single: bool = True
    """Every entry has one id: the column need not be sent."""
    dirty: bool = False
    """Something is in it."""
    ended: set[int] = field(default_factory=set)
    """Handles of which it has the completion or a failure."""
    prompts_bytes: int = 0
    """Most bytes of `prompts` on the wire; in memory they take a third of it."""
    _logprobs_bytes: int = 0
    _handles_bytes: int = 0
    """Of the completions' handles for transfers."""

    @property
    def size_bytes(self) -> int:
        """Most bytes that it has on the wire."""
        return (
            ENTRY_BYTES * len(self.handles)
            + ID_BYTES * (len(self.token_ids) + len(self.accepted))
            + self._logprobs_bytes
            + self.prompts_bytes
            + ENDING_BYTES * len(self.endings)
            + COMPLETION_BYTES * len(self.completions)
            + self._handles_bytes
            + FAILURE_BYTES * len(self.failures)
        )

    def add_tokens(
        self, handle: int, sequence: int, token_ids: list[int], logprobs: list[TokenLogprob] | None
    ) -> None:
        """Adds an entry."""
        if logprobs:
            self.logprobs.append((len(self.handles), logprobs))
            self._logprobs_bytes += ENTRY_BYTES + _logprobs_bytes(logprobs)
        self.handles.append(handle)
        self.sequences.append(sequence)
        self.token_ids += token_ids
        count = len(token_ids)
        self.counts.append(count)
        if sequence:
            self.all_first = False
        if count != 1:
            self.all_single = False
        self.dirty = True

    def add_columns(
        self, handles: list[int], sequences: list[int], counts: list[int], token_ids: list[int]
    ) -> None:
        """Adds entries without log probabilities."""
        self.handles += handles
        self.sequences += sequences
        self.counts += counts
        self.token_ids += token_ids
        self.all_first = self.all_first and not any(sequences)
        self.all_single = self.all_single and len(token_ids) == len(handles)
        self.dirty = True

    def add_accepted(self, handle: int) -> None:
        """Adds an acceptance."""
        self.accepted.append(handle)
        self.dirty = True

    def add_prompt_logprobs(
        self, handle: int, logprobs: PromptLogprobs, start: int, end: int
    ) -> None:
        """Adds log probabilities of a prompt: those of these tokens."""
        self.prompts.append((handle, logprobs, start, end))
        self.prompts_bytes += ENTRY_BYTES + (end - start) * _scored_bytes(logprobs)
        self.dirty = True

    def add_ending(self, handle: int, sequence: int, ending: Ending) -> None:
        """Adds the end of a sequence."""
        self.endings.append((handle, sequence, ending))
        self.dirty = True

    def add_completion(self, handle: int, completion: Completion) -> None:
        """Adds the end of a generation."""
        self.completions.append((handle, completion))
        self._handles_bytes += len(completion.transfer_handle)
        self.ended.add(handle)
        self.dirty = True

    def add_failure(self, handle: int, error: ServiceError) -> None:
        """Adds a refusal or failure."""
        self.failures.append((handle, error))
        self.ended.add(handle)
        self.dirty = True

    def parts(self, most_bytes: int) -> Iterator[Frame]:
        """Yields frames of about this size at the most that carry the same in the same order.

        A part is made when it is asked for. It exceeds the size by less than one end, or than one
        entry, which itself has about this size at the most, or one id.
        """
        if self.size_bytes <= most_bytes:
            yield self
            return
        part = Frame()
        for add, item in self._items(most_bytes):
            add(part, *item)
            if part.size_bytes >= most_bytes:
                yield part
                part = Frame()
        if part.dirty:
            yield part

    def of_each_handle(self) -> Iterator[tuple[int, Frame]]:
        """Yields what it carries by handle."""
        frames: dict[int, Frame] = {}
        for add, item in self._items():
            add(frames.setdefault(item[0], Frame()), *item)
        yield from frames.items()

    def _items(
        self, most_bytes: int = sys.maxsize
    ) -> Iterator[tuple[Callable[..., None], tuple[Any, ...]]]:
        """Yields everything in the order in which a reader takes it, with what adds it.

        Entries of more than `most_bytes`, or SPLIT_IDS, are divided.
        """
        for handle in self.accepted:
            yield Frame.add_accepted, (handle,)
        for handle, prompt, start, end in self.prompts:
            step = max(most_bytes // _scored_bytes(prompt), 1)
            for at in range(start, end, step):
                yield Frame.add_prompt_logprobs, (handle, prompt, at, min(at + step, end))
        logprobs = dict(self.logprobs)
        start = 0
        entries = zip(self.handles, self.sequences, self.counts, strict=True)
        for entry, (handle, sequence, count) in enumerate(entries):
            told = logprobs.get(entry)
            step = _ids_within(most_bytes, told)
            for at in range(0, count, step):
                upto = min(at + step, count)
                ids = self.token_ids[start + at : start + upto]
                yield Frame.add_tokens, (handle, sequence, ids, told and told[at:upto])
            start += count
        for ending in self.endings:
            yield Frame.add_ending, ending
        for completion in self.completions:
            yield Frame.add_completion, completion
        for failure in self.failures:
            yield Frame.add_failure, failure


def _scored_bytes(logprobs: PromptLogprobs) -> int:
    """Returns the most bytes of one token of a prompt on the wire."""
    return LOGPROB_BYTES * (1 + logprobs.alternatives)


def _logprobs_bytes(logprobs: list[TokenLogprob]) -> int:
    """Returns the most bytes of log probabilities on the wire."""
    return LOGPROB_BYTES * (len(logprobs) + sum([len(each.alternatives) for each in logprobs]))


def _ids_within(most_bytes: int, logprobs: list[TokenLogprob] | None) -> int:
    """Returns how many ids of an entry fit into so many bytes, at least one."""
    if not logprobs:
        return SPLIT_IDS
    largest = max([len(each.alternatives) for each in logprobs])
    id_bytes = ID_BYTES + LOGPROB_BYTES * (1 + largest)
    return min(max(most_bytes // id_bytes, 1), SPLIT_IDS)
