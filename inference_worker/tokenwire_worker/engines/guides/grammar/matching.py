"""Whether a text matches a node without rules, in time that has a bound."""

from __future__ import annotations

from tokenwire_worker.engines.guides.grammar.characters import includes
from tokenwire_worker.engines.guides.grammar.nodes import (
    Characters,
    Choice,
    Node,
    Repeat,
    Rule,
    Sequence,
    Text,
)

MOST_STEPS = 100_000
"""Most of places that are looked at, about 50 ms."""


class TooLong(Exception):  # noqa: N818 - it says how things are
    """It would take more than MOST_STEPS."""


def matches(node: Node, text: str) -> bool:
    """Tells whether a node matches all of a text.

    Raises:
        TooLong: that cannot be told in reasonable time.
    """
    return len(text) in _Walk(text).ends(node, frozenset({0}))


class _Walk:
    def __init__(self, text: str) -> None:
        self._text = text
        self._steps = 0

    def ends(self, node: Node, starts: frozenset[int]) -> frozenset[int]:
        """Returns where a node may end that begins at one of several places."""
        self._steps += len(starts) + 1
        if self._steps > MOST_STEPS:
            raise TooLong
        if isinstance(node, Text):
            text, value = self._text, node.value
            return frozenset(at + len(value) for at in starts if text.startswith(value, at))
        if isinstance(node, Characters):
            return frozenset(at + 1 for at in starts if self._is_at(node, at))
        if isinstance(node, Choice):
            return frozenset().union(*(self.ends(item, starts) for item in node.items))
        if isinstance(node, Sequence):
            for item in node.items:
                starts = self.ends(item, starts)
            return starts
        if isinstance(node, Rule):
            raise AssertionError("a rule in a pattern. This is a bug.")  # noqa: TRY004
        return self._repeated(node, starts)

    def _is_at(self, node: Characters, at: int) -> bool:
        return at < len(self._text) and includes(node.ranges, ord(self._text[at]))

    def _repeated(self, node: Repeat, starts: frozenset[int]) -> frozenset[int]:
        for _ in range(node.least):
            if not starts:
                return starts
            starts = self.ends(node.item, starts)
        found, rounds = set(starts), node.least
        # A place reached in fewer rounds leads to all that it leads to in more.
        while starts and (node.most is None or rounds < node.most):
            starts = self.ends(node.item, starts) - found
            found |= starts
            rounds += 1
        return frozenset(found)
