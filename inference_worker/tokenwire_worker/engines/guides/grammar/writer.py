r"""Writes a grammar as the EBNF text that xgrammar compiles, in all its versions alike.

Each way of writing here is for a reason that was seen with one version or another:
* xgrammar may print what it has read and read that again. It prints control characters and
  U+007F to U+00FF as `\xe9` and takes any hexadecimal digit that follows for more of the number,
  so none may follow: such a character is a literal of its own, and comes last in a set.
* Of a range of characters that is no product of ranges of bytes, some characters are missing.
* A repetition with a bound in the thousands takes a third of a second for each token where what is
  repeated is more than a set of characters. Blocks, blocks of blocks and so on take 2 to 5 ms.
* What nothing finite matches may be entered and never left, so it is cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from tokenwire_worker.engines.guides.grammar.characters import (
    ASCII,
    EVERY,
    Ranges,
    intersection,
    without,
)
from tokenwire_worker.engines.guides.grammar.nodes import (
    NOTHING,
    Characters,
    Choice,
    Grammar,
    Node,
    Repeat,
    Rule,
    Sequence,
    Text,
    choice,
    repeat,
    sequence,
)

BLOCK = 16
"""Items of a block. For up to 20,000 of any character, 8 take 30 ms to compile and 10 ms for each
token, 16 take 40 and 5, 32 take 120 and 4."""

MOST_LITERALS = 64
"""Characters of a set that are written one by one."""

LONGEST_BYTES = 1024 * 1024
"""Most of a grammar's text. Schemas of everyday size take a few thousand."""

_PLAIN = frozenset(map(chr, range(0x20, 0x7F))) - frozenset('"\\[]^-')
"""What stands for itself, in literals and in character classes."""


_WHOLE = ((0x7F, 0xCFFF), (0xD000, 0xD7FF), (0xE000, 0x10FFFF))
"""All of Unicode beyond what is printed as itself, in the longest ranges that are read right."""

_LEAST_OF_LENGTH = (0x80, 0x800, 0x10000)
"""The first characters of two, three and four bytes."""


class TooLarge(Exception):  # noqa: N818 - it says how things are with the grammar
    """The grammar's text would be longer than LONGEST_BYTES."""


class UnwrittenSet(Exception):  # noqa: N818 - it says how things are with the grammar
    """A set of characters that this version of xgrammar reads wrong however it is written."""


class Endless(Exception):  # noqa: N818 - it says how things are with the grammar
    """No finite text matches the grammar."""


def written(grammar: Grammar, *, wide_sets: bool = True) -> str:
    """Returns a grammar as EBNF whose root rule is `root`.

    Args:
        grammar: the grammar.
        wide_sets: xgrammar is at least 0.1.30. Before, a set of characters with some beyond ASCII
            matches anything.

    Raises:
        Endless: no output could ever be complete.
        TooLarge: there is too much of it.
        UnwrittenSet: a set needs `wide_sets`.
    """
    pruned = _finite(grammar)
    if pruned.root == NOTHING:
        raise Endless
    return _Writer(pruned, wide_sets=wide_sets).text()


# --- what no finite text matches -----------------------------------------------------------------


def _finite(grammar: Grammar) -> Grammar:
    """Returns the grammar without what no finite text matches."""
    finite: set[str] = set()
    users: dict[str, list[str]] = {}
    for name, node in grammar.rules.items():
        for used in _rules_of(node):
            users.setdefault(used, []).append(name)
    waiting = list(grammar.rules)
    while waiting:
        name = waiting.pop()
        if name not in finite and _is_finite(grammar.rules[name], finite):
            finite.add(name)
            waiting += users.get(name, ())
    rules = {name: _pruned(grammar.rules[name], finite) for name in finite}
    return Grammar(_pruned(grammar.root, finite), rules)


