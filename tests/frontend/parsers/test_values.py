"""Values in JSON and Python's notation, and parameters by their schemas."""

from __future__ import annotations

import ast
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire_frontend.core.parsers.literals import JSON, PYTHON, ValueReader
from tokenwire_frontend.core.parsers.parameters import ParameterValue, types_of

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=8),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)
CUTS = st.integers(1, 9)


def read(text: str, notation, cut: int = 10**6) -> str | None:
    """Returns the JSON of a text that is one value and no more, else None."""
    reader, at = ValueReader(notation), 0
    for start in range(0, len(text), cut):
        part = text[start : start + cut]
        at = reader.read(part, 0, len(part)) + start
        if reader.broken or (reader.done and at < len(text)):
            return None
    return reader.take() if reader.finish() else None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(value=VALUES, cut=CUTS, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_json_comes_out_as_it_is(value, cut, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert read(text, JSON, cut) == text


def strict(text: str) -> object:
    def refuse(name: str) -> object:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text('{}[]":,\\u0aef19.-+eE tru', max_size=12), cut=CUTS)
def test_json_is_what_json_is(text, cut):
    text = text.strip()
    try:
        strict(text)
    except ValueError:
        assert read(text, JSON, cut) is None
    else:
        assert read(text, JSON, cut) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'"\ud83d\ude00"', r'"\ud83d\ude00"'), (r'"\uD83D"', r'"\ufffd"'),
        (r'"\ude00x"', r'"\ufffdx"'), (r'"\ud83d\ud83d\ude00"', r'"\ufffd\ud83d\ude00"'),
        (r'"\ud83d\n"', r'"\ufffd\n"'), (r'["\ud83dx", "\ude00"]', r'["\ufffdx", "\ufffd"]'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", [1, 4, 100])
@pytest.mark.parametrize("notation", [JSON, PYTHON])
def test_half_of_a_surrogate_pair_is_replaced(text, expected, cut, notation):
    assert read(text, notation, cut) == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(value=VALUES, cut=CUTS)
def test_python_comes_out_as_json(value, cut):
    text = read(repr(value), PYTHON, cut)
    assert text is not None
    assert json.loads(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "''", '""', "''''''", '"""a""b"""', "'''it's\n'''", r"'\''", r'"\"\\"', r"'\x41\101\0'",
        r"'\u00e9\U0001F600'", "'a\\\nb'", "(1, 2,)", "()", "[1,]", "{1: 'a', 'b': (),}",
        "1_000", "-1.5e-3", ".5", "5.", "+7", "00", "{'a': {'b': [True, None]}}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", [1, 2, 100])
def test_pythons_notation_means_what_it_does_in_python(text, cut):
    value = ast.literal_eval(text)
    expected = json.loads(json.dumps(value))
    found = read(text, PYTHON, cut)
    assert found is not None
    assert json.loads(found) == expected


@pytest.mark.parametrize(
    "text", ["f(1)", "a", "{1, 2}", "[1 2]", "{'a'}", "[,]", "1 + 2", r"'\xZZ'", r"'\U00110000'"]
)
def test_what_is_no_literal_is_refused(text):
    assert read(text, PYTHON) is None


SCHEMA = {
    "type": "object",
    "$defs": {"size": {"type": "integer"}, "ring": {"$ref": "#/$defs/ring"}},
    "properties": {
        "string": {"type": "string"},
        "integer": {"type": "integer"},
        "number": {"type": "number"},
        "boolean": {"type": "boolean"},
        "object": {"type": "object"},
        "array": {"type": "array"},
        "either": {"type": ["string", "integer"]},
        "nullable": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "referred": {"$ref": "#/$defs/size"},
        "ring": {"$ref": "#/$defs/ring"},
        "enum": {"enum": ["a", 1]},
        "const": {"const": 5},
        "odd": 7,
    },
}


@pytest.mark.parametrize(
    ("parameter", "text", "expected"),
    [
        ("string", "12", "12"), ("string", "", ""), ("string", '{"a": 1}', '{"a": 1}'),
        ("string", 'q"\\\n\t', 'q"\\\n\t'), ("integer", " 12 ", 12), ("integer", "x", "x"),
        ("integer", "", ""), ("number", "1.50", 1.5), ("boolean", "True", True),
        ("boolean", "false", False), ("object", "{'a': None}", {"a": None}),
        ("object", '{"a": [1, 2]}', {"a": [1, 2]}), ("object", "{a}", "{a}"),
        ("array", "('a',)", ["a"]), ("either", "12", 12), ("either", "12.5", "12.5"),
        ("either", "true", "true"), ("nullable", "null", None), ("nullable", "12", "12"),
        ("nullable", "None", "None"), ("referred", "7", 7), ("ring", "7", 7), ("enum", "a", "a"),
        ("enum", "1", 1), ("const", "5", 5), ("odd", "[1]", [1]), ("unknown", "7", 7),
        ("unknown", "7 up", "7 up"), ("unknown", '"quoted"', '"quoted"'), ("unknown", "tr", "tr"),
        ("unknown", "True", "True"), ("unknown", "9007199254740993", 9007199254740993),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", [1, 100])
def test_a_parameter_is_what_its_schema_says(parameter, text, expected, cut):
    value = ParameterValue(types_of({"f": SCHEMA}, "f", parameter), trim=False)
    parts = [value.push(text[start : start + cut]) for start in range(0, len(text), cut)]
    found = json.loads("".join(parts) + value.finish())
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "tools", [{}, {"f": {}}, {"f": {"properties": []}}, {"f": {"properties": {"a": 1}}}]
)
def test_a_tool_without_a_usable_schema_says_nothing(tools):
    assert types_of(tools, "f", "a") == frozenset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("\na\n", "a"), ("\n\na\n\n", "\na\n"), ("a", "a"), ("\n", ""), ("\n\n", ""), ("", "")],
)
@pytest.mark.parametrize("cut", [1, 100])
def test_one_line_feed_at_either_side_belongs_to_the_format(text, expected, cut):
    value = ParameterValue(frozenset({"string"}), trim=True)
    parts = [value.push(text[start : start + cut]) for start in range(0, len(text), cut)]
    assert json.loads("".join(parts) + value.finish()) == expected
