"""Guided decoding through both services: the output has its form, and bad forms are refused."""

from __future__ import annotations

import json
import re

import grpc
import pytest

from tests.services.calls import (
    generation,
    refused,
)
from tests.services.prompts import STOP, STORY, chat

SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "good": {"type": "boolean"},
        "digits": {
            "type": "array",
            "items": {"enum": [1, 2, 3]},
            "minItems": 2,
            "maxItems": 3,
        },
    },
    "required": ["colour", "good", "digits"],
    "additionalProperties": False,
}
GRAMMAR = 'root ::= verb " the " noun "!"\nverb ::= "take" | "drop"\nnoun ::= "lamp" | "sword"'


def is_of_the_schema(text: str) -> bool:
    value = json.loads(text)
    return (
        set(value) == {"colour", "good", "digits"}
        and value["colour"] in ("red", "green", "blue")
        and isinstance(value["good"], bool)
        and 2 <= len(value["digits"]) <= 3
        and set(value["digits"]) <= {1, 2, 3}
    )


GUIDES = {
    "json_schema": ({"json_schema": json.dumps(SCHEMA)}, is_of_the_schema),
    "json_object": ({"json_object": {}}, lambda text: isinstance(json.loads(text), dict)),
    "regex": (
        {"regex": r"[a-f]{3}-\d{4}(!|\?)"},
        lambda text: re.fullmatch(r"[a-f]{3}-\d{4}(!|\?)", text),
    ),
    "grammar": (
        {"grammar": GRAMMAR},
        lambda text: re.fullmatch("(take|drop) the (lamp|sword)!", text),
    ),
    "choice": (
        {"choice": {"options": ["a.b*c", "yes (sir)", "no"]}},
        lambda text: text in ("a.b*c", "yes (sir)", "no"),
    ),
}


@pytest.mark.parametrize("form", GUIDES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guided_output_has_its_form(frontend, form, temperature):
    guide, has_the_form = GUIDES[form]
    what = generation(
        chat('Answer with JSON such as {"a": 1}.'),
        400,
        guided=guide,
        # JSON allows white space without end, of which a small model may tire only by a penalty.
        sampling={"temperature": temperature, "seed": 5, "frequency_penalty": 2.0},
        stop={"ignore_eos": False},
    )
    streamed = frontend.stream(what)
    assert has_the_form(streamed.text()), streamed.text()
    assert streamed.reason == STOP
    assert frontend.generate(what).sequences[0].text == streamed.text()


def test_ignore_eos_does_not_go_with_a_guide(frontend):
    """The end of the form is an end of sequence, so a guided output that goes on has no form."""
    what = generation(STORY, 10, guided={"regex": "a+"}, stop={"ignore_eos": True})
    assert refused(lambda: frontend.stream(what)).fields == ["generation.stop.ignore_eos"]


@pytest.mark.parametrize(
    "guide",
    [
        {"json_schema": "{not json"},
        {"json_schema": '{"type": "no such type"}'},
        {"regex": "(unclosed"},
        {"grammar": "no grammar at all"},
        {"grammar": 'start ::= "no rule named root"'},
    ],
    ids=str,
)
def test_a_guide_that_cannot_be_compiled_is_refused_by_its_field(frontend, guide):
    what = generation(STORY, 10, guided=guide, stop={"ignore_eos": False})
    [form] = guide
    for entry, root in ((frontend.generate, "generation"), (frontend.stream, "generation")):
        refusal = refused(lambda entry=entry: entry(what))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.fields == [f"{root}.guided.{form}"]
        assert refusal.info.domain == "tokenwire"
    assert frontend.stream(generation(STORY, 5)).ids()
