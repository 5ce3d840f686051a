"""What a worker may send of one generation, and in which order."""

from __future__ import annotations

from collections.abc import Container, Sequence

from tokenwire_frontend.core.fast_path import TokenQuota
from tokenwire_frontend.core.logprobs import TokenLogprob

HANDLES = 2**32 - 1
"""Handles run from 1 to this: the contract has them as uint32."""


class Handles:
    """Numbers for the generations of a link: none twice until all were used, none that is live."""

    def __init__(self, last: int = 0) -> None:
        self._last = last

    def take(self, live: Container[int]) -> int:
        """Returns the next handle that is not live; fewer than HANDLES are."""
        while True:
            self._last = self._last % HANDLES + 1
            if self._last not in live:
                return self._last


class CallOrder:
    """Follows one generation. Each method takes an event, and returns what is wrong with it.

    Args:
        sequence_count: sequences that were asked for.
        logprobs: whether log probabilities were asked for.
        vocabulary_size: token ids run from 0 to this less one.
        most_tokens: that were asked for, of all sequences together.
        top_logprobs: most alternatives to a token that were asked for.
        prompt_tokens: tokens of the prompt whose log probabilities were asked for; 0: of none.
        prompt_logprobs: most alternatives to each of them.
    """

    __slots__ = (
        "_prompt_logprobs", "_prompt_read", "_top_logprobs", "_vocabulary_size", "accepted",
        "logprobs", "open", "prompt_left", "quota",
    )  # fmt: skip

    def __init__(
        self,
        sequence_count: int,
        vocabulary_size: int,
        *,
        logprobs: bool,
        most_tokens: int,
        top_logprobs: int = 0,
        prompt_tokens: int = 0,
        prompt_logprobs: int = 0,
    ) -> None:
        self.accepted = False
        """The worker has taken it."""
        self.open = set(range(sequence_count))
        """Sequences that have not ended."""
        self.logprobs = logprobs
        """Its tokens have log probabilities."""
        self.prompt_left = prompt_tokens
        """Tokens of the prompt whose log probabilities have yet to come, before any other token."""
        self._prompt_read = 0
        self._prompt_logprobs = prompt_logprobs
        self._vocabulary_size = vocabulary_size
        self.quota = TokenQuota(most_tokens)
        """Of all sequences together; whoever looks at tokens without `tokens` counts them here."""
        self._top_logprobs = top_logprobs

    def accept(self) -> str | None:
        """The worker has taken it."""
        if self.accepted:
            return "was accepted twice"
        self.accepted = True
        return None

    def prompt(self, token_offset: int, logprobs: Sequence[TokenLogprob]) -> str | None:
        """Log probabilities of the prompt's next tokens."""
        if not self.accepted:
            return "has log probabilities of its prompt before it was accepted"
        if token_offset != self._prompt_read or not 0 < len(logprobs) <= self.prompt_left:
            return "has log probabilities of its prompt that are not those of the next tokens"
        if any(each.token_id >= self._vocabulary_size for each in logprobs):
            return f"has a prompt with ids beyond a vocabulary of {self._vocabulary_size}"
        if any(len(each.alternatives) > self._prompt_logprobs for each in logprobs):
            return "has more alternatives to a token than were asked for"
        self._prompt_read += len(logprobs)
        self.prompt_left -= len(logprobs)
        return None

    def tokens(
        self, sequence: int, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]
    ) -> str | None:
        """New ids of one sequence."""
        if not self.accepted:
            return "has tokens before it was accepted"
        if self.prompt_left:
            return "has tokens before the log probabilities of its prompt"
        if sequence not in self.open:
            return f"has tokens of sequence {sequence}, which is not open"
        if not token_ids:
            return "has an entry without tokens"
        self.quota.left -= len(token_ids)
        if self.quota.left < 0:
            return "has more tokens than were asked for"
        if max(token_ids) >= self._vocabulary_size:
            return f"has token id {max(token_ids)} of a vocabulary of {self._vocabulary_size}"
        if self.logprobs and [each.token_id for each in logprobs] != list(token_ids):
            return "has log probabilities that are not those of its tokens"
        if any(len(each.alternatives) > self._top_logprobs for each in logprobs):
            return "has more alternatives to a token than were asked for"
        return None

    def end(self, sequence: int, stop_token_id: int | None) -> str | None:
        """One sequence has ended."""
        if not self.accepted:
            return "has the end of a sequence before it was accepted"
        if sequence not in self.open:
            return f"has the end of sequence {sequence}, which is not open"
        if stop_token_id is not None and stop_token_id >= self._vocabulary_size:
            return f"has stop token {stop_token_id} of a vocabulary of {self._vocabulary_size}"
        self.open.discard(sequence)
        return None

    def complete(self) -> str | None:
        """The worker is done with it."""
        if not self.accepted:
            return "was completed before it was accepted"
        if self.open:
            return f"was completed while sequence {min(self.open)} was open"
        return None
