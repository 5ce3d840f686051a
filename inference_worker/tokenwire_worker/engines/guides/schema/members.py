"""Things between commas, each of which may stand once, in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwire_worker.engines.guides.grammar.nodes import (
    EMPTY,
    NOTHING,
    Node,
    Rule,
    Sequence,
    choice,
    optional,
    repeat,
    sequence,
)
from tokenwire_worker.engines.guides.schema.texts import COMMA

MOST_STATES = 5_000
"""Members times the counts that are told apart."""


LONGEST_SEQUENCE = 100
"""Items that are written into one rule; what follows is another."""


class TooMany(Exception):  # noqa: N818 - it says how things are
    """More than MOST_STATES."""


@dataclass(frozen=True)
class Member:
    """One of them."""

    node: Node
    required: bool


class Members:
    """Writes rules for members in their order, and for others after them."""

    def __init__(
        self, rules: dict[str, Node], name: str, members: list[Member], others: Node | None
    ) -> None:
        """Writes nothing yet.

        Args:
            rules: where rules are added.
            name: begins their names.
            members: the members.
            others: what may stand any number of times after them, if anything.
        """
        self._rules = rules
        self._name = name
        self._members = members
        self._others = others

    def between(self, least: int, most: int | None) -> Node:
        """Returns all of them, as many as asked for.

        Others count for one at least: two of them may be the same property.

        Raises:
            TooMany: it would take too many rules.
        """
        if most is not None and self._others is None and most >= len(self._members):
            most = None
        # Beyond this, one more makes no difference.
        top = max(least, 1) if most is None else most
        if top > 1 and (top + 1) * max(len(self._members), 1) > MOST_STATES:
            raise TooMany
        after = [self._rest(count, least, most) for count in range(top + 1)]
        for at in range(len(self._members) - 1, -1, -1):
            after = [self._from(at, count, after, most) for count in range(top + 1)]
        return after[0]

    def _rest(self, count: int, least: int, most: int | None) -> Node:
        """Returns what may stand after all members, so many of which there are."""
        missing, room = max(least - count, 0), None if most is None else most - count
        if self._others is None or room == 0:
            return NOTHING if missing else EMPTY
        if missing > 1:
            return NOTHING
        if count:
            return repeat(sequence(COMMA, self._others), missing, room)
        more = repeat(sequence(COMMA, self._others), 0, None if room is None else room - 1)
        some = sequence(self._others, more)
        return some if missing else optional(some)

    def _from(self, at: int, count: int, after: list[Node], most: int | None) -> Node:
        """Returns what may stand from a member on, after so many.

        Args:
            at: the member.
            count: how many there are.
            after: what may stand after the member, by how many there are then.
            most: most of them.
        """
        each = self._members[at]
        with_it: Node = NOTHING
        if most is None or count < most:
            comma = COMMA if count else EMPTY
            with_it = sequence(comma, each.node, after[min(count + 1, len(after) - 1)])
        if each.required and not (
            isinstance(with_it, Sequence) and len(with_it.items) > LONGEST_SEQUENCE
        ):
            return with_it
        node = with_it if each.required else choice([with_it, after[count]])
        if node in (EMPTY, NOTHING):
            return node
        name = f"{self._name} from {at} after {count}"
        self._rules[name] = node
        return Rule(name)
