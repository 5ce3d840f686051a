"""What a grammar is made of: texts, characters, sequences, choices, repetitions and rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from tokenwire_worker.engines.guides.grammar.characters import Ranges, ranges


@dataclass(frozen=True, slots=True)
class Text:
    """Exactly these characters; none of them is the empty text."""

    value: str


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of them; of none, nothing."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """So many times the same."""

    item: Node
    least: int
    most: int | None
    """None: without end."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a rule of the grammar says."""

    name: str


Node: TypeAlias = Text | Characters | Sequence | Choice | Repeat | Rule

EMPTY = Text("")
NOTHING = Choice(())
"""What no text matches."""


@dataclass
class Grammar:
    """Rules by name, and what an output is."""

    root: Node = NOTHING
    rules: dict[str, Node] = field(default_factory=dict)


def sequence(*items: Node) -> Node:
    """Returns nodes one after the other, as simply as can be."""
    flat: list[Node] = []
    for item in items:
        for each in item.items if isinstance(item, Sequence) else (item,):
            if each == NOTHING:
                return NOTHING
            last = flat[-1] if flat else None
            if isinstance(each, Text) and isinstance(last, Text):
                flat[-1] = Text(last.value + each.value)
            elif each != EMPTY:
                flat.append(each)
    if len(flat) == 1:
        return flat[0]
    return Sequence(tuple(flat)) if flat else EMPTY


def choice(items: Iterable[Node]) -> Node:
    """Returns one of several nodes, each once, as simply as can be: single characters are a set."""
    flat: dict[Node, None] = {}
    for item in items:
        flat.update(dict.fromkeys(item.items if isinstance(item, Choice) else (item,)))
    single = [node for node in flat if _set_of(node)]
    if len(single) > 1:
        held = ranges(one for node in single for one in _set_of(node))
        first = single[0]
        flat = {
            Characters(held) if node == first else node: None
            for node in flat
            if node == first or node not in single
        }
    return next(iter(flat)) if len(flat) == 1 else Choice(tuple(flat))


def _set_of(node: Node) -> Ranges:
    """Returns the characters that a node of one character has; of another node, none."""
    if isinstance(node, Text) and len(node.value) == 1:
        return ((ord(node.value), ord(node.value)),)
    return node.ranges if isinstance(node, Characters) else ()


def optional(item: Node) -> Node:
    """Returns a node or nothing."""
    return repeat(item, 0, 1)


def repeat(item: Node, least: int = 0, most: int | None = None) -> Node:
    """Returns so many times the same, as simply as can be.

    A repetition of a repetition is one where the counts leave no gap: `(a{1,9}){1,9}` is `a{1,81}`.
    As it stands there would be very many ways to read the same text, and a matcher follows all.
    """
    if most == 0 or item == EMPTY:
        return EMPTY
    if item == NOTHING:
        return EMPTY if least == 0 else NOTHING
    if (least, most) == (1, 1):
        return item
    if isinstance(item, Repeat) and _leaves_no_gap(item, least, most):
        unbounded = most is None or item.most is None
        return Repeat(
            item.item,
            least * item.least,
            None if unbounded else (most or 0) * (item.most or 0),
        )
    return Repeat(item, least, most)


def _leaves_no_gap(item: Repeat, least: int, most: int | None) -> bool:
    """Tells whether any count between the extremes is reached by some number of rounds.

    After k rounds the count is from k * item.least to k * item.most; the next round has to begin no
    later than that ends. Where it does so for the fewest rounds, it does so for more.
    """
    if least == most:
        return True
    if item.most is None or least == 0:
        return least > 0 or item.least <= 1
    return least * item.most + 1 >= (least + 1) * item.least
