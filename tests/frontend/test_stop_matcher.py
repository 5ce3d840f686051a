"""Stop strings: found wherever they lie, the same for every split, nothing held back for long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire_frontend.core.stop_matcher import SpecialTokens, StopMatcher, StopStrings


def feed(matcher: StopMatcher, parts: list[str]) -> str:
    text = ""
    for part in parts:
        text += matcher.push(part)
        if matcher.matched is not None:
            return text
    return text + matcher.finish()


def expected(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The definition, character by character: the stop completed first, the longest of several."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    text=st.text("abc", max_size=40),
    stops=st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    include=st.booleans(),
)
def test_every_split_gives_what_the_definition_gives(text, stops, cuts, include):
    parts, start = [], 0
    while start < len(text):
        size = cuts[len(parts) % len(cuts)]
        parts.append(text[start : start + size])
        start += size
    matcher = StopMatcher(StopStrings(stops), include=include)
    assert (feed(matcher, parts), matcher.matched) == expected(text, stops, include)


def test_only_what_may_become_a_stop_string_is_held_back():
    matcher = StopMatcher(StopStrings(["\nUser:"]))
    assert matcher.push("one\ntwo\n") == "one\ntwo"
    assert matcher.push("Use") == ""
    assert matcher.push("ful") == "\nUseful"
    assert matcher.push("\nUser") == ""
    assert matcher.push(": hi") == ""
    assert matcher.matched == "\nUser:"


@pytest.mark.parametrize(("include", "text"), [(False, "a"), (True, "aSTOP")])
def test_include_keeps_the_stop_string_and_nothing_after_it(include, text):
    matcher = StopMatcher(StopStrings(["STOP"]), include=include)
    assert matcher.push("aSTOPb") == text


def test_what_was_held_back_comes_at_the_end():
    matcher = StopMatcher(StopStrings(["###"]))
    assert matcher.push("x##") == "x"
    assert matcher.finish() == "##"


def test_of_stop_strings_completed_together_the_longest_counts():
    matcher = StopMatcher(StopStrings(["b", "ab", "xb"]))
    assert matcher.push("aab") == "a"
    assert matcher.matched == "ab"


def test_a_stop_string_that_does_not_count_yet_is_passed_over_and_may_begin_one_that_does():
    matcher = StopMatcher(StopStrings(["aba"]))
    assert matcher.push("xaba", counts=False) == "xab"
    assert matcher.matched is None
    assert matcher.push("ba") == ""
    assert matcher.matched == "aba"


ADVERSARIAL = {
    "never complete": (["a" * 1023 + chr(0x100 + each) for each in range(16)], "a"),
    "fall back at each character": (["ab" * 511 + chr(0x100 + each) for each in range(16)], "ab"),
    "nearly periodic": (["a" * (1023 - each) + "b" + "a" * each for each in range(16)], "a"),
}


@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_a_character_costs_the_same_however_long_the_stop_strings_are(kind):
    """Sixteen of 1,024 characters against sixteen of 32, on the text that is worst for them."""
    stops, unit = ADVERSARIAL[kind]
    text = (unit * 4_000)[:4_000]

    def seconds(stops: list[str]) -> float:
        best = 10.0
        for _ in range(5):
            matcher = StopMatcher(StopStrings(stops))
            matcher.push(text)
            start_s = time.thread_time()
            for start in range(0, 2_000, 4):
                matcher.push(text[start : start + 4])
            best = min(best, time.thread_time() - start_s)
            assert matcher.matched is None
        return best

    short = [stop[:15] + stop[-17:] if kind == "nearly periodic" else stop[-32:] for stop in stops]
    assert seconds(stops) < 5 * seconds(short)


def test_preparing_long_stop_strings_costs_little_until_text_begins_them():
    stops = ["a" * 1023 + chr(0x100 + each) for each in range(16)]
    matcher = StopMatcher(StopStrings(stops))
    for _ in range(100):
        assert matcher.push("no such one, a ") == "no such one, a "
    assert all(len(pattern._borders) <= 2 for pattern in matcher._stops.patterns)


def test_special_tokens_that_no_stop_string_holds_are_not_followed():
    special = SpecialTokens({3: "<|end|>", 4: "<|begin|>", 5: "", 6: "User", 7: "<|end|>"})
    assert sorted(StopStrings(["\nUser:", "<|end|>"], special).marks) == [3, 6, 7]
    assert StopStrings(["\nuser:", "<|en"], special).marks == {}
    assert StopStrings(["\nuser:"], SpecialTokens({})).marks == {}


def test_of_special_tokens_that_begin_alike_the_longest_is_meant():
    special = SpecialTokens({1: "<a", 2: "<a>", 3: "b"})
    assert special.split("x<a>b<a<ab") == ["x", "<a>", "", "b", "", "<a", "", "<a", "", "b", ""]
    assert special.split("plain") == ["plain"]


def test_looking_for_special_tokens_costs_the_same_however_many_there_are():
    stops = ["<|reserved" * 100 + str(number) for number in range(16)]

    def seconds(count: int) -> float:
        texts = {number: f"<|reserved_special_token_{number:05}|>" for number in range(count)}
        special, best = SpecialTokens(texts), 10.0
        for _ in range(10):
            start_s = time.thread_time()
            StopStrings(stops, special)
            best = min(best, time.thread_time() - start_s)
        return best

    assert seconds(10_000) < 4 * seconds(10)
