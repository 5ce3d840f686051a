"""Stop strings: found wherever they lie, the same for every split, nothing held back for long."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire_frontend.core.stop_matcher import StopMatcher, StopStrings


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


@settings(max_examples=400, deadline=None, derandomize=True)
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
