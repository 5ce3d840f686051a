"""From a sequence's ids to its log: text as soon as it is certain, and the stop that ends it.

What the log holds is a function of the request, the prompt's last ids and the sequence's ids, in
whatever runs they came. So nothing of a decoder needs to be kept to go on elsewhere: a new one that
takes the same ids stands at the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenwire_frontend.core.detokenizer import Detokenizer
from tokenwire_frontend.core.log import End, Finish, SequenceLog
from tokenwire_frontend.core.logprobs import TokenLogprob
from tokenwire_frontend.core.stop_matcher import StopMatcher


@dataclass(frozen=True, slots=True)
class SequenceEnds:
    """Which tokens end a sequence, and from when on."""

    stop_token_ids: frozenset[int] = frozenset()
    """Ids that end the sequence; such an id's own text is left out."""
    own_eos_ids: frozenset[int] = frozenset()
    """Those of them that are the model's own."""
    min_tokens: int = 0
    """Ids, of which the last is the first that may complete a stop."""
    include_stop: bool = False
    """Leaves the stop token's text in."""


class SequenceDecoder:
    """Writes one sequence's log.

    A stop, whether string or token, counts from the id that completes it, which must be at least
    number `min_tokens`. Stop tokens end the sequence at the worker; here their text is left out.

    Args:
        log: empty.
        detokenizer: fresh, seeded with the prompt's end.
        ends: which tokens end the sequence.
        stops: fresh; None where the request has no stop strings.
    """

    __slots__ = (
        "_detokenizer", "_min_tokens", "_own_eos_ids", "_stop_token_ids", "_stops", "_straight",
        "_withheld", "log", "unseen_ids",
    )  # fmt: skip

    def __init__(
        self,
        log: SequenceLog,
        detokenizer: Detokenizer,
        ends: SequenceEnds,
        stops: StopMatcher | None = None,
    ) -> None:
        self.log = log
        self._detokenizer = detokenizer
        self._stops = stops
        self.unseen_ids = frozenset() if ends.include_stop else ends.stop_token_ids
        """Ids whose text is left out where they end the sequence."""
        self._stop_token_ids = ends.stop_token_ids
        self._own_eos_ids = ends.own_eos_ids
        self._min_tokens = ends.min_tokens
        # A stop token that came last: it has no text if the sequence ends here, and has it if the
        # sequence goes on.
        self._withheld: int | None = None
        self._straight = stops is None
        """Whether an id's text goes into the log as the detokenizer has it."""

    @property
    def straight_texts(self) -> list[bytes | None]:
        """Texts of ids in UTF-8, of which the next id's can go into the log as it is.

        That does not hold of `unseen_ids`, nor where None is; empty where it holds of none.
        """
        detokenizer = self._detokenizer
        if self._straight and detokenizer.settled and self.log.end is None:
            return detokenizer.texts.raw
        return []

    def push_one(self, token_id: int) -> bool:
        """Takes one new id without log probabilities; as `push`."""
        if self.straight_texts and token_id not in self.unseen_ids:
            raw = self._detokenizer.texts.encoded(token_id)
            if raw is not None:
                self.log.append_one(token_id, raw)
                return False
        return self.push((token_id,))

    def push(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> bool:
        """Takes new ids, at least one; returns whether a stop string has now ended the sequence.

        One by one, so that the sequence ends with the id that completes a stop string, and the log
        can be cut after each id. Ids after the end (the worker may be a step ahead of a stop
        string) are passed over.
        """
        log, stops = self.log, self._stops
        if log.end is not None:
            return False
        for place, token_id in enumerate(token_ids):
            scored = logprobs[place : place + 1]
            if stops is None:
                log.append((token_id,), self._text(token_id), scored)
            elif self._push_matched(stops, token_id, scored):
                return True
        return False

    def finish(self, finish: Finish, stop_token_id: int | None = None) -> None:
        """Ends the sequence as the worker says, giving out what was held back."""
        if self.log.end is not None:
            return
        text = self._detokenizer.held()
        if self._stops is not None:
            text = self._stops.push(text, counts=self.log.token_count >= self._min_tokens)
            if self._stops.matched is not None:
                self.log.close(text, End(Finish.STOP, stop=self._stops.matched))
                return
            text += self._stops.finish()
        if stop_token_id in self._own_eos_ids:
            stop_token_id = None
        self.log.close(text, End(finish, stop_token_id=stop_token_id))

    @property
    def stopped_by(self) -> int | None:
        """The stop token that came last, with which the sequence ends; None: another id did."""
        ids = self.log.ids
        if ids and ids[-1] in self._stop_token_ids and self._counts(0):
            return ids[-1]
        return None

    def _text(self, token_id: int) -> str:
        """Returns the text that is certain after one more id, where there are no stop strings."""
        shown = [token_id]
        if self._withheld is not None:
            shown.insert(0, self._withheld)
            self._withheld = None
        if token_id in self.unseen_ids and self._counts(1):
            self._withheld = shown.pop()
        self._straight = self._withheld is None
        return self._detokenizer.push(shown) if shown else ""

    def _push_matched(
        self, stops: StopMatcher, token_id: int, logprobs: Sequence[TokenLogprob]
    ) -> bool:
        """Takes one id of a request with stop strings; returns whether one is complete."""
        text = ""
        if self._withheld is not None:
            text = self._match(stops, self._withheld, counts=True)
            self._withheld = None
        if stops.matched is None:
            counts = self._counts(1)
            if counts and token_id in self.unseen_ids:
                self._withheld = token_id
            else:
                text += self._match(stops, token_id, counts=counts)
            self.log.append((token_id,), text, logprobs)
            text = ""
        if stops.matched is None:
            return False
        self.log.close(text, End(Finish.STOP, stop=stops.matched))
        return True

    def _counts(self, more: int) -> bool:
        """Returns whether a stop counts that is completed so many ids after those of the log."""
        return self.log.token_count + more >= self._min_tokens

    def _match(self, stops: StopMatcher, token_id: int, *, counts: bool) -> str:
        """Returns the text that can be given out after this id."""
        mark = stops.marks.get(token_id)
        if mark is None:
            text = self._detokenizer.push((token_id,))
            return stops.push(text, counts=counts) if text else ""
        held = self._detokenizer.held()
        if held and counts:
            # What is held back comes before the special token only if the sequence ends with it.
            ending = stops.copy()
            text = ending.push(held, counts=False) + ending.push_mark(mark)
            if ending.matched is not None:
                stops.matched = ending.matched
                return text
        return stops.push_mark(mark, counts=counts)


class PromptAloneDecoder(SequenceDecoder):
    """Gives nothing out of a sequence of which only the prompt is wanted.

    An engine generates one token at least; its log has none.
    """

    __slots__ = ()

    @property
    def straight_texts(self) -> list[bytes | None]:
        """None."""
        return []

    def push(
        self,
        token_ids: Sequence[int],  # noqa: ARG002 - none is given out
        logprobs: Sequence[TokenLogprob] = (),  # noqa: ARG002 - likewise
    ) -> bool:
        """Passes over ids."""
        return False

    def finish(self, finish: Finish, stop_token_id: int | None = None) -> None:  # noqa: ARG002
        """Ends the sequence; whether the id that was passed over is a stop does not matter."""
        if self.log.end is None:
            self.log.close("", End(Finish.LENGTH if finish is Finish.STOP else finish))
