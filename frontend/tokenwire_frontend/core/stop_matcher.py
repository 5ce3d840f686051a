"""Stop strings over a stream of text, holding back only what may still become one.

Each stop string is followed through the stream by the automaton of Knuth, Morris and Pratt, so a
character costs the same however long the stop strings are and whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate

FIRST_MARK = 0xD800
MARKS_LIMIT = 0x800
"""Special tokens whose text is left out stand in the stream as lone surrogates, of which there are
so many: no decoded text has any."""

_MARK = re.compile("[\ud800-\udfff]")


class _Pattern:
    """One text to look for."""

    __slots__ = ("_borders", "_shown", "marked", "stop", "text")

    def __init__(self, text: str, stop: str) -> None:
        self.text = text
        self.stop = stop
        self.marked = text != stop
        # At i: characters among the first i symbols.
        self._shown = (
            [0, *accumulate(not _MARK.match(each) for each in text)] if self.marked else []
        )
        # At i: the longest proper prefix of the text that also ends its first i + 1 characters.
        # Filled as far as the streams have come, so that preparing a long text costs nothing.
        self._borders = [0]

    def advance(self, matched: int, text: str, place: int = 0) -> tuple[int, int]:
        """Reads the stream's next text.

        Args:
            matched: characters of the pattern that end the stream so far.
            text: the next text.
            place: where in it to begin.

        Returns:
            The same after what was read, and the place after the pattern's first occurrence, where
            reading ends; -1 where there is none.
        """
        pattern, size, end = self.text, len(self.text), len(text)
        while place < end:
            if not matched:
                place = text.find(pattern[0], place)
                if place < 0:
                    return 0, -1
            elif text[place] != pattern[matched]:
                matched = self._border(matched)
                continue
            matched += 1
            place += 1
            if matched == size:
                return self._border(size), place
        return matched, -1

    def shown(self, size: int) -> int:
        """Returns how many of the first `size` symbols are characters of the shown text."""
        return self._shown[size] if self.marked else size

    def _border(self, size: int) -> int:
        """Returns the longest proper prefix that also ends the first `size` characters."""
        borders, pattern = self._borders, self.text
        while len(borders) < size:
            place = len(borders)
            border = borders[place - 1]
            while border and pattern[place] != pattern[border]:
                border = borders[border - 1]
            borders.append(border + (pattern[place] == pattern[border]))
        return borders[size - 1]


class SpecialTokens(dict[int, str]):
    """Texts of a tokenizer's special tokens by id, prepared to be looked for in others' texts.

    Looking costs what the text's length and the number of different lengths demand, not the number
    of tokens: there are vocabularies with thousands.
    """

    def __init__(self, texts: Mapping[int, str]) -> None:
        super().__init__(texts)
        self._ids: dict[str, list[int]] = {}
        for token_id, text in texts.items():
            if text:
                self._ids.setdefault(text, []).append(token_id)
        self._lengths = sorted({len(text) for text in self._ids}, reverse=True)
        beginnings = sorted({text[:2] for text in self._ids}, reverse=True)
        self._begins = re.compile("|".join(map(re.escape, beginnings))) if beginnings else None

    def ids(self, text: str) -> list[int]:
        """Returns the ids of the special tokens with this text."""
        return self._ids[text]

    def split(self, text: str) -> list[str]:
        """Returns the parts of a text, of which each second one is a special token's text.

        Where one special token's text begins another's, the longer is meant.
        """
        parts, start, place = [], 0, 0
        while self._begins is not None and (found := self._begins.search(text, place)):
            place = found.start()
            for length in self._lengths:
                if text[place : place + length] in self._ids:
                    parts += [text[start:place], text[place : place + length]]
                    start = place = place + length
                    break
            else:
                place += 1
        return [*parts, text[start:]]


class StopStrings:
    """A request's stop strings, prepared once for all its sequences.

    A stop string may contain the text of special tokens that the output leaves out. Then it is met
    by those tokens as well as by their text.

    Args:
        stops: the stop strings, at least one, none empty.
        left_out: the special tokens that the output's text leaves out.
    """

    __slots__ = ("begins", "marks", "patterns")

    def __init__(self, stops: Sequence[str], left_out: SpecialTokens | None = None) -> None:
        patterns = {stop: stop for stop in stops}
        self.marks: dict[int, str] = {}
        """What a special token puts into the stream, by id."""
        if left_out:
            marks: dict[str, str] = {}
            for stop in stops:
                parts = left_out.split(stop)
                for text in parts[1::2]:
                    if len(marks) < MARKS_LIMIT:
                        marks.setdefault(text, chr(FIRST_MARK + len(marks)))
                parts[1::2] = [marks.get(text, text) for text in parts[1::2]]
                patterns.setdefault("".join(parts), stop)
            for text, mark in marks.items():
                self.marks.update(dict.fromkeys(left_out.ids(text), mark))
        # The longest first, so that it wins among those completed together.
        longest_first = sorted(patterns.items(), key=lambda each: len(each[1]), reverse=True)
        self.patterns = [_Pattern(text, stop) for text, stop in longest_first]
        firsts = {pattern.text[0] for pattern in self.patterns}
        self.begins = re.compile("[" + "".join(map(re.escape, sorted(firsts))) + "]")


class StopMatcher:
    """Finds the stop string that is completed first, whatever the split of the text.

    Of stop strings completed together, the longest counts.

    Args:
        stops: the stop strings.
        include: whether a found stop string stays in the text.
    """

    __slots__ = ("_begun", "_held", "_include", "_states", "_stops", "marks", "matched")

    def __init__(self, stops: StopStrings, *, include: bool = False) -> None:
        self.marks = stops.marks
        """What special tokens put into the stream, by id."""
        self.matched: str | None = None
        """The stop string found, once one is; then the stream is over."""
        self._stops = stops
        self._include = include
        self._held = ""
        # Symbols of each pattern that end the stream so far, and whether there are any.
        self._states = [0] * len(stops.patterns)
        self._begun = False

    def push(self, text: str, *, counts: bool = True) -> str:
        """Takes the next text and returns what can be given out.

        Args:
            text: the next text.
            counts: False: a stop string that is completed now is passed over.
        """
        if not self._begun and self._stops.begins.search(text) is None:
            return text
        return self._read(text, text, counts=counts)

    def push_mark(self, mark: str, *, counts: bool = True) -> str:
        """Takes a special token, which has no text here, and returns what can be given out."""
        return self._read(mark, "", counts=counts)

    def finish(self) -> str:
        """Returns the text still held back; the sequence has ended without a stop string."""
        held, self._held = self._held, ""
        return held

    def copy(self) -> StopMatcher:
        """Returns a matcher that has read the same, to try what would be found."""
        other = StopMatcher(self._stops, include=self._include)
        other._held, other._begun = self._held, self._begun
        other._states = self._states.copy()
        return other

    def _read(self, symbols: str, text: str, *, counts: bool) -> str:
        """Takes the next symbols, which are either text or a mark."""
        end, winner, keep, begun = -1, None, 0, False
        states = self._states
        for number, pattern in enumerate(self._stops.patterns):
            matched = states[number]
            # A stop string of text alone is met by the text as it is shown, without marks.
            if text or pattern.marked:
                matched, place = pattern.advance(matched, symbols)
                while place >= 0 and not counts:
                    matched, place = pattern.advance(matched, symbols, place)
                if place >= 0 and (winner is None or place < end):
                    end, winner = place, pattern
                states[number] = matched
            if matched:
                begun = True
                keep = max(keep, pattern.shown(matched))
        self._begun = begun
        stream = self._held + text
        if winner is None:
            cut = len(stream) - keep
            self._held = stream[cut:]
            return stream[:cut]
        self.matched = winner.stop
        end = len(self._held) + (end if text else 0)
        self._held = ""
        return stream[: end if self._include else end - winner.shown(len(winner.text))]
