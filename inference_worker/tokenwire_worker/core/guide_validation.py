"""Checks the guide of a request against what the engine can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenwire_service.limits import CHOICE_OPTIONS, GUIDE_BYTES, GUIDE_DEPTH, utf8_bytes

from tokenwire_worker.core.faults import TOLD_FAULTS, Fault, unable
from tokenwire_worker.engines.port import Ability, EngineInfo, FreePrefix, Guide

NUL = "\0"
"""A character that compilers of guides do not support."""

NO_NUL = "U+0000 is in no output"

FREE_PREFIX_CHARACTERS = 64
"""Of each text that marks a guide's free prefix: markers of reasoning have some ten."""


def guide_faults(guide: Guide | None, info: EngineInfo) -> Iterator[Fault]:
    """Yields what is wrong with a guide, as far as it shows without compiling it."""
    if guide is None:
        return
    field = guide.form.value
    if guide.form not in info.abilities:
        yield unable(guide.form, info)
        return
    if guide.free_prefix is not None:
        yield from _free_prefix(guide.free_prefix, info)
    if guide.form is Ability.GUIDED_CHOICE:
        yield from _choice(guide.options)
        return
    if guide.form is Ability.GUIDED_JSON_OBJECT:
        return
    # A regular expression may be a space.
    if not (guide.text if guide.form is Ability.GUIDED_REGEX else guide.text.strip()):
        yield field, "empty"
    size = utf8_bytes(guide.text)
    if size > GUIDE_BYTES:
        yield field, f"{size} bytes; at most {GUIDE_BYTES}"
    elif (depth := nesting(guide.text)) > GUIDE_DEPTH:
        yield field, f"brackets nest {depth} deep; at most {GUIDE_DEPTH}"


def _free_prefix(prefix: FreePrefix, info: EngineInfo) -> Iterator[Fault]:
    if Ability.FREE_PREFIX not in info.abilities:
        yield unable(Ability.FREE_PREFIX, info)
    for name, text in (("begin", prefix.begin), ("end", prefix.end)):
        field = f"guide.free_prefix.{name}"
        if len(text) > FREE_PREFIX_CHARACTERS:
            yield field, f"{len(text)} characters; at most {FREE_PREFIX_CHARACTERS}"
        if NUL in text:
            yield field, NO_NUL
    if not prefix.end:
        yield "guide.free_prefix.end", "empty"


def _choice(options: Sequence[str]) -> Iterator[Fault]:
    field = f"{Ability.GUIDED_CHOICE.value}.options"
    if not options:
        yield field, "empty; at least one option is required"
    if len(options) > CHOICE_OPTIONS:
        yield field, f"{len(options)} options; at most {CHOICE_OPTIONS}"
        return
    size = sum(utf8_bytes(option) for option in options)
    if size > GUIDE_BYTES:
        yield field, f"{size} bytes in all; at most {GUIDE_BYTES}"
    empty = [at for at, option in enumerate(options) if not option]
    for at in empty[:TOLD_FAULTS]:
        yield f"{field}[{at}]", "empty"
    for at in [at for at, option in enumerate(options) if NUL in option][:TOLD_FAULTS]:
        yield f"{field}[{at}]", NO_NUL


def nesting(text: str) -> int:
    """Returns how deep brackets of any kind nest, counting also those within quotes."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}" and depth:
            depth -= 1
    return deepest
