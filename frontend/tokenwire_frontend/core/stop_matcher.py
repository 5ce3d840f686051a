"""Stop strings over a stream of text, holding back only what may still become one.

Each stop string is followed through the stream by the automaton of Knuth, Morris and Pratt, so a
character costs the same however long the stop strings are and whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

FIRST_MARK = 0xD800
MARKS_LIMIT = 0x800
"""Special tokens whose text is left out stand in the stream as lone surrogates, of which there are
so many: no decoded text has any."""


class _Pattern:
    """One text to look for."""

    __slots__ = ("_borders", "stop", "text")

    def __init__(self, text: str, stop: str) -> None:
        self.text = text
        self.stop = stop
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


class StopStrings:
    """A request's stop strings, prepared once for all its sequences.

    A stop string may contain the text of special tokens that the output leaves out. Then it is met
    by those tokens as well as by their text.

    Args:
        stops: the stop strings, at least one, none empty.
        left_out: texts, by id, of the special tokens that the output's text leaves out.
    """

    __slots__ = ("begins", "marks", "patterns")

    def __init__(self, stops: Sequence[str], left_out: Mapping[int, str] | None = None) -> None:
        everything = "\n".join(stops)
        named: dict[str, list[int]] = {}
        for token_id, text in (left_out or {}).items():
            if text and text in everything and len(named) < MARKS_LIMIT:
                named.setdefault(text, []).append(token_id)
        marks = {text: chr(FIRST_MARK + number) for number, text in enumerate(named)}
        self.marks = {token_id: marks[text] for text, ids in named.items() for token_id in ids}
        """What a special token puts into the stream, by id."""
        patterns = {stop: stop for stop in stops}
        if marks:
            # Where one special token's text begins another's, the longer is meant.
            texts = sorted(marks, key=len, reverse=True)
            special = re.compile("|".join(map(re.escape, texts)))
            for stop in stops:
                marked = special.sub(lambda found: marks[found[0]], stop)
                patterns.setdefault(marked, stop)
        # The longest first, so that it wins among those completed together.
        longest_first = sorted(patterns, key=len, reverse=True)
        self.patterns = [_Pattern(text, patterns[text]) for text in longest_first]
        firsts = {pattern.text[0] for pattern in self.patterns}
        self.begins = re.compile("[" + "".join(map(re.escape, sorted(firsts))) + "]")


class StopMatcher:
    """Finds the stop string that is completed first, whatever the split of the text.

    Of stop strings completed by the same character, the longest counts.

    Args:
        stops: the stop strings.
        include: whether a found stop string stays in the text.
    """

    __slots__ = ("_held", "_include", "_states", "_stops", "marks", "matched")

    def __init__(self, stops: StopStrings, *, include: bool = False) -> None:
        self.marks = stops.marks
        """What special tokens put into the stream, by id; it is never given out."""
        self.matched: str | None = None
        """The stop string found, once one is; then the stream is over."""
        self._stops = stops
        self._include = include
        self._held = ""
        # Characters of each pattern that end the stream so far.
        self._states = [0] * len(stops.patterns)

    def push(self, text: str, *, counts: bool = True) -> str:
        """Takes the next text and returns what can be given out.

        Args:
            text: the next text.
            counts: False: a stop string that this text completes is passed over.
        """
        held = self._held
        if not held and self._stops.begins.search(text) is None:
            return text
        end, winner, keep = -1, None, 0
        states = self._states
        for number, pattern in enumerate(self._stops.patterns):
            matched, place = pattern.advance(states[number], text)
            while place >= 0 and not counts:
                matched, place = pattern.advance(matched, text, place)
            if place >= 0 and (winner is None or place < end):
                end, winner = place, pattern
            states[number] = matched
            keep = max(keep, matched)
        stream = held + text
        if winner is not None:
            self.matched = winner.stop
            self._held = ""
            end += len(held)
            return self._unmarked(stream[: end if self._include else end - len(winner.text)])
        self._held = stream[len(stream) - keep :]
        return self._unmarked(stream[: len(stream) - keep])

    def finish(self) -> str:
        """Returns the text still held back; the sequence has ended without a stop string."""
        held, self._held = self._held, ""
        return self._unmarked(held)

    def copy(self) -> StopMatcher:
        """Returns a matcher that has read the same, to try what would be found."""
        other = StopMatcher(self._stops, include=self._include)
        other._held, other._states = self._held, self._states.copy()
        return other

    def _unmarked(self, text: str) -> str:
        if not self.marks or text.isascii():
            return text
        return _MARKS.sub("", text)


_MARKS = re.compile("[\ud800-\udfff]")
