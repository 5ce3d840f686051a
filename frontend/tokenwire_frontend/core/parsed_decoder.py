"""A decoder that tells reasoning and tool calls from the text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tokenwire_frontend.core.channels import Channel, Piece
from tokenwire_frontend.core.decoder import SequenceDecoder, SequenceEnds
from tokenwire_frontend.core.detokenizer import Detokenizer
from tokenwire_frontend.core.log import End, Finish, SequenceLog
from tokenwire_frontend.core.logprobs import TokenLogprob
from tokenwire_frontend.core.parsers.events import (
    Arguments,
    CallBegin,
    CallEnd,
    Event,
    Reasoning,
    Text,
)
from tokenwire_frontend.core.parsers.parser import OutputParser
from tokenwire_frontend.core.stop_matcher import StopMatcher


class ParsedDecoder(SequenceDecoder):
    """Writes the log of a sequence whose output is parsed.

    Stop strings are looked for in the text, and where it is asked for in the reasoning, each by
    itself. Within a tool call there are none.

    Args:
        log: empty.
        detokenizer: fresh, seeded with the prompt's end.
        ends: which tokens end the sequence.
        parser: fresh.
        marks: what the parser takes in the place of a special token's text, by its id.
        special_tokens: texts of special tokens, by id, where they are part of the text.
        stops: fresh; None where the request has no stop strings.
        reasoning_stops: fresh; None where stop strings do not count in reasoning.
        one_call: ends the sequence with its first call.
    """

    __slots__ = (
        "_called", "_channel", "_marks", "_one_call", "_over", "_parser", "_reasoning_stops",
        "_special_tokens", "_unmatched",
    )  # fmt: skip

    def __init__(
        self,
        log: SequenceLog,
        detokenizer: Detokenizer,
        ends: SequenceEnds,
        parser: OutputParser,
        marks: Mapping[int, str],
        special_tokens: Mapping[int, str],
        *,
        stops: StopMatcher | None = None,
        reasoning_stops: StopMatcher | None = None,
        one_call: bool = False,
    ) -> None:
        super().__init__(log, detokenizer, ends, stops)
        self._unmatched = stops is None and reasoning_stops is None
        self._channel = Channel.TEXT
        """Of what came last into the log."""
        self._parser = parser
        self._marks = marks
        self._special_tokens = special_tokens
        self._reasoning_stops = reasoning_stops
        self._one_call = one_call
        self._called = False
        self._over: End | None = None

    @property
    def straight_texts(self) -> list[bytes | None]:
        """None: the parser sees every text."""
        return []

    def push_one(self, token_id: int) -> bool:
        """Takes one new id without log probabilities; as `push`. The hot path."""
        detokenizer = self._detokenizer
        if (
            self._unmatched
            and self._withheld is None
            and detokenizer.settled
            and token_id not in self.unseen_ids
            and token_id not in self._marks
            and (text := detokenizer.texts[token_id]) is not None
            and self.log.end is None
            and (channel := self._parser.passes(text)) is not None
        ):
            if channel is self._channel:
                self.log.append_one(token_id, text.encode())
            else:
                self._channel = channel
                self.log.append((token_id,), "", (), [Piece(channel, text)])
            return False
        return self.push((token_id,))

    def push(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> bool:
        """Takes new ids, at least one; returns whether the sequence has ended with them.

        One by one, so that it ends with the id that completes a stop string or the only call.
        """
        if self.log.end is not None:
            return False
        return any(
            self._push_one(token_ids[place], logprobs[place : place + 1])
            for place in range(len(token_ids))
        )

    def finish(self, finish: Finish, stop_token_id: int | None = None) -> None:
        """Ends the sequence as the worker says, giving out what was held back."""
        if self.log.end is not None:
            return
        counts = self._counts(0)
        pieces = self._pieces(self._parser.push(self._detokenizer.held()), counts=counts)
        if self._over is None:
            pieces += self._pieces(self._parser.finish(), counts=counts)
        if self._over is None:
            pieces += self._rest(self._stops, Channel.TEXT)
            pieces += self._rest(self._reasoning_stops, Channel.REASONING)
            if stop_token_id in self._own_eos_ids:
                stop_token_id = None
            if finish is Finish.STOP and stop_token_id is None and self._called:
                finish = Finish.TOOL_CALLS
            self._over = End(finish, stop_token_id=stop_token_id)
        self.log.close("", self._over, pieces)

    def _push_one(self, token_id: int, logprobs: Sequence[TokenLogprob]) -> bool:
        """Takes one id; returns whether the sequence has ended."""
        pieces: list[Piece] = []
        if self._withheld is not None:
            pieces = self._read(self._withheld, counts=True)
            self._withheld = None
        if self._over is None:
            counts = self._counts(1)
            if counts and token_id in self.unseen_ids:
                self._withheld = token_id
            else:
                pieces += self._read(token_id, counts=counts)
            self.log.append((token_id,), "", logprobs, pieces)
            if pieces:
                self._channel = pieces[-1].channel
                pieces = []
        if self._over is None:
            return False
        self.log.close("", self._over, pieces)
        return True

    def _read(self, token_id: int, *, counts: bool) -> list[Piece]:
        """Returns the output that is certain after an id."""
        text = self._detokenizer.push((token_id,))
        mark = self._marks.get(token_id)
        if mark is not None:
            text = text.removesuffix(self._special_tokens.get(token_id, ""))
        pieces = self._pieces(self._parser.push(text), counts=counts) if text else []
        if mark is not None and self._over is None:
            pieces += self._pieces(self._parser.push(mark), counts=counts)
        stops = self._stops
        if stops is not None and self._over is None and token_id in stops.marks:
            pieces += self._shown(
                Channel.TEXT, stops.push_mark(stops.marks[token_id], counts=counts), stops
            )
        return pieces

    def _pieces(self, events: Iterable[Event], *, counts: bool) -> list[Piece]:
        """Returns what the log takes of events, up to a stop."""
        pieces: list[Piece] = []
        for event in events:
            if isinstance(event, Text):
                pieces += self._matched(Channel.TEXT, event.text, self._stops, counts=counts)
            elif isinstance(event, Reasoning):
                stops = self._reasoning_stops
                pieces += self._matched(Channel.REASONING, event.text, stops, counts=counts)
            elif isinstance(event, CallBegin):
                opens = (event.id, event.name)
                pieces.append(Piece(Channel.CALL, call=event.index, opens=opens))
            elif isinstance(event, Arguments) and event.text:
                pieces.append(Piece(Channel.CALL, event.text, event.index))
            elif isinstance(event, CallEnd):
                self._called = self._called or event.complete
                if self._one_call and event.complete:
                    self._over = End(Finish.TOOL_CALLS)
            if self._over is not None:
                break
        return pieces

    def _matched(
        self, channel: Channel, text: str, stops: StopMatcher | None, *, counts: bool
    ) -> list[Piece]:
        if stops is not None and text:
            text = stops.push(text, counts=counts)
        return self._shown(channel, text, stops)

    def _shown(self, channel: Channel, text: str, stops: StopMatcher | None) -> list[Piece]:
        """Returns a piece of text that a matcher has let through, noting whether it has matched."""
        if stops is not None and stops.matched is not None:
            self._over = End(Finish.STOP, stop=stops.matched)
        return [Piece(channel, text)] if text else []

    @staticmethod
    def _rest(stops: StopMatcher | None, channel: Channel) -> list[Piece]:
        text = "" if stops is None else stops.finish()
        return [Piece(channel, text)] if text else []
