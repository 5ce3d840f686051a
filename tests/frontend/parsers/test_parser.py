"""What comes when, what breaks a call, and what special tokens change."""

from __future__ import annotations

import time

import pytest
from tokenwire_frontend.core.parsers import (
    REASONING_FORMATS,
    TOOL_FORMATS,
    Arguments,
    CallBegin,
    CallEnd,
    OutputFormat,
    OutputParser,
    Reasoning,
    Text,
)
from tokenwire_frontend.core.parsers.stream import HELD_LIMIT

from tests.frontend.parsers.reading import TOOLS, feed, put_together, raw_of


def new(tools: str | None, thinks: str | None = None, special: dict[int, str] | None = None, **how):
    output_format = OutputFormat(
        TOOL_FORMATS[tools] if tools else None,
        REASONING_FORMATS[thinks] if thinks else None,
        special or {},
    )
    return OutputParser(output_format, "call_{}".format, TOOLS, **how), output_format


def order(tools: str, raw: str, thinks: str | None = None, **how):
    events = feed(new(tools, thinks, **how)[0], [raw])
    assert raw_of(events) == raw
    return [
        (kind, value if isinstance(value, str) else (value.name, value.arguments, value.complete))
        for kind, value in put_together(events).order
    ]


def test_only_what_may_become_a_marker_is_held_back():
    parser, _ = new("hermes")
    assert parser.push("a < b") == [Text("a < b", "a < b")]
    assert parser.push(" \n<tool") == []
    assert parser.push("box>") == [Text(" \n<toolbox>", " \n<toolbox>")]
    assert parser.push("<tool_call>{") == []
    assert parser.finish() == [Text("<tool_call>{", "<tool_call>{")]


def test_a_call_comes_as_soon_as_its_name_and_the_beginning_of_its_arguments_are_there():
    parser, _ = new("hermes")
    assert parser.push('Hm.\n<tool_call>{"name": "now", ') == [Text("Hm.", "Hm.")]
    begin = CallBegin(0, "call_0", "now", '\n<tool_call>{"name": "now", "arguments": ')
    assert parser.push('"arguments": {"a') == [begin, Arguments(0, '{"a', '{"a')]
    assert parser.push('": [1') == [Arguments(0, '": [', '": [1')]
    assert parser.push("2, ") == [Arguments(0, "12, ", "2, ")]
    assert parser.push("null]}") == [Arguments(0, "null]}", "null]}")]
    assert parser.push("}\n</tool_call>")[0] == CallEnd(0, complete=True, raw="}")


def test_a_parameter_that_is_a_string_comes_as_it_is_written_and_a_number_when_it_ends():
    parser, _ = new("qwen3_coder")
    parser.push("<function=get_weather><parameter=city>\n")
    assert [each.text for each in parser.push("New")] == ["New"]
    assert [each.text for each in parser.push(' "York"\n')] == [' \\"York\\"']
    assert [each.text for each in parser.push("\n</param")] == ["\\n"]
    parser.push("eter><parameter=days>")
    assert [each.text for each in parser.push("12")] == []
    assert [each.text for each in parser.push("</parameter>")] == ["12"]


def test_reasoning_is_given_out_as_it_comes_without_the_line_feeds_at_its_ends():
    parser, _ = new("hermes", "think")
    assert parser.push("<think>\n") == []
    assert parser.push("One\n\n") == [Reasoning("One", "<think>\nOne")]
    assert parser.push("two\n</th") == [Reasoning("\n\ntwo", "\n\ntwo")]
    assert parser.push("ink>\n\n") == []
    assert parser.push("Three") == [Text("Three", "\n</think>\n\nThree")]


@pytest.mark.parametrize(
    ("raw", "how", "expected"),
    [
        ("a</think>b", {}, [("text", "a</think>b")]),
        ("a</think>b", {"in_reasoning": True}, [("reasoning", "a"), ("text", "b")]),
        ("<think>a</think>b", {"in_reasoning": True}, [("reasoning", "a"), ("text", "b")]),
        ("Say <think>a</think>", {}, [("text", "Say <think>a</think>")]),
        ("\n <think></think>\nb", {}, [("text", "b")]),
        ("<think>\n\n</think>\n\n", {}, []),
        ("<think>a", {}, [("reasoning", "a")]),
    ],
)
def test_reasoning_begins_before_any_text_or_in_the_prompt(raw, how, expected):
    assert order("hermes", raw, "think", **how) == expected


