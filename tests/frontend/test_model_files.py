"""Whatever a worker sends as a model's text files: it serves, or it is refused with a reason."""

from __future__ import annotations

import json

import pytest
from tokenwire_frontend.models.encoder import Encoder
from tokenwire_frontend.models.files import ModelFilesError, digest, read_files
from tokenwire_frontend.models.process import Jobs, result

from tests.frontend.tokenizer_kinds import byte_level

TOKENIZER = byte_level().to_str().encode()
CONFIG, TEMPLATE, DEFAULTS = (
    "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
)  # fmt: skip


def files(**changed: bytes) -> dict[str, bytes]:
    names = {"config": CONFIG, "template": TEMPLATE, "defaults": DEFAULTS}
    named = {names.get(name, "tokenizer.json"): data for name, data in changed.items()}
    return {"tokenizer.json": TOKENIZER, **named}


ANY_OBJECT_FILE = [
    (b"", "not JSON"),
    (b"[]", "not an object"),
    (b"Infinity", "not an object"),
    (b"null", "not an object"),
    (b'"text"', "not an object"),
    (b"{", "not JSON"),
    (b"\xff\xfe{}", "not UTF-8"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a":' * 100_000, "nested too deeply"),
]

ODD_CONFIGS = [
    (b'{"chat_template": [1]}', "chat_template[0] is not an object"),
    (b'{"chat_template": [{"name": "default"}]}', "chat_template default is not a text"),
    (b'{"chat_template": [{"name": "default", "template": 1}]}', "default is not a text"),
    (b'{"chat_template": [{"template": "x"}]}', "chat_template[0]"),
    (b'{"chat_template": [{"name": "a", "template": "x"}, null]}', "chat_template[1]"),
    (b'{"chat_template": {"default": 1}}', "chat_template default is not a text"),
    (b'{"chat_template": 1}', "neither a text nor a list"),
    (b'{"chat_template": true}', "neither a text nor a list"),
    (json.dumps({"chat_template": "x" * (2**20 + 1)}).encode(), "at most 1048576"),
]

ODD_DEFAULTS = [
    (b'{"top_k": Infinity}', "top_k is inf"),
    (b'{"top_k": 1e999}', "top_k is inf"),
    (b'{"top_k": 99999999999999999999}', "top_k is"),
    (b'{"top_k": ' + b"9" * 400 + b"}", "top_k is"),
    (b'{"top_k": ' + b"9" * 5000 + b"}", "not JSON"),
    (b'{"top_k": -2}', "top_k is -2"),
    (b'{"temperature": NaN}', "temperature is nan"),
    (b'{"temperature": -Infinity}', "temperature is -inf"),
    (b'{"temperature": "hot"}', "temperature is not a number"),
    (b'{"temperature": true}', "temperature is not a number"),
    (b'{"temperature": [1]}', "temperature is not a number"),
    (b'{"top_p": 1.5}', "top_p is 1.5"),
    (b'{"min_p": -0.1}', "min_p is -0.1"),
    (b'{"repetition_penalty": 1e9}', "repetition_penalty is"),
]


@pytest.mark.parametrize(
    ("changed", "name", "reason"),
    [
        *(({"config": data}, CONFIG, reason) for data, reason in ANY_OBJECT_FILE),
        *(({"defaults": data}, DEFAULTS, reason) for data, reason in ANY_OBJECT_FILE),
        *(({"config": data}, CONFIG, reason) for data, reason in ODD_CONFIGS),
        *(({"defaults": data}, DEFAULTS, reason) for data, reason in ODD_DEFAULTS),
        ({"template": b"\xff"}, TEMPLATE, "not UTF-8"),
        ({"template": b"x" * (2**20 + 1)}, TEMPLATE, "at most 1048576"),
        ({"tokenizer": b"\xff"}, "tokenizer.json", "not UTF-8"),
    ],
)  # fmt: skip
def test_an_odd_file_is_refused_by_its_name_and_what_is_odd(changed, name, reason):
    with pytest.raises(ModelFilesError) as refused:
        read_files(files(**changed))
    assert str(refused.value).startswith(name)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 500


def changed_model(**changes: object) -> bytes:
    description = json.loads(TOKENIZER)
    description["model"].update(changes)
    return json.dumps(description).encode()


ODD_TOKENIZERS = {
    "empty": b"",
    "list": b"[]",
    "number": b"Infinity",
    "null": b"null",
    "empty object": b"{}",
    "no vocabulary": b'{"model": {"type": "BPE"}}',
    "unknown model": changed_model(type="Wonder"),
    "a merge of what is not there": changed_model(merges=[["no", "where"]]),
    "ids that are no numbers": changed_model(vocab={"a": "b"}),
    "an id beyond 32 bits": changed_model(vocab={"a": 2**40}, merges=[]),
    "a negative id": changed_model(vocab={"a": -1}, merges=[]),
    "an id that is too high": changed_model(vocab={"a": 2**32 - 1}, merges=[]),
    "nested": b'{"model":' * 100_000,
    "a decoder of another kind": json.dumps({**json.loads(TOKENIZER), "decoder": 7}).encode(),
    "a regex that is none": json.dumps(
        {
            **json.loads(TOKENIZER),
            "pre_tokenizer": {
                "type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False,
            },
        }
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_TOKENIZERS)
def test_an_odd_tokenizer_is_refused(name):
    jobs = Jobs()
    kind, reason = result(lambda: jobs.load("m", {"tokenizer.json": ODD_TOKENIZERS[name]}))
    assert kind == "files"
    assert reason.startswith("tokenizer.json")


def test_a_worker_that_sends_no_tokenizer_is_refused():
    with pytest.raises(ModelFilesError, match=r"no tokenizer\.json"):
        read_files({})


@pytest.mark.parametrize("source", ["{% if %}", "{{ ((", "{{ 'a' * }}", "{% for x in y %}"])
def test_a_template_that_is_none_is_refused(source):
    kind, reason = result(lambda: Jobs().load("m", files(template=source.encode())))
    assert kind == "files"
    assert "not a Jinja template" in reason


def test_a_vocabulary_with_gaps_serves():
    description = json.loads(TOKENIZER)
    description["model"]["vocab"]["far"] = 5000
    encoder = Encoder(json.dumps(description))
    told = encoder.describe(description)
    assert told["vocabulary_size"] < 5000
    assert len(told["tokens"]) == 1


@pytest.mark.parametrize(
    ("given", "templates"),
    [
        (None, {}),
        ("", {}),
        ("A", {"default": "A"}),
        ([], {}),
        ({"default": "A", "rag": "B"}, {"default": "A", "rag": "B"}),
        (
            [
                {"name": "default", "template": "A"},
                {"name": "tool_use", "template": "B"},
                {"name": "default", "template": "C"},
            ],
            {"default": "C", "tool_use": "B"},
        ),
    ],
)
@pytest.mark.parametrize("name", [CONFIG, "chat_template.json"])
def test_a_json_file_has_one_template_or_several(name, given, templates):
    data = json.dumps({"chat_template": given}).encode()
    assert read_files({**files(), name: data}).templates == templates


def test_templates_are_those_of_the_first_place_that_has_any():
    places = {
        "chat_template.json": b'{"chat_template": "E"}',
        CONFIG: b'{"chat_template": [{"name": "tool_use", "template": "D"}]}',
        "additional_chat_templates/tool_use.jinja": b"C",
        TEMPLATE: b"B",
        "additional_chat_templates/default.jinja": b"A",
    }
    seen = []
    given = files()
    for name, data in places.items():
        given[name] = data
        seen.append(read_files(given).templates)
    assert seen == [
        {"default": "E"},
        {"tool_use": "D"},
        {"tool_use": "C"},
        {"default": "B", "tool_use": "C"},
        {"default": "A", "tool_use": "C"},
    ]
    assert read_files(files(config=places[CONFIG], template=b"")).templates == {}


def test_special_tokens_are_texts_whatever_else_ends_alike():
    config = {
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False},
        "add_bos_token": True,
        "odd_token": {"content": 1},
        "pad_token": None,
        "number_token": float("inf"),
        "extra_special_tokens": {"image_token": "<image>", "other": {"content": "<o>"}},
    }
    read = read_files(files(config=json.dumps(config).encode()))
    assert read.special_tokens == {
        "bos_token": "<s>", "eos_token": "</s>", "image_token": "<image>", "other": "<o>",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"bos_token": "A", "eos_token": "B"}, {"bos_token": "C", "eos_token": "B"}),
        ({"bos_token": "A", "added_tokens_decoder": {}}, {"bos_token": "A"}),
        ({}, {"bos_token": "C"}),
    ],
)
def test_the_older_map_of_special_tokens_counts_where_no_added_tokens_are_told(config, tokens):
    given = files(config=json.dumps(config).encode())
    given["special_tokens_map.json"] = b'{"bos_token": {"content": "C", "rstrip": true}}'
    assert read_files(given).special_tokens == tokens


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (1.0, 1.0, 0, 0.0, 1.0)),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1}, (0.6, 0.95, 20, 0.1, 1.0)),
        ({"top_k": -1, "temperature": None}, (1.0, 1.0, 0, 0.0, 1.0)),
        ({"top_k": 50.0, "repetition_penalty": 1}, (1.0, 1.0, 50, 0.0, 1.0)),
        ({"do_sample": False, "temperature": 0.7}, (0.0, 1.0, 0, 0.0, 1.0)),
        ({"eos_token_id": [1, 2], "anything": float("inf")}, (1.0, 1.0, 0, 0.0, 1.0)),
    ],
)
def test_the_models_own_sampling(config, expected):
    defaults = read_files(files(defaults=json.dumps(config).encode())).defaults
    assert (
        defaults.temperature, defaults.top_p, defaults.top_k, defaults.min_p,
        defaults.repetition_penalty,
    ) == expected  # fmt: skip


def test_another_file_is_another_set_of_files():
    sets = [{}, {"a": b""}, {"a": b"b"}, {"ab": b""}, {"a": b"", "b": b""}, {"a": b"x", "b": b"y"}]
    assert len({digest(each) for each in sets}) == len(sets)
