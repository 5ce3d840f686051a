"""Each model family's output, read whole, in pieces, cut off anywhere, and damaged."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire_frontend.core.parsers import REASONING_FORMATS, TOOL_FORMATS, OutputFormat

from tests.frontend.parsers.outputs import OUTPUTS, Output
from tests.frontend.parsers.reading import (
    feed,
    formats,
    parser,
    pieces,
    put_together,
    raw_of,
    special_tokens,
)

LONGEST_MARKER = 40

CASES = pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS.keys())


def read(output: Output, raw: str, size: int | None = None, *, special: bool = False):
    """Returns the events of an output in pieces of a size, with or without special tokens."""
    output_format = formats(output)
    tokens = special_tokens(output_format) if special else {}
    output_format = formats(output, tokens)
    parts = pieces(output_format, tokens, raw, lambda: size or len(raw))
    return feed(parser(output, output_format), parts)


@CASES
@pytest.mark.parametrize("special", [False, True], ids=["text", "special tokens"])
def test_an_output_is_read_as_its_family_writes_it(output, special):
    events = read(output, output.raw, special=special)
    found = put_together(events)
    assert (found.text, found.reasoning) == (output.text, output.reasoning)
    assert [(each.name, json.loads(each.arguments)) for each in found.calls if each.complete] == [
        *output.calls
    ]
    for index, call_id in output.names.items():
        assert found.calls[int(index)].id == call_id
    assert raw_of(events) == output.raw


@CASES
@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), most=st.integers(1, 12), special=st.booleans())
def test_every_split_gives_the_same_also_of_a_damaged_output(output, seed, most, special):
    draw = random.Random(seed)
    raw = output.raw
    for _ in range(seed % 3):
        place = draw.randrange(len(raw))
        raw = raw[:place] + draw.choice(["", '"', "{", "<", "\\", " ", raw]) + raw[place + 1 :]
    whole = read(output, raw, special=special)
    assert raw_of(whole) == raw
    output_format = formats(output)
    tokens = special_tokens(output_format) if special else {}
    output_format = formats(output, tokens)
    parts = pieces(output_format, tokens, raw, lambda: draw.randint(1, most))
    events = feed(parser(output, output_format), parts)
    assert put_together(events) == put_together(whole)
    assert raw_of(events) == raw


@CASES
def test_an_output_cut_off_anywhere_loses_nothing_and_invents_nothing(output):
    whole = put_together(read(output, output.raw))
    for end in range(len(output.raw)):
        raw = output.raw[:end]
        events = read(output, raw)
        assert raw_of(events) == raw
        found = put_together(events)
        for cut, full in zip(found.calls, whole.calls, strict=False):
            assert (cut.id, cut.name) == (full.id, full.name)
            if cut.complete:
                assert json.loads(cut.arguments) == json.loads(full.arguments)
            else:
                assert full.arguments.startswith(cut.arguments)
        assert len(found.calls) <= len(whole.calls)
        # What might have become a marker is reasoning after all.
        certain = found.reasoning[:-LONGEST_MARKER]
        assert whole.reasoning.startswith(certain)


FRAGMENTS = [
    "{", "}", "[", "]", '"', "'", '"name"', '"arguments"', '"parameters"', ": ", ", ", "now",
    '"now"', '"get_weather"', "\n", " ", "<", ">", "\\", "\\u00e9", "-2.5e3", "true", "None", "é😀",
    "(", ")", "=", "city", "days", '{"name": "now", "arguments": {', '{"a": 1}', "}}",
    "functions.now:0", "to=functions.now", "commentary", "analysis", "final", "function", "```json",
    "```", ";", "\n" * 20, "x y",
]  # fmt: skip
PAIRS = [
    *((name, "think") for name in TOOL_FORMATS if name != "harmony"),
    ("harmony", "harmony"), ("mistral", "mistral"), ("cohere", "cohere"), (None, "harmony"),
]  # fmt: skip


@pytest.mark.parametrize(("tools", "thinks"), PAIRS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_output_is_lost_or_depends_on_its_split(tools, thinks, data):
    tool_format, reasoning = TOOL_FORMATS.get(tools or ""), REASONING_FORMATS[thinks]
    markers = sorted(OutputFormat(tool_format, reasoning, {}).markers())
    words = st.one_of(st.sampled_from(markers), st.sampled_from(FRAGMENTS))
    raw = "".join(data.draw(st.lists(words, max_size=25)))
    chosen = data.draw(st.sets(st.sampled_from(markers)))
    tokens = dict(enumerate(chosen))
    output_format = OutputFormat(tool_format, reasoning, tokens)
    output = Output(tools or "", raw, in_reasoning=data.draw(st.booleans()))
    draw = random.Random(len(raw))
    whole = feed(parser(output, output_format), pieces(output_format, tokens, raw, lambda: 1000))
    assert raw_of(whole) == raw
    for most in (1, 7):
        parts = pieces(output_format, tokens, raw, lambda most=most: draw.randint(1, most))
        events = feed(parser(output, output_format), parts)
        assert raw_of(events) == raw
        assert put_together(events) == put_together(whole)
