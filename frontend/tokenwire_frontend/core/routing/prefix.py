"""The policy `prefix`."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from tokenwire_frontend.core.routing.candidate import Candidate
from tokenwire_frontend.core.routing.chain import Prefix
from tokenwire_frontend.core.routing.kv_index import KvIndex, WorkerBlocks
from tokenwire_frontend.core.routing.router import Cause, Choice, Policy, RoutedPrompt, Router
from tokenwire_frontend.core.routing.shares import Shares

BUSY = 1.25
"""How many times the mean load a worker may have, where a request would wait on it, or where it
holds no more of the prompt than any other."""

_MASK = 2**64 - 1
_ODD = 0x9E37_79B9_7F4A_7C15


class PrefixRouter(Router):
    """Chooses the worker that holds most of the prompt, unless it has too much to do.

    What several workers hold goes sooner to one that holds less, so that a prompt which many
    callers share spreads, and leaves room for those that one worker alone holds. Among workers that
    hold as much, none maybe, the prompt's hash decides: all frontends choose alike, and a change of
    the workers moves few prompts.

    Args:
        index_bytes: memory of the index of KV blocks.
    """

    def __init__(self, index_bytes: int) -> None:
        self.index: KvIndex = KvIndex(index_bytes)
        self._shares = Shares()
        self._seeds: dict[str, int] = {}

    def choose(self, prompt: RoutedPrompt, candidates: Sequence[Candidate]) -> Choice:
        """Returns the chosen candidate; the request is taken to go there."""
        if len(candidates) == 1:
            return _choice(0, Cause.ONLY, candidates)
        prefixes = _prefixes(prompt, candidates)
        held = [self._held(each, prefixes) for each in candidates]
        index, cause = self._best(prompt, candidates, held, prefixes)
        chosen = candidates[index]
        self._shares.add(chosen.name, len(candidates))
        size = chosen.block_tokens
        if not size:
            return _choice(index, cause, candidates)
        self._blocks(chosen).sent(prefixes[size].hashes)
        # One token at least has to be computed, to say what comes next.
        reused = min(held[index], (len(prompt.ids) - 1) // size * size)
        return _choice(index, cause, candidates, reused)

    def held(self, prompt: RoutedPrompt, candidates: Sequence[Candidate]) -> int:
        """Returns the most tokens of the prompt that a candidate's KV cache is expected to have."""
        prefixes = _prefixes(prompt, candidates)
        return max((self._held(each, prefixes) for each in candidates), default=0)

    def sent(self, prompt: RoutedPrompt, worker: Candidate) -> None:
        """Notes that the prompt goes to a worker which was chosen otherwise."""
        if worker.block_tokens:
            prefix = _prefixes(prompt, [worker])[worker.block_tokens]
            self._blocks(worker).sent(prefix.hashes)

    def forget(self, worker: str) -> None:
        """Notes that a worker is gone, and with it what it held."""
        self.index.forget(worker)
        self._shares.forget(worker)
        self._seeds.pop(worker, None)

    def _blocks(self, worker: Candidate) -> WorkerBlocks:
        return self.index.worker(worker.name, worker.kv_blocks)

    def _held(self, worker: Candidate, prefixes: Mapping[int, Prefix]) -> int:
        """Returns how many of the prompt's tokens a worker holds."""
        size = worker.block_tokens
        return self._blocks(worker).held(prefixes[size].hashes) * size if size else 0

    def _best(
        self,
        prompt: RoutedPrompt,
        candidates: Sequence[Candidate],
        held: Sequence[int],
        prefixes: Mapping[int, Prefix],
    ) -> tuple[int, Cause]:
        """Returns the place of the candidate to choose, and why."""
        excess = self._shares.excess(candidates)
        free = [index for index in _not_busy(candidates) if excess[index] <= 1]
        for index in free:
            if candidates[index].name == prompt.preferred:
                return index, Cause.CONVERSATION
        if not free:
            return _least_loaded(candidates), Cause.LEAST_LOADED
        equals = _most_held(free, held, excess)
        if held[equals[0]] == min(held):
            # No other would do worse, so the load counts alone.
            equals = _evenly_loaded(equals, candidates) or equals
        tokens = held[equals[0]]
        cause = Cause.SPREAD if tokens < max(held) else Cause.HELD if tokens else Cause.HASH
        if len(equals) == 1:
            return equals[0], cause
        size = candidates[equals[0]].block_tokens
        # The next block: it is the first that tells this prompt from others that they hold.
        key = prefixes[size].key(tokens // size + 1) if size else 0
        return max(equals, key=lambda index: self._rank(candidates[index].name, key)), cause

    def _rank(self, worker: str, key: int) -> int:
        """Returns a worker's rank for a key, which does not depend on the other workers."""
        seed = self._seeds.get(worker)
        if seed is None:
            digest = hashlib.blake2b(worker.encode(), digest_size=8).digest()
            seed = self._seeds[worker] = int.from_bytes(digest, "big")
        return (seed ^ key) * _ODD & _MASK


def _prefixes(prompt: RoutedPrompt, candidates: Sequence[Candidate]) -> dict[int, Prefix]:
    """Returns the prompt in blocks of each size that the candidates have."""
    domain = (prompt.model, prompt.lora_adapter, prompt.cache_salt)
    sizes = {each.block_tokens for each in candidates if each.block_tokens}
    return {size: Prefix(prompt.ids, size, domain) for size in sizes}


def _not_busy(candidates: Sequence[Candidate]) -> list[int]:
    """Returns the places of those that run a request at once, or are not much busier than all."""
    loads = [each.load for each in candidates]
    most = max(BUSY * sum(loads) / len(loads), 1.0)
    return [
        index
        for index, each in enumerate(candidates)
        if loads[index] + 1 / each.running_limit <= most and not each.full
    ]


def _most_held(free: Sequence[int], held: Sequence[int], excess: Sequence[float]) -> list[int]:
    """Returns those of the free ones that hold most and, by the number that does, have room.

    Of a prompt that k workers hold, one takes more until it is over its share by a k-th of what it
    may be. Where none has that room, they are those that hold most.
    """
    holders = 0
    at = Counter(held)
    most: list[int] = []
    for tokens in sorted(at, reverse=True):
        holders += at[tokens]
        group = [index for index in free if held[index] == tokens]
        roomy = [index for index in group if excess[index] <= 1 / holders]
        if roomy:
            return roomy
        most = most or group
    return most


def _evenly_loaded(places: Sequence[int], candidates: Sequence[Candidate]) -> list[int]:
    """Returns those that with one more request have about the mean load, rounded up, or less."""
    requests = [each.load * each.running_limit for each in candidates]
    slots = sum(each.running_limit for each in candidates)
    most = BUSY * (sum(requests) + 1) / slots
    return [
        index
        for index in places
        if requests[index] < math.ceil(most * candidates[index].running_limit)
    ]


def _least_loaded(candidates: Sequence[Candidate]) -> int:
    """Returns the place of the one with the least load for its size, with room in its queue."""
    places = range(len(candidates))
    roomy = [index for index in places if not candidates[index].full]
    return min(roomy or places, key=lambda index: candidates[index].load)


def _choice(
    index: int, cause: Cause, candidates: Sequence[Candidate], reused_tokens: int | None = None
) -> Choice:
    load, of = candidates[index].load, len(candidates)
    told = "" if reused_tokens is None else f" reuse={reused_tokens}"
    reason = f"prefix {cause.value}{told} load={load:.3f} of {of}"
    return Choice(index, Policy.PREFIX, cause, reason, reused_tokens)
