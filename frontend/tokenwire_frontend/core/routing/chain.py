"""How a prompt's KV blocks are named: each by all that comes before its end."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

LEADING_BLOCKS = 8192
"""Most blocks of a prompt that are looked at: 131,072 tokens in blocks of 16, which take 2 ms. What
comes after so many alike is seldom looked for."""

ID_BYTES = 4


class Prefix:
    """The beginning of a prompt in whole blocks of one size.

    Equal prompts of other models, adapters or salts share no blocks.

    Args:
        ids: the prompt's.
        block_tokens: tokens of a block, at least 1.
        domain: model, adapter and salt.
    """

    def __init__(self, ids: Sequence[int], block_tokens: int, domain: tuple[str, ...]) -> None:
        self._data = array("I", ids[: LEADING_BLOCKS * block_tokens]).tobytes()
        self._size = block_tokens * ID_BYTES
        self._domain = domain
        self.hashes = extend(root(domain), self._data, self._size)
        """Of each block with all before it. They hold in this process alone, so that nobody can
        make prompts whose hashes are equal."""

    def key(self, blocks: int) -> int:
        """Returns a hash of the first so many blocks, below 2**64, that is the same everywhere."""
        digest = hashlib.blake2b("\0".join(self._domain).encode(), digest_size=8)
        digest.update(self._data[: blocks * self._size])
        return int.from_bytes(digest.digest(), "big")


def root(domain: tuple[str, ...]) -> int:
    """Returns what stands for no blocks."""
    return hash(domain)


def extend(parent: int, data: bytes, block_bytes: int) -> list[int]:
    """Returns the hashes of the whole blocks in `data`, each the child of the one before."""
    hashes = []
    for at in range(0, len(data) - block_bytes + 1, block_bytes):
        # Python's hash of bytes is keyed for each process, and costs a fifth of hashlib's.
        parent = hash((parent, data[at : at + block_bytes]))
        hashes.append(parent)
    return hashes
