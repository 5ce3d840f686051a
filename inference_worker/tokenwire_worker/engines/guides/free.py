"""A grammar before which a part of the output is free, such as a model's reasoning."""

from __future__ import annotations

from tokenwire_worker.engines.guides.grammar.characters import (
    EVERY,
    characters,
    without,
)
from tokenwire_worker.engines.guides.grammar.nodes import (
    Characters,
    Grammar,
    Node,
    Rule,
    Text,
    choice,
    repeat,
    sequence,
)
from tokenwire_worker.engines.port import FreePrefix

SPACES = 8
"""White space characters that may follow the free part: models write one or two line ends."""


def with_free_prefix(grammar: Grammar, prefix: FreePrefix) -> Grammar:
    """Returns a grammar whose outputs may have the free part first, or must have it."""
    held = _unused("held", grammar)
    rules = {**grammar.rules, held: grammar.root}
    space = repeat(Characters(characters(" \t\n\r")), 0, SPACES)
    free = sequence(
        Text(prefix.begin), _up_to(prefix.end, _unused("free", grammar), rules), space, Rule(held)
    )
    return Grammar(choice([free, Rule(held)]) if prefix.begin else free, rules)


def _up_to(end: str, name: str, rules: dict[str, Node]) -> Node:
    """Returns any text up to and including the first appearance of `end`.

    It follows the automaton of Knuth, Morris and Pratt, whose state is how many characters of `end`
    have come. Each state but the first has two rules: how the text gets from there back to the
    first, and how it gets to the end without that. What lies between is a repetition of a set,
    which compilers keep flat.
    """
    rest = repeat(Characters(without(EVERY, characters(end[0]))))
    if len(end) == 1:
        return sequence(rest, Text(end))
    elsewhere = Characters(without(EVERY, characters(end)))
    for state in range(1, len(end)):
        back: list[Node] = [elsewhere]
        on: list[Node] = []
        for character in sorted(set(end)):
            following = _following(end, state, character)
            if following == len(end):
                on.append(Text(character))
            elif following == 0:
                back.append(Text(character))
            else:
                back.append(sequence(Text(character), Rule(f"{name}_back{following}")))
                on.append(sequence(Text(character), Rule(f"{name}_on{following}")))
        rules[f"{name}_back{state}"] = choice(back)
        rules[f"{name}_on{state}"] = choice(on)
    first = Text(end[0])
    lost = repeat(sequence(first, Rule(f"{name}_back1"), rest))
    return sequence(rest, lost, first, Rule(f"{name}_on1"))


def _following(end: str, state: int, character: str) -> int:
    """Returns how many characters of `end` have come after one more."""
    text = end[:state] + character
    return next(size for size in range(len(text), -1, -1) if text.endswith(end[:size]))


def _unused(name: str, grammar: Grammar) -> str:
    """Returns a name with which no rule's begins."""
    while any(rule.startswith(name) for rule in grammar.rules):
        name += "_"
    return name
