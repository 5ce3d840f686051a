"""JSON Schema as a grammar: what is refused and where, what is matched, and that it is valid."""

from __future__ import annotations

import json
import random
import time

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenwire_worker.engines.guides.prepare import GuideError, grammar_text
from tokenwire_worker.engines.port import Ability, Guide

from tests.engines.guides.outputs import Outputs
from tests.engines.guides.schemas import EVERYDAY, LEAVES, VALID, schemas


def outputs(schema) -> Outputs:
    return Outputs(grammar_text(Guide(Ability.GUIDED_JSON_SCHEMA, json.dumps(schema))))


def refusal(schema) -> str:
    with pytest.raises(GuideError) as refused:
        outputs(schema)
    return str(refused.value)


def fault(schema, text: str) -> str | None:
    """What is wrong with an output, or None."""
    try:
        value = json.loads(text)
    except ValueError:
        return f"{text!r} is no JSON"
    found = next(jsonschema.Draft202012Validator(schema).iter_errors(value), None)
    return None if found is None else f"{text!r}: {found.message}"


# --- whatever is accepted is honoured -------------------------------------------------------------


@pytest.mark.parametrize("name", EVERYDAY)
def test_outputs_of_everyday_schemas_are_valid(name):
    made = outputs(EVERYDAY[name])
    rng = random.Random(name)
    for _ in range(60):
        assert fault(EVERYDAY[name], made.draw(rng)) is None


@pytest.mark.parametrize("name", EVERYDAY)
def test_everyday_schemas_leave_room_for_what_is_valid(name):
    made = outputs(EVERYDAY[name])
    for value in VALID[name]:
        jsonschema.validate(value, EVERYDAY[name])
        for separators in ((", ", ": "), (",", ":")):
            text = json.dumps(value, ensure_ascii=False, separators=separators)
            assert made.has(text), text


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(schemas(), st.integers(0, 2**32))
def test_outputs_of_any_schema_are_valid_or_it_is_refused(schema, seed):
    try:
        made = outputs(schema)
    except GuideError:
        return
    rng = random.Random(seed)
    for _ in range(5):
        assert fault(schema, made.draw(rng, 40)) is None


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.text('abé "', max_size=3), st.sampled_from(LEAVES), max_size=4), st.data()
)
def test_nothing_is_left_out_of_types_bounds_lengths_and_enumerations(leaves, data):
    schema = {
        "type": "object",
        "properties": {name: leaf for name, (leaf, _) in leaves.items()},
        "required": list(leaves),
        "additionalProperties": False,
    }
    value = {name: data.draw(values) for name, (_, values) in leaves.items()}
    assert outputs(schema).has(json.dumps(value, ensure_ascii=False))


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (0, 9), (-5, 120), (37, 1005), (-1000, -37), (99, 101), (10, 100)]
)
def test_integers_between_bounds_are_all_of_them(low, high):
    made = outputs({"type": "integer", "minimum": low, "maximum": high})
    found = {number for number in range(low - 200, high + 200) if made.has(str(number))}
    assert found == set(range(low, high + 1))
    assert not made.has(f"0{high}")
    assert not made.has("-0")


@pytest.mark.parametrize(
    "schema",
    [
        {"minimum": 0, "maximum": 1},
        {"minimum": 1.5},
        {"maximum": 2.5},
        {"exclusiveMinimum": 3, "maximum": 3.5},
        {"exclusiveMinimum": 0.1, "exclusiveMaximum": 0.3},
        {"exclusiveMaximum": 1},
        {"minimum": -1e-9, "maximum": 1e-9},
        {"minimum": 123456789012345, "maximum": 123456789012346},
        {"exclusiveMinimum": 1e16, "exclusiveMaximum": 1.0001e16},
        {"minimum": 9007199254740993},
        {"maximum": -12.75},
    ],
)
def test_numbers_between_bounds(schema):
    made = outputs({"type": "number", **schema})
    rng = random.Random(1)
    for _ in range(300):
        assert fault(schema, made.draw(rng, 200)) is None


