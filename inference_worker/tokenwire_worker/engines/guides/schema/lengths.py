"""Nodes held to a count of characters.

What comes out may be less than all texts of that length: where a text has several parts without
end, each of them gets its share.
"""

from __future__ import annotations

import math

from tokenwire_worker.engines.guides.grammar.nodes import (
    NOTHING,
    Choice,
    Node,
    Repeat,
    Sequence,
    Text,
    choice,
    repeat,
    sequence,
)


def widths(node: Node) -> tuple[int, int | None]:
    """Returns the fewest and the most characters of the texts of a node without rules."""
    if isinstance(node, Text):
        return len(node.value), len(node.value)
    if isinstance(node, Sequence):
        return _sum([widths(item) for item in node.items])
    if isinstance(node, Choice):
        each = [widths(item) for item in node.items] or [(0, 0)]
        tops = [most for _, most in each]
        return min(least for least, _ in each), None if None in tops else max(t or 0 for t in tops)
    if isinstance(node, Repeat):
        least, most = widths(node.item)
        unbounded = node.most is None or most is None
        return node.least * least, None if unbounded else (node.most or 0) * (most or 0)
    return 1, 1


def _sum(each: list[tuple[int, int | None]]) -> tuple[int, int | None]:
    tops = [most for _, most in each]
    return sum(least for least, _ in each), None if None in tops else sum(t or 0 for t in tops)


def fitted(node: Node, least: int, most: int | None) -> Node | None:
    """Returns texts of a node that have so many characters; None where it is not known how.

    Args:
        node: a node without rules.
        least: fewest characters.
        most: most of them; None is no bound.
    """
    low, high = widths(node)
    if low >= least and (most is None or (high is not None and high <= most)):
        return node
    if (high is not None and high < least) or (most is not None and low > most):
        return NOTHING
    if isinstance(node, Choice):
        ways = [fitted(item, least, most) for item in node.items]
        known = [way for way in ways if way is not None and way != NOTHING]
        return choice(known) if known or None not in ways else None
    if isinstance(node, Sequence):
        return _fitted_sequence(node, least, most)
    if isinstance(node, Repeat):
        return _fitted_repeat(node, least, most)
    raise AssertionError(f"{node} has no width to choose. This is a bug.")


def _fitted_sequence(node: Sequence, least: int, most: int | None) -> Node | None:
    spans = [widths(item) for item in node.items]
    lows = [low for low, _ in spans]
    # First what is missing goes to the parts in turn, as much as each may hold.
    missing = max(least - sum(lows), 0)
    for at, (low, high) in enumerate(spans):
        more = missing if high is None else min(missing, high - low)
        lows[at] += more
        missing -= more
    room = None if most is None else most - sum(lows)
    parts: list[Node] = []
    # What there is room for is shared out, to the parts that take the least first.
    order = sorted(range(len(spans)), key=lambda at: math.inf if (h := spans[at][1]) is None else h)
    tops: dict[int, int | None] = {}
    for turn, at in enumerate(order):
        high = spans[at][1]
        if room is None:
            tops[at] = high
            continue
        share = room // (len(order) - turn)
        extra = share if high is None else min(share, high - lows[at])
        tops[at] = lows[at] + extra
        room -= extra
    for at, item in enumerate(node.items):
        part = fitted(item, lows[at], tops[at])
        if part is None:
            return None
        parts.append(part)
    return sequence(*parts)


def _fitted_repeat(node: Repeat, least: int, most: int | None) -> Node | None:
    low, high = widths(node.item)
    if low == high:
        fewest = max(node.least, -(-least // low))
        tops = [
            top for top in (node.most, None if most is None else most // low) if top is not None
        ]
        if tops and min(tops) < fewest:
            return NOTHING
        return repeat(node.item, fewest, min(tops) if tops else None)
    fewest = max(node.least, -(-least // low) if low else node.least)
    if fewest * low < least:
        return None
    if most is None:
        return repeat(node.item, fewest, node.most)
    rounds = max(fewest, math.isqrt(most // max(low, 1)))
    rounds = min(rounds, node.most or rounds, most // max(low, 1))
    if rounds < fewest or not rounds:
        return None
    item = fitted(node.item, 0, most // rounds)
    return None if item is None else repeat(item, fewest, rounds)
