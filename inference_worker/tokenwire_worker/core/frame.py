"""Gathers what engine steps bring to the generations of one stream into columns.

A frame is what one message of `Exchange` carries. While a message is being written, further steps
go into the next frame: the longer a write takes, the more each message carries. What gathers is
bounded by the max_tokens of the generations that are live.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenwire_service.errors import ServiceError

from tokenwire_worker.core.generations import Completion, Ending
from tokenwire_worker.engines.port import TokenLogprob


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

    def add_tokens(
        self, handle: int, sequence: int, token_ids: list[int], logprobs: list[TokenLogprob] | None
    ) -> None:
        """Adds an entry. The hot path: runs once for each sequence and step."""
        if logprobs:
            self.logprobs.append((len(self.handles), logprobs))
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

    def add_accepted(self, handle: int) -> None:
        """Adds an acceptance."""
        self.accepted.append(handle)
        self.dirty = True

    def add_ending(self, handle: int, sequence: int, ending: Ending) -> None:
        """Adds the end of a sequence."""
        self.endings.append((handle, sequence, ending))
        self.dirty = True

    def add_completion(self, handle: int, completion: Completion) -> None:
        """Adds the end of a generation."""
        self.completions.append((handle, completion))
        self.dirty = True

    def add_failure(self, handle: int, error: ServiceError) -> None:
        """Adds a refusal or failure."""
        self.failures.append((handle, error))
        self.dirty = True
