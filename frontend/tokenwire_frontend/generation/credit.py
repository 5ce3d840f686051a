"""What a client lets be sent of one generation."""

from __future__ import annotations

import sys

CREDIT_LIMIT = 2**32 - 1
"""Most credit of a generation; what is granted beyond it is lost. No generation uses it up: it is
32 sequences of 134 million tokens."""


class Credit:
    """Tokens or deltas that may be sent.

    Args:
        left: how many.
        counts_tokens: each token uses one; else each delta does, but for a sequence's end that
            brings no token.
    """

    __slots__ = ("counts_tokens", "left")

    def __init__(self, left: int, *, counts_tokens: bool) -> None:
        self.left = left
        self.counts_tokens = counts_tokens

    @property
    def tokens(self) -> int:
        """Most tokens of the next delta."""
        return self.left if self.counts_tokens or not self.left else sys.maxsize

    def grant(self, amount: int) -> None:
        """Adds to what is left."""
        self.left = min(self.left + amount, CREDIT_LIMIT)

    def use(self, tokens: int) -> None:
        """Takes off what a delta of so many tokens uses."""
        self.left = max(self.left - (tokens if self.counts_tokens else 1), 0)
