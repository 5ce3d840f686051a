"""What a model's folder may hold, and what is said of one that is odd."""

from __future__ import annotations

import json
import shutil

import pytest
from tokenwire_worker.model_files import (
    ModelError,
    read_eos_token_ids,
    read_limits,
    read_text_files,
)

from tests.services.processes import MODEL

TOKENIZER = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}


def folder_of(path, **files):
    """Writes files, of which a value that is no text is written as JSON."""
    for name, value in {"tokenizer": TOKENIZER, **files}.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (path / f"{name}.json").write_text(text)
    return path


@pytest.mark.parametrize(
    "sound",
    [
        TOKENIZER,
        {**TOKENIZER, "added_tokens": None},
        {**TOKENIZER, "added_tokens": [{"id": 2, "content": "</s>", "special": True}]},
        {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1.5]]}},
    ],
    ids=["plain", "null", "added", "unigram"],
)
def test_a_tokenizer_of_any_kind_is_taken(tmp_path, sound):
    files = read_text_files(folder_of(tmp_path, tokenizer=sound))
    assert json.loads(files.files[0].data) == sound


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ("", "can't be read as JSON"),
        ("{", "can't be read as JSON"),
        ("[" * 100_000, "can't be read as JSON"),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        ("Infinity", "no JSON object"),
        ({}, "no model.vocab"),
        ({"model": [1]}, "no model.vocab"),
        ({"model": {"vocab": 3}}, "no model.vocab"),
        ({"model": {"vocab": {}}}, "model.vocab"),
        ({"model": {"vocab": {"a": "0"}}}, "model.vocab"),
        ({"model": {"vocab": {"a": -1}}}, "model.vocab"),
        ({"model": {"vocab": {"a": True}}}, "model.vocab"),
        ({"model": {"vocab": ["a"]}}, "model.vocab"),
        ({**TOKENIZER, "added_tokens": {"a": 1}}, "added_tokens"),
        ({**TOKENIZER, "added_tokens": ["a"]}, "added_tokens"),
        ({**TOKENIZER, "added_tokens": [{"id": 1}]}, "added_tokens"),
        ({**TOKENIZER, "added_tokens": [{"id": None, "content": "a"}]}, "added_tokens"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_tokenizer_is_named(tmp_path, odd, says):
    with pytest.raises(ModelError, match=says) as raised:
        read_text_files(folder_of(tmp_path, tokenizer=odd))
    assert str(tmp_path / "tokenizer.json") in str(raised.value)
    assert len(str(raised.value)) < 500


def test_what_is_odd_in_another_text_file_is_not_the_workers_to_judge(tmp_path):
    odd = folder_of(tmp_path, tokenizer_config='{"chat_template": [1]}', special_tokens_map="[]")
    assert len(read_text_files(odd).files) == 3


def test_each_place_of_a_chat_template_is_sent(tmp_path):
    folder = folder_of(tmp_path, chat_template={}, tokenizer_config={})
    (folder / "chat_template.jinja").write_text("A")
    more = folder / "additional_chat_templates"
    (more / "b.jinja").mkdir(parents=True)
    for name in ("tool_use.jinja", "a.jinja", "notes.txt"):
        (more / name).write_text(name)
    sent = {file.name: file.data for file in read_text_files(folder).files}
    assert list(sent) == [
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json",
        "additional_chat_templates/a.jinja", "additional_chat_templates/tool_use.jinja",
    ]  # fmt: skip
    assert sent["additional_chat_templates/tool_use.jinja"] == b"tool_use.jinja"


CONFIG = {"vocab_size": 10, "max_position_embeddings": 64, "eos_token_id": 2}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[]", "no JSON object"),
        ('{"vocab_size": Infinity}', "vocab_size"),
        ({**CONFIG, "vocab_size": True}, "vocab_size"),
        ({**CONFIG, "vocab_size": 0}, "vocab_size"),
        ({**CONFIG, "vocab_size": 2**40}, "vocab_size"),
        (
            '{"vocab_size": 9, "max_position_embeddings": Infinity}',
            "max_position_embeddings is inf",
        ),
        ({**CONFIG, "max_position_embeddings": "64"}, "max_position_embeddings is '64'"),
        ({**CONFIG, "max_position_embeddings": -1}, "max_position_embeddings is -1"),
        ({**CONFIG, "max_position_embeddings": 2**70}, "max_position_embeddings is 118"),
        ({"vocab_size": 9}, "does not tell max_position_embeddings"),
        ({**CONFIG, "eos_token_id": "2"}, "config.json: eos_token_id has '2'"),
        ({**CONFIG, "eos_token_id": [2, None]}, "eos_token_id has None"),
        ({**CONFIG, "eos_token_id": [2, -1]}, "eos_token_id has -1"),
        ({**CONFIG, "eos_token_id": True}, "eos_token_id has True"),
        ({**CONFIG, "eos_token_id": {"id": 2}}, "eos_token_id has {'id': 2}"),
        ({**CONFIG, "eos_token_id": "x" * 9999}, "eos_token_id has 'xxx"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_odd_config_is_named_with_its_value(tmp_path, config, says):
    with pytest.raises(ModelError) as raised:
        read_limits(folder_of(tmp_path, config=config))
    assert says in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("eos", "read"),
    [(2, (2,)), ([3, 2, 3], (3, 2)), (None, (2,)), ([], (2,)), (0, (0,))],
)
def test_end_of_sequence_ids_are_generation_configs_before_configs(tmp_path, eos, read):
    folder = folder_of(tmp_path, config=CONFIG, generation_config={"eos_token_id": eos})
    assert read_eos_token_ids(folder) == read


@pytest.mark.parametrize("odd", ["Infinity", '"</s>"', "[1.5]", "[true]"])
def test_an_odd_generation_config_is_named(tmp_path, odd):
    folder = folder_of(tmp_path, config=CONFIG, generation_config=f'{{"eos_token_id": {odd}}}')
    with pytest.raises(ModelError, match=r"generation_config\.json: eos_token_id has"):
        read_eos_token_ids(folder)


def test_a_context_in_scientific_notation_is_a_number(tmp_path):
    config = '{"vocab_size": 10, "max_position_embeddings": 1e3}'
    assert read_limits(folder_of(tmp_path, config=config)).context_tokens == 1000


def test_a_worker_with_no_tokenizer_in_its_file_exits_with_the_files_name(main_here, tmp_path):
    model = tmp_path / "m"
    shutil.copytree(MODEL, model)
    (model / "tokenizer.json").write_text('{"version": "1.0"}')
    ended = main_here("tokenwire_worker", "--model", str(model), "--listen", "127.0.0.1:0")
    ended.check_refused("tokenizer.json is not a tokenizer: it has no model.vocab")
