"""Grammars of callers, read and written anew."""

from __future__ import annotations

import random

import pytest
from tokenwire_worker.engines.guides.prepare import GuideError, grammar_text
from tokenwire_worker.engines.port import Ability, Guide

from tests.engines.guides.outputs import Outputs


def outputs(grammar: str) -> Outputs:
    return Outputs(grammar_text(Guide(Ability.GUIDED_GRAMMAR, grammar)))


ARITHMETIC = r"""
# sums of numbers
root ::= sum
sum ::= item ((" + " | " - ") item)*   # left to right
item ::= [0-9]{1,3} | "(" sum ")" |
  "\x41\u00e9b" | "\U0001F600" | [^\x00-\u00ff0-9"\\] "!"
unused ::= "x"
"""


def test_a_grammar_keeps_its_meaning():
    made = outputs(ARITHMETIC)
    assert outputs('root ::= a("b")\na ::= "a"').has("ab")
    for text in ("1", "12 + 345", "(1 - 2) + 7", "Aéb", "😀", "日!", "(((9)))"):
        assert made.has(text), text
    for text in ("", "1234", "1+2", "x", "é!", "Aé", "()"):
        assert not made.has(text), text
    again = outputs(made.text)
    rng = random.Random(1)
    assert all(again.has(made.draw(rng)) for _ in range(50))


def test_rules_that_nothing_finite_matches_are_cut_off():
    made = outputs('root ::= "a" | loop\nloop ::= "b" loop')
    assert made.has("a")
    assert "b" not in made.text.replace("r", "")


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ('start ::= "a"', "there is no rule named root"),
        ("root ::= missing", "rule 'missing' is not defined, at line 1, column 10"),
        ('root ::= "a"\nroot ::= "b"', "rule 'root' is defined twice, at line 2, column 1"),
        ('root ::= "a', '" is not closed, at line 1, column 10'),
        ("root ::= [a", "[ is not closed, at line 1, column 10"),
        ('root ::= ("a"', ") is expected"),
        ('root ::= "a" (= "b")', "lookahead is not supported, at line 1, column 14"),
        ('root ::= TagDispatch("a")', "TagDispatch() is not supported, at line 1, column 10"),
        (r"root ::= [\d]", r"\d is not supported, at line 1, column 11"),
        (r'root ::= "\q"', r"\q is not supported"),
        ('root ::= "\\x00"', "U+0000 is in no output"),
        ("root ::= [z-a]", "a range that ends before it begins"),
        ('root ::= "a"{3,2}', "the least of a repetition is above its most"),
        ('root ::= "a" |', "a literal, a set, a rule or a group is expected"),
        ("root ::= root", "no output could be complete"),
        ("root ::= " + "(" * 100 + '"a"' + ")" * 100, "groups nest more than 64 deep"),
        ("", "there is no rule named root"),
        ("root = a", "unexpected character, at line 1, column 6"),
    ],
)
def test_what_is_wrong_is_told_by_its_place(grammar, said):
    with pytest.raises(GuideError) as refused:
        outputs(grammar)
    assert said in str(refused.value)
