"""Guides, tried by a process of their own before the engine sees them."""

import asyncio

import pytest
from tokenwire_worker.engines.guides.checker import compiler_checker
from tokenwire_worker.engines.guides.choices import choice_pattern
from tokenwire_worker.engines.port import Ability, Guide, Refused, Untried

from tests.engines import conftest
from tests.engines.tensorrt_llm.conftest import VOCABULARY, generation


@pytest.fixture
def checker(model, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(conftest.STAND_INS["tensorrt_llm"]))
    made = compiler_checker(model, VOCABULARY)
    yield made
    made.close()


def regex(text: str) -> Guide:
    return Guide(Ability.GUIDED_REGEX, text)


def refusal(checker, guide: Guide) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        asyncio.run(checker.check(guide))
    return refused.value.field, refused.value.description


def test_forms_that_compile_pass(checker):
    for guide in (
        Guide(Ability.GUIDED_JSON_SCHEMA, '{"type": "object"}'),
        Guide(Ability.GUIDED_JSON_OBJECT),
        regex("[a-z]+"),
        Guide(Ability.GUIDED_GRAMMAR, 'root ::= "a"'),
        Guide(Ability.GUIDED_CHOICE, options=("yes", "no")),
    ):
        asyncio.run(checker.check(guide))


def test_what_is_wrong_is_told_without_where_it_was_raised(checker):
    assert refusal(checker, regex("unknown")) == ("guide.regex", "EBNF parser error: unknown")


def test_what_is_wrong_with_a_form_is_told_before_it_is_compiled(checker):
    assert refusal(checker, regex("[")) == (
        "guide.regex",
        "unterminated character set, at character 0",
    )
    assert refusal(checker, Guide(Ability.GUIDED_GRAMMAR, 'start ::= "1"')) == (
        "guide.grammar",
        "there is no rule named root",
    )
    field, description = refusal(checker, Guide(Ability.GUIDED_JSON_SCHEMA, "{no json"))
    assert (field, description[:14]) == ("guide.json_schema", "not valid JSON")


def test_what_outputs_cannot_be_held_to_is_refused_by_its_path(checker):
    schema = '{"properties": {"a": {"not": {"type": "null"}}}}'
    assert refusal(checker, Guide(Ability.GUIDED_JSON_SCHEMA, schema)) == (
        "guide.json_schema",
        "'not' is not supported, at #/properties/a/not",
    )


def test_a_form_that_ends_the_compiler_is_refused(checker):
    told = refusal(checker, regex("overflow"))
    assert told == ("guide.regex", "is more than the grammar compiler can take")
    asyncio.run(checker.check(regex("next")))


def test_a_form_whose_masks_cost_too_much_is_refused(checker):
    field, description = refusal(checker, regex("ambiguous"))
    assert field == "guide.regex"
    assert "15 ms of CPU time for each token" in description


def test_bad_forms_are_tried_once(checker):
    for _ in range(2):
        assert refusal(checker, regex("tried"))[1] == "tried 1 times"


def test_without_the_compiler_no_guide_is_taken(checker, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(Untried, match="did not start"):
        asyncio.run(checker.check(regex("a")))


def test_llguidance_is_asked_in_its_own_way(model, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(conftest.STAND_INS["tensorrt_llm"]))
    checker = compiler_checker(model, VOCABULARY, "llguidance")
    try:
        for guide in (
            Guide(Ability.GUIDED_JSON_SCHEMA, '{"multipleOf": 2}'),
            Guide(Ability.GUIDED_JSON_OBJECT),
            regex("[a-z]+"),
            Guide(Ability.GUIDED_CHOICE, options=("yes", "no")),
        ):
            asyncio.run(checker.check(guide))
        assert refusal(checker, regex("["))[1] == "unterminated character set at position 0"
        told = refusal(checker, Guide(Ability.GUIDED_JSON_SCHEMA, '{"not": {}}'))
        assert told == ("guide.json_schema", 'Unimplemented keys: ["not"]')
    finally:
        checker.close()


@pytest.mark.parametrize("compiler", ["xgrammar", "llguidance"])
def test_the_engine_tries_guides_where_it_has_a_compiler(started, monkeypatch, compiler):
    monkeypatch.setenv("PYTHONPATH", str(conftest.STAND_INS["tensorrt_llm"]))
    engine = started("--tensorrt-llm.guided-decoding-backend", compiler)
    assert not engine.engine._llm.args.skip_tokenizer_init
    good, bad = generation(guide=regex("a+")), generation(guide=regex("["))
    asyncio.run(engine.engine.check(good))
    with pytest.raises(Refused):
        asyncio.run(engine.engine.check(bad))
    engine.run(good)
    given = engine.last_request["params"].guided_decoding
    if compiler == "xgrammar":
        assert (given.grammar, given.regex) == ('root ::= "a"+\n', None)
    else:
        assert (given.grammar, given.regex) == (None, "a+")


def test_choices_are_escaped():
    options = ('q"uote', "new\nline", "back\\slash", "a.b*c+?^$|", "{x}[y](z)", "日本")
    pattern = choice_pattern(options)
    import re

    for option in options:
        assert re.fullmatch(pattern, option)
    assert not re.fullmatch(pattern, "aXb")
