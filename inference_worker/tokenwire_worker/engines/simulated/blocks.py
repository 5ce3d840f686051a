"""The KV cache of a simulated engine: which blocks it holds, for whom, and what it forgets.

A block is full of tokens and known by the hash of all tokens up to its end, or it is being filled
by one sequence. What a sequence may need to its end is reserved when it is admitted, so a running
sequence is never preempted. Unused blocks are evicted when room is needed, the least recently used
first; of one sequence's the last first, since none is of use without those before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tokenwire_worker.engines.port import KvEvent, KvRemoved, KvStored
from tokenwire_worker.engines.simulated.digits import DIGIT_BYTES, PRIME, digits, extended


def root_hash(lora_adapter: str, cache_salt: str) -> int:
    """Returns what stands for no blocks: only prompts with the same adapter and salt share any."""
    text = f"{len(lora_adapter)}:{lora_adapter}{cache_salt}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % PRIME


def block_hash(parent: int, block: bytes) -> int:
    """Returns the hash of a block of these digits, 1 to PRIME: 0 stands for no block."""
    return extended(parent, block) + 1


def block_hashes(root: int, prompt: Sequence[int], block_tokens: int) -> Iterator[int]:
    """Yields the hashes of the blocks of a prompt that may be reused.

    Its last token is not among them: it has to be computed to say what comes next.
    """
    run, size = digits(prompt), block_tokens * DIGIT_BYTES
    for at in range(0, len(run) - size, size):
        root = block_hash(root, run[at : at + size])
        yield root


@dataclass(slots=True)
class Holding:
    """What one sequence has of the cache."""

    root: int
    domain: tuple[str, str] = ("", "")
    """Adapter and salt."""
    chain: list[int] = field(default_factory=list)
    """Hashes of its full blocks, in order."""
    promised: int = 0
    """Blocks that it may still take."""
    filling: bool = False
    """It has one more, that is not full."""


class BlockCache:
    """The blocks.

    Args:
        blocks: how many there are.
        reuse: whether sequences share full blocks, and find those of sequences that have ended.
    """

    def __init__(self, blocks: int, *, reuse: bool = True) -> None:
        self.blocks = blocks
        self._reuse = reuse
        self._apart = 0
        """Without reuse: the last root, of which each sequence has one of its own."""
        self._events: list[KvEvent] = []
        self._stored: tuple[list[int], list[int]] = ([], [])
        """Hashes and ids of the event that is last, where that tells of stored blocks."""
        self._removed: list[int] = []
        """Hashes of the event that is last, where that tells of removed blocks."""
        self._users: dict[int, int] = {}
        """Sequences that use a full block, by its hash."""
        self._idle: dict[int, None] = {}
        """Full blocks that nobody uses, least recently used first."""
        self._filling = 0
        self._promised = 0

    @property
    def used(self) -> int:
        """Blocks that running sequences have."""
        return len(self._users) + self._filling

    def admit(
        self, root: int, hashes: Sequence[int], most_blocks: int, domain: tuple[str, str]
    ) -> Holding | None:
        """Admits a sequence; returns what it holds, or None where not all of it fits.

        Args:
            root: see `root_hash`.
            hashes: of the full blocks of its prompt that may be reused.
            most_blocks: blocks that it may need to its end.
            domain: its adapter and its salt.
        """
        hits = 0
        while self._reuse and hits < len(hashes) and self._has(hashes[hits]):
            hits += 1
        chain = list(hashes[:hits])
        woken = sum(each in self._idle for each in chain)
        promised = most_blocks - hits
        if self.used + self._promised + woken + promised > self.blocks:
            return None
        for each in chain:
            self._use(each)
        self._promised += promised
        if not self._reuse:
            root = self._apart = self._apart + 1
        return Holding(root, domain, chain, promised)

    def begin_block(self, holding: Holding) -> None:
        """Gives a sequence one of the blocks that it was promised."""
        holding.promised -= 1
        holding.filling = True
        self._promised -= 1
        self._filling += 1
        if self.used + len(self._idle) > self.blocks:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            self._tell_removed(oldest)

    def fill_block(self, holding: Holding, ids: Sequence[int]) -> None:
        """Notes that the block which a sequence began is full of these ids."""
        parent = holding.chain[-1] if holding.chain else holding.root
        found = block_hash(parent, digits(ids))
        holding.filling = False
        self._filling -= 1
        if self._reuse and not self._has(found):
            self._tell_stored(holding, found, ids)
        self._use(found)
        holding.chain.append(found)

    def release(self, holding: Holding) -> None:
        """Takes back all that a sequence has."""
        self._promised -= holding.promised
        self._filling -= holding.filling
        for each in reversed(holding.chain):
            self._users[each] -= 1
            if not self._users[each]:
                del self._users[each]
                if self._reuse:
                    self._idle[each] = None

    def take_events(self) -> list[KvEvent]:
        """Returns what happened since the last call, in order."""
        events, self._events, self._stored = self._events, [], ([], [])
        return events

    def _has(self, block: int) -> bool:
        return block in self._users or block in self._idle

    def _use(self, block: int) -> None:
        self._idle.pop(block, None)
        self._users[block] = self._users.get(block, 0) + 1

    def _tell_stored(self, holding: Holding, block: int, ids: Sequence[int]) -> None:
        parent = holding.chain[-1] if holding.chain else 0
        hashes, tokens = self._stored
        if not hashes or hashes[-1] != parent:
            hashes, tokens = self._stored = [], []
            self._events.append(KvStored(parent, hashes, tokens, *holding.domain))
        # A prompt's blocks come one after the other: one event for all of them.
        hashes.append(block)
        tokens.extend(ids)

    def _tell_removed(self, block: int) -> None:
        self._stored = [], []
        last = self._events[-1] if self._events else None
        if isinstance(last, KvRemoved):
            self._removed.append(block)
        else:
            self._removed = [block]
            self._events.append(KvRemoved(self._removed))
