"""A part of the output that is free, before the form that holds the rest."""

from __future__ import annotations

import random
import re

import pytest
from tokenwire_worker.engines.guides.prepare import grammar_text
from tokenwire_worker.engines.port import Ability, FreePrefix, Guide

from tests.engines.guides.outputs import Outputs

ENDS = ("</think>", "[/THINK]", "aabaaab", "<<<", "x", "ab", "漢é漢")


def guide(
    begin: str, end: str, form: Ability = Ability.GUIDED_REGEX, text: str = "[0-9]+"
) -> Guide:
    return Guide(form, text, free_prefix=FreePrefix(begin, end))


@pytest.mark.parametrize("begin", ["", "<think>"])
@pytest.mark.parametrize("end", ENDS)
def test_the_first_end_ends_it_whatever_comes_before(end, begin):
    """Against a search in the text itself."""
    made = Outputs(grammar_text(guide(begin, end)))
    whole = re.compile(rf"{re.escape(begin)}(?P<free>.*?){re.escape(end)}\s{{0,8}}[0-9]+", re.S)

    def fits(text: str) -> bool:
        if begin and re.fullmatch("[0-9]+", text):
            return True
        found = re.match(rf"{re.escape(begin)}.*?{re.escape(end)}", text, re.S)
        return bool(found and re.fullmatch(r"\s{0,8}[0-9]+", text[found.end() :]))

    rng = random.Random(end + begin)
    parts = [*end, *begin, end[:-1], end[1:], end, "7", "\n", "z", "😀"]
    for _ in range(150):
        free = "".join(rng.choices(parts, k=rng.randint(0, 8)))
        for text in (f"{begin}{free}{end}\n\n42", f"{free}{end}7", f"{begin}{free}", f"{free}5"):
            assert made.has(text) == fits(text), text
    for _ in range(30):
        text = made.draw(rng)
        assert fits(text), text
    assert whole.fullmatch(f"{begin}thoughts{end} 1") or end in "thoughts"


def test_a_recursive_grammar_stays_itself_after_it():
    text = 'root ::= "(" root ")" | "held" free\nfree ::= "!" | "?" free'
    made = Outputs(grammar_text(guide("<t>", "</t>", Ability.GUIDED_GRAMMAR, text)))
    for output in ("(held!)", "<t>(held</t>((held?!))", "<t>a<</t</t>\nheld!"):
        assert made.has(output), output
    for output in ("<t></t>", "<t>held!", "x</t>held!", "<t>a</t>held! ", "<t>a</t>b</t>held!"):
        assert not made.has(output), output


def test_it_makes_another_form():
    forms = [guide("", "</t>"), guide("<t>", "</t>"), guide("", "</u>")]
    plain = Guide(Ability.GUIDED_REGEX, "[0-9]+")
    assert len({each.digest for each in [*forms, plain]}) == 4
    assert len({grammar_text(each) for each in [*forms, plain]}) == 4
