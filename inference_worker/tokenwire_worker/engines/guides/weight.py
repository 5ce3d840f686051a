"""Tells forms that are likely to take long to compile from those that are not."""

from __future__ import annotations

import re

from tokenwire_worker.engines.port import Guide

HEAVY = 10_000
"""Weight from which a form is heavy. What is below mostly compiles in a tenth of a second: with a
vocabulary of 4,096, `.{0,1000}` takes two and `(a|b){0,3000}` a fifth of that."""

LONG_CHARACTERS = 16 * 1024
"""Length from which a form is heavy whatever it says, so that weighing one takes a millisecond or
two at the most."""

_STEP = re.compile(r"\\.|[()]|\{(\d{0,9})\d*(?:,(\d{0,9})\d*)?\}", re.DOTALL)
"""What a weight is made of: escapes, groups and counted repetitions. The rest is characters."""


def is_heavy(guide: Guide) -> bool:
    """Tells whether a form looks as if it took long to compile.

    It only decides in which queue the form waits: looks may deceive.
    """
    characters = len(guide.text) + sum(map(len, guide.options))
    return characters >= LONG_CHARACTERS or _weight(guide.text) >= HEAVY


def _weight(text: str) -> int:
    """Returns the length of a text with its counted repetitions written out, up to about HEAVY.

    Their notation is the same in regular expressions, grammars and patterns of schemas.
    """
    groups = [0]
    last = end = 0
    for step in _STEP.finditer(text):
        if step.start() > end:
            groups[-1] += step.start() - end
            last = 1
        end = step.end()
        mark = step.group()
        if mark == "(":
            groups.append(0)
            last = 0
        elif mark == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        elif mark[0] == "{":
            times = max(int(step[1] or 0), int(step[2] or 0), 1)
            groups[-1] = min(groups[-1] + last * (times - 1), HEAVY)
            last = min(last * times, HEAVY)
        else:
            groups[-1] += 1
            last = 1
    return sum(groups) + len(text) - end