@pytest.mark.parametrize(
    ("thinks", "prompt", "how", "opened"),
    [
        ("think", "<|im_start|>assistant\n<think>\n", {}, True),
        ("think", "<|im_start|>assistant\n<think>\n\n</think>\n\n", {}, False),
        ("think", "What is <think>?<|im_end|>\n<|im_start|>assistant\n", {}, False),
        ("think", "x", {"continued": "<think>so far"}, True),
        ("think", "x", {"continued": "<think>so</think> far"}, False),
        ("gemma4", "<|channel>thought\n", {}, True),
        ("harmony", "<|start|>assistant", {}, False),
        ("harmony", "<|start|>assistant<|channel|>analysis<|message|>", {}, True),
        (None, "<think>", {}, False),
    ],
)
def test_a_prompt_tells_whether_the_output_begins_within_reasoning(thinks, prompt, how, opened):
    assert new("hermes", thinks)[1].opened_by(prompt, **how) is opened


BROKEN = {
    # Before the call has begun, all of it is text.
    "no JSON": ("hermes", "<tool_call> is a tag", [("text", "<tool_call> is a tag")]),
    "no name": (
        "hermes", '<tool_call>{"arguments": {}}</tool_call>',
        [("text", '<tool_call>{"arguments": {}}</tool_call>')],
    ),
    "arguments that are a list": (
        "hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>',
        [("text", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>')],
    ),
    "arguments that are a string without an object": (
        "hermes", '<tool_call>{"name": "now", "arguments": "[1]"}</tool_call>',
        [("text", '<tool_call>{"name": "now", "arguments": "[1]"}</tool_call>')],
    ),
    "half of a surrogate pair": (
        "hermes", r'''<tool_call>{"name": "now", "arguments": "{\"a\": \"\ud800\"}"}''',
        [("call", ("now", '{"a": "\ufffd"}', True))],
    ),
    "another marker": (
        "hermes", '<tool_call><tool_call>{"name": "now"}</tool_call>',
        [("text", "<tool_call>"), ("call", ("now", "{}", True))],
    ),
    "a bare call of no tool": (
        "json", '{"name": "rm", "arguments": {}}', [("text", '{"name": "rm", "arguments": {}}')],
    ),
    "an empty list": ("json", "[]", [("text", "[]")]),
    "a list of numbers": ("pythonic", "[1, 2]", [("text", "[1, 2]")]),
    "a positional argument": ("pythonic", "[now(1)]", [("text", "[now(1)]")]),
    "a name too long": (
        "glm45", f"<tool_call>{'a' * 300}</tool_call>",
        [("text", f"<tool_call>{'a' * 300}</tool_call>")],
    ),
    # After it has, the call ends, and the rest is text.
    "not JSON within arguments": (
        "hermes", '<tool_call>{"name": "now", "arguments": {"a": 1, b}}</tool_call>',
        [("call", ("now", '{"a": 1, ', False)), ("text", "b}}</tool_call>")],
    ),
    "the closing tag within arguments": (
        "hermes", '<tool_call>{"name": "now", "arguments": {"a": 1</tool_call>\nSo',
        [("call", ("now", '{"a": 1', False)), ("text", "\nSo")],
    ),
    "nested too deeply": (
        "hermes", '<tool_call>{"name": "now", "arguments": {"a": ' + "[" * 400,
        [("call", ("now", '{"a": ' + "[" * 255, False)), ("text", "[" * 145)],
    ),
    "text between parameters": (
        "qwen3_coder", "<tool_call><function=now><parameter=a>1</parameter>so</function>",
        [("call", ("now", '{"a": 1', False)), ("text", "so</function>")],
    ),
    "a variable": (
        "pythonic", "[now(a=b)]", [("call", ("now", '{"a": ', False)), ("text", ")]")],
    ),
    "an object without its end, and text": (
        "json", '{"name": "now", "arguments": {}\nSo',
        [("call", ("now", "{}", True)), ("text", "\nSo")],
    ),
    "a function that harmony does not close": (
        "harmony", "<|channel|>commentary to=functions.now<|message|>Well<|end|>",
        [("text", "<|channel|>commentary to=functions.now<|message|>Well")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tools", "raw", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_text(tools, raw, expected):
    assert order(tools, raw) == expected


def test_arguments_before_the_name_are_held_up_to_a_limit_and_then_text():
    def raw(size: int) -> str:
        return '<tool_call>{"arguments": {"a": "' + "x" * size + '"}, "name": "now"}</tool_call>'

    assert [kind for kind, _ in order("hermes", raw(HELD_LIMIT - 100))] == ["call"]
    assert order("hermes", raw(HELD_LIMIT)) == [("text", raw(HELD_LIMIT))]


def test_a_long_parameter_that_may_be_no_string_becomes_one():
    raw = "<function=now><parameter=a>" + "1" * 70_000 + "</parameter></function>"
    [(_, (_, arguments, complete))] = order("qwen3_coder", raw)
    assert (len(arguments), complete) == (len('{"a": ""}') + 70_000, True)


def test_a_marker_that_is_a_special_token_is_met_by_the_token_alone():
    parser, output_format = new("mistral", "mistral", {3: "[TOOL_CALLS]", 4: "[ARGS]", 5: "<s>"})
    marks = output_format.marks
    assert set(marks) == {3, 4}
    events = parser.push("[TOOL_CALLS]now[ARGS]{} ")
    for part in (marks[3], "now", marks[4], '{"a": "x', marks[4], 'y"}'):
        events += parser.push(part)
    events += parser.finish()
    [(_, text), (_, call)] = put_together(events).order
    assert text == "[TOOL_CALLS]now[ARGS]{}"
    assert (call.name, call.arguments, call.complete) == ("now", '{"a": "xy"}', True)
    assert raw_of(events).endswith('[TOOL_CALLS]now[ARGS]{"a": "x[ARGS]y"}')


@pytest.mark.parametrize(("shows", "text"), [(False, "a b"), (True, "a[ARGS] b")])
def test_a_special_token_that_marks_nothing_is_text_where_the_request_asks_for_it(shows, text):
    parser, output_format = new("mistral", None, {4: "[ARGS]"}, shows_tokens=shows)
    events = feed(parser, ["a", output_format.marks[4], " b"])
    assert put_together(events).text == text
    assert raw_of(events) == "a[ARGS] b"


def test_a_special_token_may_be_a_part_of_markers():
    bar = "\uff5c"
    parser, output_format = new("deepseek_v32", None, {9: f"{bar}DSML{bar}"})
    mark = output_format.marks[9]
    raw = '<@function_calls><@invoke name="now"></@invoke></@function_calls>'
    events = feed(parser, [part for each in raw.split("@") for part in (each, mark)][:-1])
    assert [each.name for each in put_together(events).calls] == ["now"]


def test_a_special_token_that_begins_calls_ends_reasoning():
    special = {1: "<|tool_calls_section_begin|>"}
    parser, output_format = new("kimi_k2", "think", special)
    events = feed(parser, [
        "<think>Hm\n", output_format.marks[1],
        "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
    ])  # fmt: skip
    found = put_together(events)
    assert (found.reasoning, [each.id for each in found.calls]) == ("Hm", ["functions.now:0"])


def test_ids_come_from_the_caller_and_are_cut_to_what_the_template_takes():
    raw = '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]'
    ids = [each.id for each in put_together(feed(new("mistral")[0], [raw])).calls]
    assert ids == [each.id for each in put_together(feed(new("mistral")[0], [*raw])).calls]
    assert len({*ids}) == 2
    assert all(len(each) == 9 and each.isalnum() for each in ids)


def test_without_a_parser_for_calls_or_reasoning_markers_are_text():
    raw = '<think>a</think><tool_call>{"name": "now"}</tool_call>'
    assert put_together(feed(new(None)[0], [raw])).text == raw
    assert put_together(feed(new("hermes")[0], [raw])).text == "<think>a</think>"
    assert put_together(feed(new(None, "think")[0], [raw])).text == raw.partition("</think>")[2]


UNITS = {
    "markers begun": "<", "brackets": "[{", "nested": '{"a":', "white space": " ", "lines": "\n",
    "quotes": '"', "escapes": "\\", "digits": "1", "markers": "<tool_call>",
    "keys": '{"name": "x", ',
    "names": '{"name": "now", ', "ends": "</parameter>", "calls": "now(", "lists": "\n[{",
}  # fmt: skip
BEGINNINGS = [
    ("hermes", "<tool_call>"),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": '),
    ("hermes", '<tool_call>{"arguments": {"a": "'),
    ("json", ""),
    ("pythonic", "[now(a="),
    ("qwen3_coder", "<function=get_weather><parameter=options>"),
    ("glm45", "<tool_call>now<arg_key>"),
    ("mistral", "[TOOL_CALLS]"),
    ("harmony", "<|channel|>"),
]


@pytest.mark.parametrize(("tools", "beginning"), BEGINNINGS)
def test_a_character_costs_the_same_however_much_came_before_it_and_little_is_held(
    tools, beginning
):
    def seconds_each(unit: str, size: int) -> float:
        parser, _ = new(tools, "harmony" if tools == "harmony" else "think")
        text = (unit * size)[:size]
        waiting = sum(map(len, (beginning, text)))
        start_s = time.thread_time()
        events = parser.push(beginning)
        for start in range(0, size, 16):
            events += parser.push(text[start : start + 16])
        elapsed_s = time.thread_time() - start_s
        waiting -= sum(len(event.raw) for event in events)
        assert waiting <= HELD_LIMIT + 16
        return elapsed_s / size

    for kind, unit in UNITS.items():
        short = min(seconds_each(unit, 1_500) for _ in range(3))
        long = min(seconds_each(unit, 9_000) for _ in range(3))
        assert long < 4 * short + 2e-7, kind
