"""A model of which the next token is a pure function of the tokens before it.

At each place it orders the vocabulary; its likeliest token is one of no meaning, drawn by a hash of
what went before, and the token at rank r is exp(-r) times as likely at temperature 1. Greedy
decoding takes the first, and sampling draws a rank with the request's seed. Cuts of the
distribution (top_k, top_p, min_p) cut the ranks, each by itself.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

from tokenwire_worker.engines.port import Sampling
from tokenwire_worker.engines.simulated.digits import PRIME

_MASK = 2**64 - 1
_HALF = 2**32 - 1

_FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
"""Odd numbers that spread a change of one bit over all bits of a product."""


def _mixed(number: int) -> int:
    """Returns 64 bits that look random, the same for the same number."""
    number = number * _FIRST & _MASK
    number = (number ^ number >> 32) * _SECOND & _MASK
    return number ^ number >> 32


@dataclass(frozen=True, slots=True)
class Draw:
    """How one sequence draws ranks."""

    salt: int
    temperature: float
    kept: int
    """Ranks that may be drawn, from the first on; at least 2."""
    share: float
    """Probability of the kept ones, before the cut."""

    def rank(self, before: int) -> int:
        """Returns the rank to take where this went before."""
        chance = (_mixed(before ^ self.salt) >> 11) * 2.0**-53
        return min(int(-math.log1p(-chance * self.share) * self.temperature), self.kept - 1)


def draw_of(sampling: Sampling, sequence: int, vocabulary_size: int) -> Draw | None:
    """Returns how a sequence of a request draws; None: it takes the first rank.

    Without a seed no two calls return the same.
    """
    temperature = sampling.temperature
    if temperature <= 0:
        return None
    kept = min(sampling.top_k or vocabulary_size, vocabulary_size)
    if sampling.top_p < 1:
        kept = min(kept, max(math.ceil(-temperature * math.log1p(-sampling.top_p)), 1))
    if sampling.min_p > 0:
        kept = min(kept, int(-temperature * math.log(sampling.min_p)) + 1)
    if kept < 2:
        return None
    seed = random.getrandbits(64) if sampling.seed is None else sampling.seed
    share = -math.expm1(-kept / temperature)
    return Draw(_mixed((seed + sequence + 1) & _MASK), temperature, kept, share)


class SimulatedModel:
    """What a model's vocabulary and a seed make of the ids so far.

    Args:
        vocabulary_size: ids run from 0 to this less one.
        withheld: ids that it does not give, such as control tokens; not all of them.
        eos: the id that ends a sequence; None: it has none.
        seed: makes it another model.
        mean_output_tokens: tokens after which it ends on average; None: never by itself.
    """

    def __init__(
        self,
        vocabulary_size: int,
        withheld: frozenset[int] = frozenset(),
        eos: int | None = None,
        seed: int = 0,
        mean_output_tokens: float | None = None,
    ) -> None:
        self._size = vocabulary_size
        self._withheld = withheld if eos is None else withheld | {eos}
        self._seed = seed
        self._eos = -1 if eos is None else eos
        ends = mean_output_tokens is not None and eos is not None
        self._end_below = round(2**32 / mean_output_tokens) if ends and mean_output_tokens else 0

    def root(self, lora_adapter: str = "") -> int:
        """Returns the number that stands for no ids, from which `extended` goes on."""
        text = f"{self._seed}/{lora_adapter}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % PRIME

    def draw(self, sampling: Sampling, sequence: int) -> Draw | None:
        """Returns how a sequence of a request draws; None: greedily."""
        return draw_of(sampling, sequence, self._size)

    def next_id(self, before: int, draw: Draw | None, *, may_end: bool) -> int:
        """Returns the id after a run. The hot path: runs once for each token.

        Args:
            before: the number of the run.
            draw: how its sequence draws.
            may_end: whether it may be the end; else the model has something else to say there.
        """
        mixed = _mixed(before)
        if mixed & _HALF < self._end_below and may_end:
            return self._eos
        token = (mixed >> 32) * self._size >> 32
        if draw is not None:
            token = (token + draw.rank(before)) % self._size
        while token in self._withheld:
            token = (token + 1) % self._size
        return token