def test_decimals_between_bounds_are_matched():
    made = outputs({"type": "number", "minimum": 0.25, "exclusiveMaximum": 12.5})
    for text in ("0.25", "0.250", "0.3", "1", "1.0", "9.99", "10", "12", "12.4999"):
        assert made.has(text), text
    for text in ("0", "0.2", "0.2499", "12.5", "12.50", "13", "100", "00.3", "1.", "-1"):
        assert not made.has(text), text


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "at"),
    [
        ({"not": {"type": "string"}}, "#/not"),
        ({"type": "object", "properties": {"a": {"not": {"const": 1}}}}, "#/properties/a/not"),
        ({"items": {"uniqueItems": True, "items": {"type": "string"}}}, "#/items/uniqueItems"),
        ({"type": "array", "contains": {}}, "#/contains"),
        ({"anyOf": [{}, {"if": {}, "then": {"type": "null"}}]}, "#/anyOf/1/if"),
        ({"dependentRequired": {"a": ["b"]}}, "#/dependentRequired"),
        ({"type": "object", "unevaluatedProperties": False}, "#/unevaluatedProperties"),
        ({"$ref": "https://example.com/x"}, "#/$ref"),
        ({"$ref": "#/$defs/none"}, "#/$ref"),
        ({"$defs": {"a/b": {"not": {"const": 1}}}, "$ref": "#/$defs/a~1b"}, "#/$defs/a~1b/not"),
        ({"type": "number", "multipleOf": 0.1}, "#/multipleOf"),
        ({"type": "integer", "multipleOf": 7}, "#/multipleOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf"),
        ({"type": "string", "pattern": "(?=a)"}, "#/pattern"),
        ({"type": "string", "pattern": "a\\b"}, "#/pattern"),
        ({"allOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, "#/allOf/"),
        ({"type": "object", "minProperties": 3}, "no output could be complete"),
        ({"type": "array", "items": [{"type": "null"}]}, "#/items"),
        ({"type": "text"}, "#/type"),
        ({"type": "string", "minLength": -1}, "#/minLength"),
        ({"enum": "abc"}, "#/enum"),
        ({"properties": {"a": 1}}, "#/properties/a"),
        ({"anyOf": []}, "#/anyOf"),
        ({"const": "\ud800"}, "#/const"),
        ({"$ref": "#"}, "#"),
        (False, "no output could be complete"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no output could be complete"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_path(schema, at):
    assert at in refusal(schema)


def test_what_is_never_reached_is_not_refused():
    outputs({"type": "null", "$defs": {"x": {"not": {"const": 1}}}, "items": {"contains": {}}})


@pytest.mark.parametrize(
    "schema",
    [
        {"title": "T", "description": "d", "examples": [1], "default": 2, "deprecated": True},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://x/y"},
        {"x-order": 3, "nullable": True, "discriminator": {"propertyName": "kind"}},
        {"type": "string", "format": "something-else"},
        {"uniqueItems": False, "type": "array"},
        {"not": False},
    ],
)
def test_annotations_are_taken(schema):
    outputs(schema)


@pytest.mark.parametrize(
    "text", ["no json", "[]", "1", '"a"', "NaN", "[" * 2000, '{"const": ' + "1" * 1001 + "}"]
)
def test_what_is_no_schema_is_refused(text):
    with pytest.raises(GuideError):
        grammar_text(Guide(Ability.GUIDED_JSON_SCHEMA, text))


def test_a_value_that_never_ends_is_refused_or_cut_off():
    loop = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert refusal({**loop, "required": ["next"]}) == "no output could be complete"
    made = outputs({"anyOf": [{**loop, "required": ["next"]}, {"type": "null"}]})
    assert made.has('{"next": null}')


# --- bounds ---------------------------------------------------------------------------------------


def test_white_space_is_one_space_after_a_colon_and_a_comma():
    made = outputs({"type": "object"})
    assert made.has('{"a": [1, 2], "b":{}}')
    for text in ('{ "a":1}', '{"a" :1}', '{"a":  1}', '{"a":\n1}', "{ }", '{"a":[1 ]}', " {}"):
        assert not made.has(text), text


def test_values_of_any_kind_nest_so_deep_and_no_deeper():
    made = outputs({})
    assert made.has("[" * 8 + "]" * 8)
    assert not made.has("[" * 9 + "]" * 9)


def test_references_that_multiply_make_no_more_rules():
    levels = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    schema = {"$defs": {**levels, "d60": {"type": "null"}}, "$ref": "#/$defs/d0"}
    assert "alternatives" in refusal(schema)
    objects = {
        f"d{n}": {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/d{n + 1}"} for name in "abcd"},
        }
        for n in range(60)
    }
    text = outputs({"$defs": {**objects, "d60": {"type": "null"}}, "$ref": "#/$defs/d0"}).text
    assert len(text) < 100_000


@pytest.mark.parametrize("count", [1, 15, 16, 17, 100, 257, 5000])
def test_lengths_up_to_thousands_are_short_to_say(count):
    made = outputs({"type": "string", "minLength": 1, "maxLength": count})
    assert len(made.text) < 3000
    assert made.has(f'"{"é" * count}"')
    assert not made.has(f'"{"a" * (count + 1)}"')
    assert not made.has('""')


def test_surrogates_come_in_pairs_only():
    made = outputs({"type": "string", "maxLength": 1})
    assert made.has(r'"\ud83d\uDE00"')
    for text in (r'"\ud83d"', r'"\ude00"', r'"\ud83da"', r'"\ud83d\ud83d"', '"\n"', r'"\x41"'):
        assert not made.has(text), text


def test_two_thousand_properties_are_translated_in_a_fraction_of_a_second():
    properties = {f"p{number}": {"type": "string"} for number in range(2000)}
    for required in ([], list(properties)):
        schema = {"type": "object", "properties": properties, "required": required}
        text = json.dumps({**schema, "additionalProperties": False})
        began_s = time.thread_time()
        grammar_text(Guide(Ability.GUIDED_JSON_SCHEMA, text))
        assert time.thread_time() - began_s < 2, "0.2 s where it was measured"
