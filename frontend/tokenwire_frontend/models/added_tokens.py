"""Where a tokenizer finds its added tokens, such as `<|end|>`, before it looks at anything else."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator

import tokenizers


class AddedTokens:
    """The added tokens of one tokenizer.

    The tokenizer finds them in two passes, the longest at the leftmost place in each: those that
    are not normalised first, then the others in what is left. The second pass counts only where
    the tokenizer normalises nothing, or it would look at another text than this.

    Args:
        tokenizer: the tokenizer.
        normalizes: whether it changes texts before it looks for the others.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, normalizes: bool) -> None:
        added = tokenizer.get_added_tokens_decoder()
        self._ids: dict[str, int] = {}
        self._passes: list[re.Pattern[str]] = []
        # White space alone, of which some vocabularies have many runs, never overlaps another
        # token, unless that begins with white space too.
        tokens = {number: each for number, each in added.items() if each.content.strip()}
        if any(each.content[0].isspace() for each in tokens.values()):
            return
        self._ids = {
            each.content: number
            for number, each in tokens.items()
            if not (each.single_word or each.lstrip)
        }
        first = [each.content for each in tokens.values() if not each.normalized]
        second = [each.content for each in tokens.values() if each.normalized]
        if first:
            self._passes.append(_pattern(first))
        if second and not normalizes:
            self._passes.append(_pattern(second))

    def find(
        self, text: str, counts: Callable[[int, int], bool] = lambda _start, _end: True
    ) -> tuple[array[int], array[int]]:
        """Returns the places of the tokens in a text, in bytes of UTF-8, and their ids.

        Only tokens are returned to which what stands before them does not matter.

        Args:
            text: the text.
            counts: tells whether the characters from one place to another are a token at all.
        """
        places, ids = array("I"), array("I")
        at = size = 0
        for start, end in self._spans(text, 0, len(text), self._passes):
            number = self._ids.get(text[start:end])
            if number is not None and counts(start, end):
                size += len(text[at:start].encode())
                at = start
                places.append(size)
                ids.append(number)
        return places, ids

    def _spans(
        self, text: str, start: int, end: int, passes: list[re.Pattern[str]]
    ) -> Iterator[tuple[int, int]]:
        if not passes:
            return
        first, *others = passes
        for found in first.finditer(text, start, end):
            yield from self._spans(text, start, found.start(), others)
            yield found.span()
            start = found.end()
        yield from self._spans(text, start, end, others)


def _pattern(contents: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(contents, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))
