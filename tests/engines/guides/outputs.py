"""What a grammar lets through: texts drawn from it, and whether it has a text.

This reads the text that an engine gets, with nothing of what wrote it but the reader of EBNF.
"""

from __future__ import annotations

import random
from functools import cached_property

from tokenwire_worker.engines.guides.grammar import ebnf
from tokenwire_worker.engines.guides.grammar.nodes import (
    Characters,
    Choice,
    Node,
    Repeat,
    Rule,
    Sequence,
    Text,
)

ENDLESS = 10**9
"""Size of what no finite text matches."""


class Outputs:
    """The outputs of one grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._grammar = ebnf.read(text)

    # --- drawing ---

    def draw(self, rng: random.Random, size: int = 60) -> str:
        """Returns a random output; beyond the size it takes the shortest way to the end."""
        parts: list[str] = []
        stack: list[Node] = [self._grammar.root]
        left = size
        while stack:
            node = stack.pop()
            left -= 1
            if isinstance(node, Text):
                parts.append(node.value)
            elif isinstance(node, Characters):
                low, high = rng.choice(node.ranges)
                parts.append(chr(rng.choice((low, high, rng.randint(low, high)))))
            elif isinstance(node, Rule):
                stack.append(self._grammar.rules[node.name])
            elif isinstance(node, Sequence):
                stack += reversed(node.items)
            elif isinstance(node, Choice):
                stack.append(self._drawn(node, rng, left))
            else:
                most = node.least + 4 if node.most is None else node.most
                count = rng.randint(node.least, most) if left > 0 else node.least
                stack += [node.item] * count
        return "".join(parts)

    def _drawn(self, node: Choice, rng: random.Random, left: int) -> Node:
        if left > 0:
            return rng.choice([item for item in node.items if self._size(item) < ENDLESS])
        return min(node.items, key=self._size)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Steps to the end of the shortest text of each rule."""
        self.__dict__["_sizes"] = sizes = dict.fromkeys(self._grammar.rules, ENDLESS)
        while True:
            found = {name: self._size(node) for name, node in self._grammar.rules.items()}
            if found == sizes:
                return sizes
            sizes.update(found)

    def _size(self, node: Node) -> int:
        if isinstance(node, Rule):
            size = 1 + self._sizes[node.name]
        elif isinstance(node, Sequence):
            size = 1 + sum(map(self._size, node.items))
        elif isinstance(node, Choice):
            size = 1 + min(map(self._size, node.items), default=ENDLESS)
        elif isinstance(node, Repeat):
            size = 1 + node.least * self._size(node.item)
        else:
            size = 1
        return min(size, ENDLESS)

    # --- having ---

    def has(self, text: str) -> bool:
        """Tells whether the whole text is an output."""
        return len(text) in _Walk(self._grammar.rules, text).ends(self._grammar.root, 0)


class _Walk:
    def __init__(self, rules: dict[str, Node], text: str) -> None:
        self._rules = rules
        self._text = text
        self._known: dict[tuple[int, int], frozenset[int]] = {}

    def ends(self, node: Node, at: int) -> frozenset[int]:
        if isinstance(node, Text):
            end = at + len(node.value)
            return frozenset({end}) if self._text.startswith(node.value, at) else frozenset()
        if isinstance(node, Characters):
            code = ord(self._text[at]) if at < len(self._text) else -1
            found = any(low <= code <= high for low, high in node.ranges)
            return frozenset({at + 1}) if found else frozenset()
        key = (id(node), at)
        if key not in self._known:
            self._known[key] = frozenset()  # a way that leads back here adds nothing
            self._known[key] = self._inner(node, at)
        return self._known[key]

    def _inner(self, node: Node, at: int) -> frozenset[int]:
        if isinstance(node, Rule):
            return self.ends(self._rules[node.name], at)
        if isinstance(node, Choice):
            return frozenset().union(*(self.ends(item, at) for item in node.items))
        found = {at}
        if isinstance(node, Sequence):
            for item in node.items:
                found = {end for start in found for end in self.ends(item, start)}
            return frozenset(found)
        assert isinstance(node, Repeat)
        for _ in range(node.least):
            found = {end for start in found for end in self.ends(node.item, start)}
        reached, rounds = set(found), node.least
        while found and (node.most is None or rounds < node.most):
            found = {end for start in found for end in self.ends(node.item, start)} - reached
            reached |= found
            rounds += 1
        return frozenset(reached)
