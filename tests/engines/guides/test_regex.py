"""Regular expressions as grammars: what Python's `re` says of the outputs, and what is refused."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire_worker.engines.guides.grammar import regex
from tokenwire_worker.engines.guides.grammar.characters import EVERY
from tokenwire_worker.engines.guides.grammar.matching import TooLong, matches
from tokenwire_worker.engines.guides.grammar.nodes import Characters
from tokenwire_worker.engines.guides.prepare import GuideError, grammar_text
from tokenwire_worker.engines.port import Ability, Guide

from tests.engines.guides.outputs import Outputs

ATOMS = [
    *("a", "b", "é", "日", "-", " ", "{", "}", '"', ".", r"\.", r"\-", r"\n", r"\x41", r"\u00e9"),
    *(r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", "[a-c]", "[^a-c]", r"[^\d]", r"[^\W]", r"[\]a-]"),
    *("[é-ü0]", r'[^"\\]', r"[\x00-\x1f]", "[-a]", "[a^]"),
]
SIGNS = ["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}", "*?", "+?", "??", "{1,2}?"]


def _wider(inner):
    return st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda ways: f"({'|'.join(ways)})"),
        st.tuples(inner, st.sampled_from(SIGNS)).map(lambda two: f"(?:{two[0]}){two[1]}"),
        st.tuples(st.sampled_from(ATOMS), st.sampled_from(SIGNS)).map("".join),
    )


PATTERNS = st.tuples(
    st.sampled_from(["", "^"]),
    st.recursive(st.sampled_from(ATOMS), _wider, max_leaves=8),
    st.sampled_from(["", "$"]),
).map("".join)


def outputs(pattern: str) -> Outputs:
    return Outputs(grammar_text(Guide(Ability.GUIDED_REGEX, pattern)))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(PATTERNS, st.integers(0, 2**32))
def test_outputs_match_the_whole_pattern(pattern, seed):
    try:
        made = outputs(pattern)
    except GuideError:
        return
    rng = random.Random(seed)
    for _ in range(4):
        text = made.draw(rng, 25)
        assert len(text) > 200 or re.fullmatch(pattern, text), text


@settings(max_examples=100, deadline=None, derandomize=True)
@given(PATTERNS, st.lists(st.text('ab1 .-{}"\n', max_size=5), max_size=6))
def test_ascii_texts_that_match_are_left_out_of_no_grammar(pattern, texts):
    try:
        made = outputs(pattern)
    except GuideError:
        return
    for text in texts:
        assert made.has(text) or not re.fullmatch(pattern, text), text


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(?=a)b", "(?=a is not supported, at character 0"),
        ("a(?<!b)", "(?<! is not supported, at character 1"),
        (r"(a)\1", r"\1 is not supported, at character 3"),
        (r"\bword", r"\b is not supported, at character 0"),
        ("(?i)a", "(?i) is not supported, at character 0"),
        ("(?>a)", "(?>a is not supported"),
        ("a*+", "possessive quantifiers are not supported"),
        ("a{,3}", "{, means different things"),
        ("[]a]", "[] means different things"),
        ("a**", "multiple repeat"),
        ("*a", "nothing to repeat, at character 0"),
        ("^*", "nothing to repeat"),
        ("a^b", "^ is supported at the edges"),
        ("a$b", "$ is supported at the edges"),
        ("(^a)*", "^ is supported at the edges"),
        ("(a", "missing ), at character 0"),
        ("a)", "unbalanced ), at character 1"),
        ("[a", "unterminated character set, at character 0"),
        ("[z-a]", "a range that ends before it begins"),
        (r"[\d-z]", "a range of sets"),
        (r"\q", r"\q is not supported"),
        (r"\x4", r"\x takes 2 hexadecimal digits"),
        ("a\\", "a backslash at the end"),
        ("a{3,2}", "the least of a repetition is above its most"),
        ("a{200000}", "repetitions count to 100000 at most"),
        ("a\0", "U+0000 is in no output, at character 1"),
        (r"\ud800", "U+D800 is in no output"),
        ("(" * 100 + ")" * 100, "groups nest more than 64 deep"),
        ("[^\\s\\S]", "no output could be complete"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_place(pattern, said):
    with pytest.raises(GuideError) as refused:
        outputs(pattern)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("pattern", "found", "not_found"),
    [
        ("a", ["a", "xax", "\na"], ["", "b"]),
        ("^a", ["a", "ab"], ["ba"]),
        ("a$", ["a", "ba"], ["ab", "a\n"]),
        ("^a|b$", ["ax", "xb"], ["xa", "bx"]),
        ("(^|,)a", ["a", "x,a", "ab"], ["xa"]),
        ("a(,|$)", ["a", "a,x", "xa"], ["ax"]),
        ("^^a$$", ["a"], ["aa"]),
        ("", ["", "x"], []),
        ("^$", [""], ["x"]),
    ],
)
def test_matches_anywhere(pattern, found, not_found):
    node = regex.anywhere(pattern, Characters(EVERY))
    assert all(matches(node, text) for text in found)
    assert not any(matches(node, text) for text in not_found)


def test_a_match_that_takes_too_long_is_given_up():
    node = regex.anywhere("^((a*)*b|(a|aa)*c)*$", Characters(EVERY))
    with pytest.raises(TooLong):
        matches(node, "a" * 30_000)


@pytest.mark.parametrize(
    "pattern",
    ["((a{1,203}){1,200}){1,200}", "[a-z]{0,40000}", "(a|b){0,30000}c", "(a{1,300}){1,300}"],
)
def test_counts_multiply_into_few_rules(pattern):
    assert len(outputs(pattern).text) < 5000


@pytest.mark.parametrize(
    ("pattern", "counts"),
    [
        ("(a{1,3}){2,4}", range(2, 13)),
        ("(a{2}){1,3}", [2, 4, 6]),
        ("(a{2,3}){0,2}", [0, 2, 3, 4, 5, 6]),
        ("(a{3,4}){1,2}", [3, 4, 6, 7, 8]),
        ("(a{2,}){0,1}", range(2, 60)),
        ("(a*){2,3}", range(60)),
        ("(a+){2}", range(2, 60)),
        ("a{17}", [17]),
        ("a{3,35}", range(3, 36)),
    ],
)
def test_repetitions_of_repetitions_count_right(pattern, counts):
    made = outputs(f"{pattern}b")
    found = [count for count in range(60) if made.has("a" * count + "b")]
    expected = [count for count in range(60) if re.fullmatch(pattern, "a" * count)]
    assert found == expected
    assert set(counts) <= set(found)
