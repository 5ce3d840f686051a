"""Which KV blocks each worker holds, as far as this frontend can tell.

What is sent to a worker it holds soon after. The worker's KV events, where it has them, add what
came from elsewhere and the generated tokens, and take away what was dropped. Without them, blocks
are forgotten after as many others were used as the worker has: then it has dropped them too.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat

from tokenwire_frontend.core.routing.chain import ID_BYTES, extend, root

BLOCK_BYTES = 200
"""Memory of a block: two numbers and their places in two tables; without events it is half."""

UNTOLD_BLOCKS = 32_768
"""Size of a KV cache that a worker does not tell."""


class RecentTable:
    """A table that keeps the entries which were put last: at least half as many as its limit."""

    __slots__ = ("_newer", "_older", "limit")

    def __init__(self) -> None:
        self.limit = 0
        """Most entries; changes count from the next put."""
        self._newer: dict[int, int] = {}
        self._older: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def __contains__(self, key: int) -> bool:
        return key in self._newer or key in self._older

    def get(self, key: int) -> int | None:
        """Returns an entry, or None where there is none."""
        newer = self._newer.get(key)
        return self._older.get(key) if newer is None else newer

    def leading(self, keys: Sequence[int]) -> int:
        """Returns how many of the first keys it has, where it has all those before one that it has.

        Only a few are looked at.
        """
        newer, older = self._newer, self._older
        low, high = 0, len(keys)
        while low < high:
            middle = (low + high) // 2
            if keys[middle] in newer or keys[middle] in older:
                low = middle + 1
            else:
                high = middle
        return low

    def put(self, keys: Sequence[int], values: Iterable[int]) -> None:
        """Puts entries, of too many the first."""
        half = max(self.limit // 2, 1)
        self._newer.update(zip(keys[:half], values, strict=False))
        if len(self._newer) >= half:
            self._older, self._newer = self._newer, {}

    def take(self, key: int) -> int | None:
        """Removes an entry and returns it, or None where there is none."""
        newer, older = self._newer.pop(key, None), self._older.pop(key, None)
        return older if newer is None else newer

    def clear(self) -> None:
        """Removes all entries."""
        self._newer, self._older = {}, {}


class WorkerBlocks:
    """What one worker holds."""

    def __init__(self) -> None:
        self._held = RecentTable()
        self._names = RecentTable()
        """Own hashes of blocks by the engine's."""

    def __len__(self) -> int:
        return len(self._held)

    def limit(self, blocks: int) -> None:
        """Sets how many blocks are remembered at most."""
        self._held.limit = self._names.limit = blocks

    def held(self, hashes: Sequence[int]) -> int:
        """Returns how many of a prompt's leading blocks the worker holds."""
        return self._held.leading(hashes)

    def sent(self, hashes: Sequence[int]) -> None:
        """Notes that the worker gets a prompt."""
        self._held.put(hashes, repeat(0))

    def stored(
        self,
        parent: int,
        engine_hashes: Sequence[int],
        token_ids: Sequence[int],
        domain: tuple[str, ...],
    ) -> None:
        """Notes that the worker's engine has stored blocks, each the child of the one before.

        What can't be understood is left out: it only makes the choice worse.

        Args:
            parent: the engine's hash of the block before the first; 0: none.
            engine_hashes: its hashes of the blocks.
            token_ids: their ids, one block after the other.
            domain: model, adapter and salt; counts for a first block alone.
        """
        above = self._names.get(parent) if parent else root(domain)
        count = len(engine_hashes)
        if above is None or not count or not token_ids or len(token_ids) % count:
            return
        block_bytes = len(token_ids) // count * ID_BYTES
        hashes = extend(above, array("I", token_ids).tobytes(), block_bytes)
        self._held.put(hashes, repeat(0))
        self._names.put(engine_hashes, hashes)

    def removed(self, engine_hashes: Iterable[int]) -> None:
        """Notes that the worker's engine has dropped blocks."""
        for each in engine_hashes:
            name = self._names.take(each)
            if name is not None:
                self._held.take(name)

    def clear(self) -> None:
        """Notes that the worker holds nothing that is known."""
        self._held.clear()
        self._names.clear()


class KvIndex:
    """What all workers hold.

    Args:
        limit_bytes: memory of it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_blocks = limit_bytes // BLOCK_BYTES
        self._workers: dict[str, WorkerBlocks] = {}
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._workers.values()))

    def worker(self, name: str, kv_blocks: int) -> WorkerBlocks:
        """Returns what a worker holds, that has so many blocks; 0: it does not say how many."""
        found = self._workers.get(name)
        if found is None:
            found = self._workers[name] = WorkerBlocks()
            self._sizes[name] = kv_blocks or UNTOLD_BLOCKS
            self._share()
        return found

    def forget(self, name: str) -> None:
        """Notes that a worker is gone, and with it what it held."""
        if self._workers.pop(name, None) is not None:
            del self._sizes[name]
            self._share()

    def _share(self) -> None:
        """Gives each worker its part of the memory, as far as it can use it."""
        most = self._limit_blocks // max(len(self._workers), 1)
        for name, blocks in self._workers.items():
            # Half of what a table may hold is certain to be remembered.
            blocks.limit(min(2 * self._sizes[name], most))
