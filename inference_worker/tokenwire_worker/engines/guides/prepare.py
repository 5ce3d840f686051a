"""What an engine is given in a guide's place: the guide as a grammar of our own writing.

The compilers inside engines read some characters of literals wrong, pass over keywords of JSON
Schema in silence and allow white space without end. So every form of guide becomes one EBNF text,
written in what they all read right. What such a text cannot hold an output to is refused, by name.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from tokenwire_worker.engines.guides.free import with_free_prefix
from tokenwire_worker.engines.guides.grammar import ebnf, regex
from tokenwire_worker.engines.guides.grammar.nodes import Grammar, Text, choice
from tokenwire_worker.engines.guides.grammar.writer import (
    LONGEST_BYTES,
    Endless,
    TooLarge,
    UnwrittenSet,
    written,
)
from tokenwire_worker.engines.guides.schema.compiler import any_json_object, compiled
from tokenwire_worker.engines.guides.schema.document import Unsupported
from tokenwire_worker.engines.port import Ability, Guide

REMEMBERED_BYTES = 16 * 1024**2
"""Most of the texts that are kept: a form is tried, compiled and submitted within seconds."""


class GuideError(ValueError):
    """A guide that is malformed, or that outputs cannot be held to; says what and where."""


class _Memory:
    """The texts last made; used by any thread."""

    def __init__(self) -> None:
        self._texts: OrderedDict[Guide, str] = OrderedDict()
        self._bytes = 0
        self._changing = threading.Lock()

    def get(self, guide: Guide) -> str | None:
        with self._changing:
            if guide in self._texts:
                self._texts.move_to_end(guide)
            return self._texts.get(guide)

    def put(self, guide: Guide, text: str) -> None:
        with self._changing:
            if guide in self._texts:
                return
            self._texts[guide] = text
            self._bytes += _size(guide, text)
            while self._bytes > REMEMBERED_BYTES:
                self._bytes -= _size(*self._texts.popitem(last=False))


_memory = _Memory()


def grammar_text(guide: Guide) -> str:
    """Returns a guide as EBNF whose root rule is `root`; from memory where it was made lately.

    Takes some milliseconds, and half a second for the largest schemas.

    Raises:
        GuideError: outputs cannot be held to it.
    """
    known = _memory.get(guide)
    if known is not None:
        return known
    try:
        text = written(_grammar(guide), wide_sets=_has_wide_sets())
    except (Unsupported, regex.BadPatternError, ebnf.BadGrammarError) as error:
        raise GuideError(str(error)) from error
    except Endless as error:
        raise GuideError("no output could be complete") from error
    except UnwrittenSet as error:
        raise GuideError(
            "a set of many characters beyond ASCII, but not all, is not supported by this engine"
        ) from error
    except TooLarge as error:
        raise GuideError(f"takes more than {LONGEST_BYTES} bytes as a grammar") from error
    except RecursionError as error:
        raise GuideError("is nested too deeply") from error
    _memory.put(guide, text)
    return text


@cache
def _has_wide_sets() -> bool:
    """Tells whether the compiler reads sets with characters beyond ASCII, as of xgrammar 0.1.30.

    TensorRT-LLM 1.2 brings 0.1.25, vLLM 0.26 brings 0.2.7, OpenVINO GenAI one like 0.1.31.
    """
    try:
        numbers = version("xgrammar").split(".")[:3]
    except PackageNotFoundError:
        return True
    return tuple(int("".join(filter(str.isdigit, number)) or 0) for number in numbers) >= (0, 1, 30)


def _grammar(guide: Guide) -> Grammar:
    held = _held(guide)
    return held if guide.free_prefix is None else with_free_prefix(held, guide.free_prefix)


def _held(guide: Guide) -> Grammar:
    if guide.form is Ability.GUIDED_JSON_SCHEMA:
        return compiled(guide.text)
    if guide.form is Ability.GUIDED_JSON_OBJECT:
        return any_json_object()
    if guide.form is Ability.GUIDED_REGEX:
        return Grammar(regex.whole(guide.text))
    if guide.form is Ability.GUIDED_GRAMMAR:
        return ebnf.read(guide.text)
    return Grammar(choice(Text(option) for option in guide.options))


def _size(guide: Guide, text: str) -> int:
    return len(guide.text) + sum(map(len, guide.options)) + len(text)