def _rules_of(node: Node) -> set[str]:
    """Returns the rules that a node names."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Rule):
            found.add(each.name)
        elif isinstance(each, Sequence | Choice):
            waiting += each.items
        elif isinstance(each, Repeat):
            waiting.append(each.item)
    return found


def _is_finite(node: Node, rules: set[str]) -> bool:
    if isinstance(node, Rule):
        return node.name in rules
    if isinstance(node, Sequence):
        return all(_is_finite(item, rules) for item in node.items)
    if isinstance(node, Choice):
        return any(_is_finite(item, rules) for item in node.items)
    if isinstance(node, Repeat):
        return node.least == 0 or _is_finite(node.item, rules)
    return isinstance(node, Text) or bool(node.ranges)


def _pruned(node: Node, rules: set[str]) -> Node:
    if not _is_finite(node, rules):
        return NOTHING
    if isinstance(node, Sequence):
        return sequence(*(_pruned(item, rules) for item in node.items))
    if isinstance(node, Choice):
        return choice(_pruned(item, rules) for item in node.items)
    if isinstance(node, Repeat):
        return repeat(_pruned(node.item, rules), node.least, node.most)
    return node


# --- the text ------------------------------------------------------------------------------------


class _Writer:
    def __init__(self, grammar: Grammar, *, wide_sets: bool) -> None:
        self._grammar = grammar
        self._wide_sets = wide_sets
        self._names: dict[str, str] = {}
        """What the grammar's rules are called in the text."""
        self._lines: list[str] = []
        self._bytes = 0
        self._waiting: list[tuple[str, Node]] = [("root", grammar.root)]
        self._blocks: dict[tuple[str, int], str] = {}
        """Rules of exactly so many of a rule, by its name."""
        self._up_to: dict[tuple[str, int], str] = {}
        """Rules of at most so many of a rule, by its name."""
        self._repeated: dict[Node, str] = {}
        self._count = 0

    def text(self) -> str:
        while self._waiting:
            name, node = self._waiting.pop()
            self._add(name, self._choice(node))
        return "".join(self._lines)

    def _add(self, name: str, body: str) -> None:
        line = f"{name} ::= {body}\n"
        self._bytes += len(line)
        if self._bytes > LONGEST_BYTES:
            raise TooLarge
        self._lines.append(line)

    def _new_name(self) -> str:
        self._count += 1
        return f"r{self._count}"

    def _choice(self, node: Node) -> str:
        items = node.items if isinstance(node, Choice) else (node,)
        return " | ".join(self._sequence(item) for item in items)

    def _sequence(self, node: Node) -> str:
        items = node.items if isinstance(node, Sequence) else (node,)
        return " ".join(self._element(item) for item in items)

    def _element(self, node: Node) -> str:
        if isinstance(node, Text):
            return literal(node.value)
        if isinstance(node, Characters):
            return self._set(node.ranges)
        if isinstance(node, Rule):
            return self._rule(node.name)
        if isinstance(node, Repeat):
            return self._repeat(node)
        return f"({self._choice(node)})"

    def _set(self, held: Ranges) -> str:
        if self._wide_sets or not held or held[-1][1] <= ASCII[-1][1]:
            return character_class(held)
        ascii_part, beyond = intersection(held, ASCII), without(held, ASCII)
        if beyond == without(EVERY, ASCII):
            # A set of what is not in it is read right, if that is ASCII.
            return character_class(without(ASCII, ascii_part)).replace("[", "[^\\u0000", 1)
        if sum(high - low + 1 for low, high in beyond) > MOST_LITERALS:
            raise UnwrittenSet
        ways = [literal(chr(code)) for low, high in beyond for code in range(low, high + 1)]
        return f"({' | '.join([*([character_class(ascii_part)] if ascii_part else []), *ways])})"

    def _rule(self, name: str) -> str:
        known = self._names.get(name)
        if known is None:
            known = self._names[name] = self._new_name()
            self._waiting.append((known, self._grammar.rules[name]))
        return known

    # --- repetitions ---

    def _repeat(self, node: Repeat) -> str:
        if node.most is None and node.least <= 1:
            return self._without_end(node.item, "+" if node.least else "*")
        if (node.least, node.most) == (0, 1):
            return f"{self._grouped(node.item)}?"
        item = self._named(node.item)
        parts = [] if node.least == 0 else [self._exactly(item, node.least)]
        if node.most is None:
            parts.append(self._without_end(node.item, "*"))
        elif node.most > node.least:
            parts.append(self._at_most(item, node.most - node.least))
        return " ".join(parts)

    def _without_end(self, item: Node, sign: str) -> str:
        return f"{self._grouped(item)}{sign}"

    def _grouped(self, item: Node) -> str:
        one = isinstance(item, Text) and len(item.value) == 1
        if one or isinstance(item, Characters | Rule):
            return self._element(item)
        return f"({self._choice(item)})"

    def _named(self, node: Node) -> str:
        """Returns a rule that stands for a node that is repeated."""
        if isinstance(node, Rule):
            return self._rule(node.name)
        known = self._repeated.get(node)
        if known is None:
            known = self._repeated[node] = self._new_name()
            self._waiting.append((known, node))
        return known

    def _exactly(self, item: str, count: int) -> str:
        """Returns exactly so many of an item."""
        size = 1
        while size * BLOCK <= count:
            size *= BLOCK
        parts = []
        while count:
            whole, count = divmod(count, size)
            parts += [self._block(item, size)] * whole
            size //= BLOCK
        return " ".join(parts)

    def _block(self, item: str, size: int) -> str:
        if size == 1:
            return item
        name = self._blocks.get((item, size))
        if name is None:
            name = self._blocks[item, size] = self._new_name()
            self._add(name, " ".join([self._block(item, size // BLOCK)] * BLOCK))
        return name

    def _at_most(self, item: str, count: int) -> str:
        """Returns at most so many of an item, at least 1.

        That is some blocks, fewer than fit, and less than a block; or all blocks that fit, and at
        most what is left. Either way of reading a text is the only one.
        """
        name = self._up_to.get((item, count))
        if name is not None:
            return name
        name = self._up_to[item, count] = self._new_name()
        size = 1
        while size * BLOCK <= count:
            size *= BLOCK
        blocks, left = divmod(count, size)
        block = self._block(item, size)
        less = self._at_most(item, size - 1) if size > 1 else literal("")
        body = f"{block} {self._at_most(item, left)}" if left else block
        body = f"{less} | {body}"
        for _ in range(blocks - 1):
            body = f"{less} | {block} ({body})"
        self._add(name, body)
        return name


def literal(text: str) -> str:
    """Returns a text as literals, each read right by whoever reads it once or twice."""
    parts, plain = [], ""
    for character in text:
        if _is_printed_as_hexadecimal(ord(character)):
            if plain:
                parts.append(f'"{plain}"')
            parts.append(f'"{_escaped(ord(character))}"')
            plain = ""
        else:
            plain += _escaped(ord(character))
    if plain or not parts:
        parts.append(f'"{plain}"')
    return " ".join(parts)


@lru_cache(maxsize=64)
def character_class(held: Ranges) -> str:
    """Returns a set of characters as a character class."""
    first: list[str] = []
    last: list[str] = []
    for low, high in _split(held):
        into = last if _is_printed_as_hexadecimal(low) else first
        into.append(_escaped(low) if low == high else f"{_escaped(low)}-{_escaped(high)}")
    return f"[{''.join(first)}{''.join(last)}]"


def _split(held: Ranges) -> Iterable[tuple[int, int]]:
    """Yields ranges that are printed in one way each, and that are read right."""
    for first, last in ((0x1, 0x1F), (0x20, 0x7E)):
        yield from intersection(held, ((first, last),))
    for whole in _WHOLE:
        for low, high in intersection(held, (whole,)):
            yield from [whole] if (low, high) == whole else _products(low, high)


def _products(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yields parts of a range whose characters are bytes of one range each, in UTF-8."""
    while low <= high:
        end = min([high, *(first - 1 for first in _LEAST_OF_LENGTH if low < first)])
        for low_bits in (6, 12, 18):
            # Up to the end of the block, or all the blocks that are whole.
            block = (1 << low_bits) - 1
            if low & block and low | block < end:
                end = low | block
            elif not low & block and low | block < end:
                end = max(((end + 1) & ~block) - 1, low | block)
        yield low, end
        low = end + 1


def _is_printed_as_hexadecimal(code_point: int) -> bool:
    return code_point < 0x20 or 0x7F <= code_point <= 0xFF


def _escaped(code_point: int) -> str:
    if code_point <= 0 or 0xD800 <= code_point <= 0xDFFF:
        raise AssertionError(f"U+{code_point:04X} in a grammar. This is a bug.")
    if chr(code_point) in _PLAIN:
        return chr(code_point)
    return f"\\u{code_point:04x}" if code_point < 0x10000 else f"\\U{code_point:08x}"
