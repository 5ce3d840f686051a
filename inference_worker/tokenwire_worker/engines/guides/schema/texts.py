"""JSON as outputs write it.

There is no white space but one space, which may stand after a colon or a comma.
"""

from __future__ import annotations

import json
from typing import Any

from tokenwire_worker.engines.guides.grammar.characters import (
    ASCII,
    DIGITS,
    EVERY,
    Ranges,
    characters,
    includes,
    intersection,
    ranges,
    without,
)
from tokenwire_worker.engines.guides.grammar.nodes import (
    Characters,
    Choice,
    Node,
    Repeat,
    Rule,
    Sequence,
    Text,
    choice,
    optional,
    repeat,
    sequence,
)

NESTING = 8
"""Arrays and objects within one another where a schema does not say what a value is: a model may
otherwise open brackets for ever."""

WHOLE_DIGITS = 19
"""Digits of a number before the point: those of the integers of 64 bits."""

FRACTION_DIGITS = 16
"""Digits of a number after the point: what a number of 64 bits can tell apart between 0 and 1."""

CHARACTER = Rule("character")
"""Any character of a string, in any of its spellings."""
REST_OF_NAME = Rule("rest of name")
"""Ends a property's name that no schema names, up to the quote; of characters in one spelling."""

STRING, INTEGER, NUMBER = Rule("string"), Rule("integer"), Rule("number")

COLON = sequence(Text(":"), optional(Text(" ")))
COMMA = sequence(Text(","), optional(Text(" ")))

_NO_ZERO = Characters(ranges([(ord("1"), ord("9"))]))
_DIGIT = Characters(DIGITS)
_SPECIAL = ranges([*characters('"\\'), (0x1, 0x1F)])
_OF_NAMES = without(EVERY, ((0x1, 0x1F), (0x7F, 0x7F)))
_BEYOND_ASCII = without(EVERY, ASCII)


def written(value: Any) -> Text:
    """Returns the one text that stands for a value."""
    return Text(json.dumps(value, ensure_ascii=False))


def member(name: str, value: Node) -> Node:
    """Returns a property and its value."""
    return sequence(written(name), COLON, value)


def any_value(depth: int = NESTING) -> Rule:
    """Returns any value, with so many levels of arrays and objects."""
    return Rule(f"any {depth}")


def any_object(depth: int = NESTING) -> Node:
    """Returns any object, with so many levels of arrays and objects, itself included."""
    pair = sequence(STRING, COLON, any_value(depth - 1))
    return sequence(Text("{"), optional(listed(pair)), Text("}"))


def any_array(depth: int = NESTING) -> Node:
    """Returns any array, with so many levels of arrays and objects, itself included."""
    return sequence(Text("["), optional(listed(any_value(depth - 1))), Text("]"))


def listed(item: Node) -> Node:
    """Returns one or more of an item."""
    return sequence(item, repeat(sequence(COMMA, item)))


def common_rules() -> dict[str, Node]:
    """Returns the rules that the names above refer to."""
    sign = optional(Text("-"))
    whole = sequence(_NO_ZERO, repeat(_DIGIT, 0, WHOLE_DIGITS - 1))
    fraction = sequence(Text("."), repeat(_DIGIT, 1, FRACTION_DIGITS))
    signs = Characters(characters("+-"))
    # Two digits: with more, a number might be above what readers of JSON can hold.
    exponent = sequence(Characters(characters("eE")), optional(signs), repeat(_DIGIT, 1, 2))
    rules: dict[str, Node] = {
        "character": _character(),
        "rest of name beyond ASCII": sequence(Characters(_BEYOND_ASCII), REST_OF_NAME),
        "rest of name": sequence(repeat(_spelled_set(_OF_NAMES)), Text('"')),
        "string": sequence(Text('"'), repeat(CHARACTER), Text('"')),
        "integer": choice([Text("0"), sequence(sign, whole)]),
        "number": sequence(
            sign, choice([Text("0"), whole]), optional(fraction), optional(exponent)
        ),
    }
    scalars: list[Node] = [STRING, NUMBER, *map(Text, ("true", "false", "null"))]
    rules["any 0"] = choice(scalars)
    for depth in range(1, NESTING + 1):
        rules[f"any {depth}"] = choice([*scalars, any_object(depth), any_array(depth)])
    return rules


