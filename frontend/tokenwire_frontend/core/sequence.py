"""One generated sequence: ids in, deltas out, merged for as long as nobody takes them."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from tokenwire_frontend.core.detokenizer import Detokenizer
from tokenwire_frontend.core.log import Delta, End, Finish, TokenLogprob
from tokenwire_frontend.core.stop_matcher import StopMatcher

__all__ = ["Delta", "End", "Finish", "Sequence", "TokenLogprob"]


class Sequence:
    """Turns one sequence's ids into deltas.

    Args:
        index: which sequence of the generation, from 0.
        detokenizer: fresh, seeded with the prompt's end.
        stops: None where the request has no stop strings.
        stop_token_ids: ids that end the sequence; such an id's own text is left out.
        own_eos_ids: those of them that are the model's own.
        min_tokens: nothing ends the sequence before this many ids.
        include_stop: leaves the stop token's text in.
        echo: text to put before the sequence's own.
    """

    __slots__ = (
        "_detokenizer", "_ids", "_include_stop", "_logprobs", "_min_tokens", "_own_eos_ids",
        "_stop_token_ids", "_stops", "_text", "_untaken_end", "end", "index", "token_count",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer,
        stops: StopMatcher | None,
        *,
        stop_token_ids: frozenset[int],
        own_eos_ids: frozenset[int] = frozenset(),
        min_tokens: int = 0,
        include_stop: bool = False,
        echo: str = "",
    ) -> None:
        self.index = index
        self.token_count = 0
        """Ids taken so far."""
        self.end: End | None = None
        self._detokenizer = detokenizer
        self._stops = stops
        self._stop_token_ids = stop_token_ids
        self._own_eos_ids = own_eos_ids
        self._min_tokens = min_tokens
        self._include_stop = include_stop
        self._text = echo
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._untaken_end = False

    def push(self, token_ids: SequenceOf[int], logprobs: SequenceOf[TokenLogprob] = ()) -> bool:
        """Takes new ids, at least one; returns whether a stop string has now ended the sequence.

        Ids after the end (the worker may be a step ahead of a stop string) are passed over.
        """
        if self.end is not None:
            return False
        if self._stops is not None and len(token_ids) > 1:
            # One by one, so that where the sequence ends does not depend on how ids were merged.
            return any(
                self.push(token_ids[place : place + 1], logprobs[place : place + 1])
                for place in range(len(token_ids))
            )
        self._ids.extend(token_ids)
        self._logprobs.extend(logprobs)
        matching = self._stops is not None and self.token_count >= self._min_tokens
        self.token_count += len(token_ids)
        if (
            token_ids[-1] in self._stop_token_ids
            and not self._include_stop
            and self.token_count >= self._min_tokens
        ):
            token_ids = token_ids[:-1]
        text = self._detokenizer.push(token_ids) if token_ids else ""
        if not text:
            return False
        if not matching:
            self._text += text
            return False
        assert self._stops is not None  # noqa: S101 - `matching` says so; for the type checker
        self._text += self._stops.push(text)
        return self._stop_found()

    def finish(self, finish: Finish, stop_token_id: int | None = None) -> None:
        """Ends the sequence as the worker says, giving out what was held back."""
        if self.end is not None:
            return
        text = self._detokenizer.held()
        if self._stops is not None and self.token_count > self._min_tokens:
            self._text += self._stops.push(text)
            if self._stop_found():
                return
            self._text += self._stops.finish()
        else:
            self._text += text
        if stop_token_id in self._own_eos_ids:
            stop_token_id = None
        self._end(End(finish, stop_token_id=stop_token_id))

    def take(self) -> Delta | None:
        """Returns what is new since the last call, or None."""
        if not (self._ids or self._text or self._untaken_end):
            return None
        delta = Delta(
            self.index,
            self.token_count - len(self._ids),
            0,
            self._ids,
            self._text,
            self._logprobs,
            self.end,
            0,
        )
        self._ids, self._text, self._untaken_end = [], "", False
        if self._logprobs:
            self._logprobs = []
        return delta

    @property
    def untaken_text(self) -> str:
        """Text that the next `take` returns."""
        return self._text

    def _stop_found(self) -> bool:
        if self._stops is None or self._stops.matched is None:
            return False
        self._end(End(Finish.STOP, stop=self._stops.matched))
        return True

    def _end(self, end: End) -> None:
        self.end = end
        self._untaken_end = True
