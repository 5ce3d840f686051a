"""JSON Schemas: some as people and libraries write them, and any as hypothesis finds them."""

from __future__ import annotations

from hypothesis import strategies as st

_STEP = {
    "type": "object",
    "properties": {"explanation": {"type": "string"}, "output": {"type": "string"}},
    "required": ["explanation", "output"],
    "additionalProperties": False,
}

EVERYDAY = {
    "person": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 80},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "email": {"type": "string", "format": "email"},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "steps": {
        "$defs": {"step": _STEP},
        "type": "object",
        "properties": {
            "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}},
            "answer": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["steps", "answer"],
        "additionalProperties": False,
    },
    "tool": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "City, e.g. Zürich"},
            "unit": {"type": "string", "enum": ["°C", "°F"]},
            "days": {"type": ["integer", "null"], "exclusiveMinimum": 0, "default": None},
        },
        "required": ["location"],
    },
    "pydantic": {
        "$defs": {
            "Cat": {
                "properties": {
                    "kind": {"const": "cat", "default": "cat", "title": "Kind", "type": "string"},
                    "lives": {"default": 9, "title": "Lives", "type": "integer"},
                },
                "title": "Cat",
                "type": "object",
            },
            "Dog": {
                "properties": {
                    "kind": {"const": "dog", "default": "dog", "title": "Kind", "type": "string"},
                    "breed": {"title": "Breed", "type": "string"},
                },
                "required": ["breed"],
                "title": "Dog",
                "type": "object",
            },
        },
        "properties": {
            "pet": {
                "discriminator": {
                    "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"},
                    "propertyName": "kind",
                },
                "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
                "title": "Pet",
            },
            "home": {
                "anyOf": [
                    {
                        "maxItems": 2,
                        "minItems": 2,
                        "prefixItems": [{"type": "number"}, {"type": "number"}],
                        "type": "array",
                    },
                    {"type": "null"},
                ],
                "default": None,
            },
            "counts": {"additionalProperties": {"type": "integer"}, "type": "object"},
            "colours": {"items": {"enum": ["r", "g", "b"]}, "type": "array", "uniqueItems": True},
        },
        "required": ["pet"],
        "title": "Owner",
        "type": "object",
    },
    "tree": {
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "children": {"type": "array", "items": {"$ref": "#"}},
        },
        "required": ["value"],
        "additionalProperties": False,
    },
    "merged": {
        "allOf": [
            {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
            {"properties": {"id": {"minimum": 10}, "note": {"type": "string"}}},
        ]
    },
    "named": {
        "type": "object",
        "patternProperties": {"^x-": {"type": "integer"}},
        "properties": {"année 5": {"type": "null"}},
        "additionalProperties": False,
    },
    "open": {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "idea": {"type": "string"}},
        "additionalProperties": {"type": "boolean"},
        "required": ["id"],
    },
    "some": {
        "type": "object",
        "properties": {name: {"type": "null"} for name in "abc"},
        "minProperties": 1,
        "maxProperties": 2,
        "additionalProperties": False,
    },
    "dates": {
        "type": "array",
        "items": {"type": "string", "format": "date-time"},
        "minItems": 1,
    },
}

VALID = {
    "person": [
        {"name": "Ann", "age": 7},
        {"name": 'é"\\\n', "age": 150, "score": 0.5, "tags": ["a", ""]},
        {"name": "x", "age": 0, "email": "a.b@example.com", "tags": []},
    ],
    "steps": [
        {"steps": [], "answer": None},
        {"steps": [{"explanation": "1 + 1", "output": "2"}] * 2, "answer": "2"},
    ],
    "tool": [{"location": "Genève"}, {"location": "Bern", "unit": "°C", "days": 3}],
    "pydantic": [
        {"pet": {"kind": "cat"}, "home": [1, 2.5], "counts": {"a": 1, "b": -2}},
        {"pet": {"kind": "dog", "breed": "Akita"}, "colours": ["r", "b"]},
    ],
    "tree": [{"value": 1}, {"value": 1, "children": [{"value": 2, "children": []}, {"value": 3}]}],
    "merged": [{"id": 10}, {"id": 999, "note": ""}],
    "named": [{}, {"année 5": None, "x-": 1, "x-é": 2}],
    "open": [{"id": 1}, {"id": 1, "idea": "x", "i": True, "ide": False, "ideas": True, "": True}],
    "some": [{"a": None}, {"b": None, "c": None}],
    "dates": [["2024-02-29T23:59:59Z"], ["1999-12-31T00:00:00.5+01:00"]],
}

_TEXT = st.characters(exclude_categories=["Cs"], exclude_characters="\0")