def _character() -> Node:
    digit = Characters(characters("0123456789abcdefABCDEF"))
    # Surrogates are the numbers from D800 to DFFF, and stand in pairs only.
    number = [
        sequence(Characters(without(digit.ranges, characters("dD"))), digit, digit, digit),
        sequence(Characters(characters("dD")), Characters(characters("01234567")), digit, digit),
        sequence(
            *(Characters(characters("dD")), Characters(characters("89abAB")), digit, digit),
            *(Text("\\u"), Characters(characters("dD")), Characters(characters("cdefCDEF"))),
            *(digit, digit),
        ),
    ]
    return choice(
        [
            Characters(without(EVERY, _SPECIAL)),
            sequence(Text("\\"), Characters(characters('"\\/bfnrt'))),
            *(sequence(Text("\\u"), each) for each in number),
        ]
    )


def quoted(node: Node) -> Node:
    """Returns the strings whose values a node matches.

    Each character has one spelling, but where a node matches any there may be all of them.
    """
    return sequence(Text('"'), _spelled(node), Text('"'))


def _spelled(node: Node) -> Node:
    if isinstance(node, Text):
        return Text(_spelled_text(node.value))
    if isinstance(node, Characters):
        return _spelled_set(node.ranges)
    if isinstance(node, Sequence):
        return sequence(*map(_spelled, node.items))
    if isinstance(node, Choice):
        return choice(map(_spelled, node.items))
    if isinstance(node, Repeat):
        return repeat(_spelled(node.item), node.least, node.most)
    return node


def _spelled_text(text: str) -> str:
    return written(text).value[1:-1]


def _spelled_set(held: Ranges) -> Node:
    if held == EVERY:
        return CHARACTER
    return choice([Characters(without(held, _SPECIAL)), *_spelled_specials(held)])


def _spelled_specials(held: Ranges) -> list[Node]:
    """Returns the characters of a set that stand for themselves behind a backslash only."""
    endings: dict[str, str] = {}
    for code in (code for low, high in _SPECIAL for code in range(low, high + 1)):
        if includes(held, code):
            spelled = _spelled_text(chr(code))
            endings[spelled[:-1]] = endings.get(spelled[:-1], "") + spelled[-1]
    return [sequence(Text(start), Characters(characters(ends))) for start, ends in endings.items()]


def name_other_than(names: set[str]) -> Node:
    """Returns strings that are none of some names, each in its one spelling."""
    return sequence(Text('"'), _rest_of_name(names))


def _name_beyond_ascii(first: Ranges) -> Node:
    """Returns the rest of a name that goes on with one of some characters."""
    if first == _BEYOND_ASCII:
        return Rule("rest of name beyond ASCII")
    return sequence(Characters(first), REST_OF_NAME)


def _rest_of_name(names: set[str]) -> Node:
    """Returns what may follow, up to the quote, so that none of the names comes out."""
    if not names:
        return REST_OF_NAME
    nexts: dict[str, set[str]] = {}
    for name in names:
        if name:
            nexts.setdefault(name[0], set()).add(name[1:])
    firsts = characters("".join(nexts))
    ways = [
        sequence(_spelled_set(without(intersection(_OF_NAMES, ASCII), firsts)), REST_OF_NAME),
        # A rule of its own: it takes long to compile, and mostly the same ones are left.
        _name_beyond_ascii(without(_BEYOND_ASCII, firsts)),
        *(sequence(_spelled(Text(first)), _rest_of_name(rest)) for first, rest in nexts.items()),
    ]
    return choice(ways if "" in names else [Text('"'), *ways])
