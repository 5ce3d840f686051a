"""The next token, without a model: a few likely ones that depend on the last two.

It behaves as a model does where a caller can see it: the likeliest is always the same, the coldest
and narrowest sampling choose it, seeds repeat, and penalties keep from repeating. An answer to a
chat, a prompt that ends in `[..., end-of-sequence, 4]`, ends after four tokens.
"""

from __future__ import annotations

import math
import random
import zlib
from typing import Any

CANDIDATES = 24
LOWEST_ID = 8
"""Ids below are special tokens, which are not chosen by chance."""
SPREAD = 60
"""Ids that one sequence meets: few, so that it soon repeats itself."""
CHAT, ANSWER_TOKENS = 4, 4


class Chooser:
    """Chooses the tokens of one sequence."""

    def __init__(
        self, prompt: list[int], params: Any, vocabulary: int, eos: int, sampler: str
    ) -> None:
        self._ids = list(prompt)
        self._prompt_tokens = len(prompt)
        self._params = params
        self._eos = eos
        # The TorchSampler passes over min_p, penalties and seeds; the other has 0 for no seed.
        self._heeds_all = sampler == "TRTLLMSampler"
        seed = (params.seed or 0) if self._heeds_all else random.getrandbits(64)
        self._random = random.Random(seed)
        # Of the first ids, so that a prompt which goes on with output goes on as it would have.
        self._base = LOWEST_ID + zlib.crc32(str(prompt[:4]).encode()) % (
            vocabulary - SPREAD - LOWEST_ID
        )
        self._is_chat = prompt[-1] == CHAT and eos in prompt

    def next(self) -> tuple[int, list[tuple[int, float]]]:
        """Returns the next token, and the likeliest with their log probabilities."""
        generated = len(self._ids) - self._prompt_tokens
        likeliest = self._likeliest()
        if self._is_chat and generated == ANSWER_TOKENS:
            likeliest = [(self._eos, 40.0), *likeliest]
        logits = [(token, self._penalised(token, logit)) for token, logit in likeliest]
        logits.sort(key=lambda pair: -pair[1])
        total = math.log(sum(math.exp(logit - logits[0][1]) for _, logit in logits)) + logits[0][1]
        ranked = [(token, logit - total) for token, logit in logits]
        chosen = ranked[0][0] if self._params.greedy else self._sampled(ranked)
        self._ids.append(chosen)
        return chosen, ranked

    def _likeliest(self) -> list[tuple[int, float]]:
        seed = zlib.crc32(repr(self._ids[-2:]).encode())
        ids = dict.fromkeys(
            self._base + zlib.crc32(b"%d %d" % (seed, at)) % SPREAD for at in range(CANDIDATES)
        )
        return [(token, -0.5 * at) for at, token in enumerate(ids)]

    def _penalised(self, token: int, logit: float) -> float:
        params = self._params
        if not self._heeds_all or token not in self._ids:
            return logit
        factor = params.repetition_penalty or 1.0
        logit = logit * factor if logit < 0 else logit / factor
        count = self._ids[params.prompt_ignore_length or 0 :].count(token)
        present = (params.presence_penalty or 0) if count else 0
        return logit - present - count * (params.frequency_penalty or 0)

    def _sampled(self, ranked: list[tuple[int, float]]) -> int:
        params = self._params
        temperature = max(params.temperature if params.temperature is not None else 1.0, 1e-6)
        kept = ranked[: params.top_k] if params.top_k else ranked
        weights = [math.exp(max((logprob - kept[0][1]) / temperature, -700)) for _, logprob in kept]
        if self._heeds_all and params.min_p:
            kept = [
                pair for pair, weight in zip(kept, weights, strict=True) if weight >= params.min_p
            ]
        total, least, shown = sum(weights), 0.0, 0
        while shown < len(kept) and (not shown or least < (params.top_p or 1.0)):
            least += weights[shown] / total
            shown += 1
        tokens = [token for token, _ in kept[:shown]]
        return self._random.choices(tokens, weights[:shown])[0]