LEAVES = [
    ({"type": "integer", "minimum": -40, "maximum": 1234}, st.integers(-40, 1234)),
    ({"type": "integer", "exclusiveMinimum": -1}, st.integers(0, 10**18)),
    ({"type": "integer", "multipleOf": 25, "minimum": 0, "maximum": 100}, st.sampled_from([0, 75])),
    ({"type": "string", "minLength": 1, "maxLength": 20}, st.text(_TEXT, min_size=1, max_size=20)),
    ({"type": "string"}, st.text(_TEXT)),
    ({"type": "boolean"}, st.booleans()),
    ({"enum": ["é", 'a"b\\c\n', None, 1.5]}, st.sampled_from(["é", 'a"b\\c\n', None, 1.5])),
    (
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
        st.lists(st.integers(-(10**18), 10**18), min_size=1, max_size=3),
    ),
    (
        {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[a-zß]+$"}]},
        st.one_of(st.none(), st.text("abzß", min_size=1)),
    ),
    (
        {"type": "number", "minimum": -2.5, "exclusiveMaximum": 40},
        st.integers(-2500, 39_999)
        .map(lambda number: number / 1000)
        .filter(lambda n: str(n) != "-0.0"),
    ),
]
"""Schemas, and values that are all valid for them."""

_NAMES = st.sampled_from(["a", "b", "é", "x-1", "", "kind", "a b"])
_PATTERNS = st.sampled_from(
    [
        *("^a", "b$", "^[a-z]+$", "^a|b$", "a.b", "[^a]", r"^x-\d{2,3}$", r"\w+", "^(?:ab|cd)*$"),
        *("^.{2,4}$", "(a|^b)c$", r"\S", "^$", "é", r'["\\]+', r"^[^@]+@[a-z]+\.[a-z]{2,}$"),
    ]
)
_TYPES = st.sampled_from(
    ["string", "integer", "number", "object", "array", "null", "boolean"],
)
_BOUNDS = st.one_of(
    st.integers(-30, 30),
    st.floats(-30, 30, allow_nan=False).map(lambda number: round(number, 2)),
    st.sampled_from([0.1, 1e-7, 1e22, -1e19, 2**53 + 1, 1e5]),
)
_VALUES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(-20, 20), st.text('aé"\\\n😀ÿ5', max_size=4)),
        st.floats(-5, 5, allow_nan=False).map(lambda number: round(number, 3)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_NAMES, inner, max_size=3)
    ),
    max_leaves=4,
)


def _keywords(inner):
    return {
        "type": st.one_of(_TYPES, st.lists(_TYPES, min_size=1, max_size=3, unique=True)),
        "enum": st.lists(_VALUES, min_size=1, max_size=4),
        "const": _VALUES,
        **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _BOUNDS),
        "multipleOf": st.sampled_from([1, 2, 3, 5, 10, 0.5]),
        "minLength": st.integers(0, 4),
        "maxLength": st.integers(0, 9),
        "pattern": _PATTERNS,
        "format": st.sampled_from(["date", "uuid", "ipv4", "email", "x"]),
        "items": inner,
        "prefixItems": st.lists(inner, min_size=1, max_size=3),
        "minItems": st.integers(0, 3),
        "maxItems": st.integers(0, 4),
        "uniqueItems": st.booleans(),
        "properties": st.dictionaries(_NAMES, inner, max_size=3),
        "required": st.lists(_NAMES, max_size=2, unique=True),
        "additionalProperties": inner,
        "patternProperties": st.dictionaries(_PATTERNS, inner, max_size=2),
        "propertyNames": inner,
        "minProperties": st.integers(0, 2),
        "maxProperties": st.integers(0, 4),
        **{name: st.lists(inner, min_size=1, max_size=3) for name in ("anyOf", "oneOf", "allOf")},
        "$ref": st.sampled_from(["#/$defs/d", "#/$defs/e"]),
        "not": st.sampled_from([{}, False, True]),
        "title": st.just("t"),
    }


def schemas():
    """Any schemas, of keywords that go together and of keywords that do not."""

    def wider(inner):
        keywords = _keywords(inner)

        def of(names):
            return st.fixed_dictionaries({name: keywords[name] for name in names})

        alike = [
            *(["type", "properties", "required"], ["type", "items", "minItems", "maxItems"]),
            *(["properties", "required", "additionalProperties"], ["type", "minimum", "maximum"]),
            ["type", "pattern", "maxLength", "minLength"],
        ]
        names = st.lists(st.sampled_from(sorted(keywords)), min_size=1, max_size=4, unique=True)
        return st.one_of(names.flatmap(of), st.sampled_from(alike).flatmap(of), st.booleans())

    one = st.recursive(st.one_of(st.just({}), _TYPES.map(lambda name: {"type": name})), wider)
    return st.tuples(one, one, one).map(
        lambda three: (
            three[0]
            if isinstance(three[0], bool)
            else {**three[0], "$defs": {"d": three[1], "e": three[2]}}
        )
    )
