"""Reasoning and tool calls of one sequence, with stops, special tokens and ends of every kind."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from tokenwire_frontend.core.decoder import SequenceEnds
from tokenwire_frontend.core.detokenizer import Detokenizer
from tokenwire_frontend.core.log import Delta, End, Finish, SequenceLog
from tokenwire_frontend.core.parsed_decoder import ParsedDecoder
from tokenwire_frontend.core.parsers.formats import REASONING_FORMATS, TOOL_FORMATS
from tokenwire_frontend.core.parsers.parser import OutputFormat, OutputParser
from tokenwire_frontend.core.stop_matcher import SpecialTokens, StopMatcher, StopStrings
from tokenwire_frontend.core.token_texts import TokenTexts

THOUGHT = "<think>Is it {4}?</think>"
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": "é"}}\n</tool_call>'
EOS, MARK, OTHER = 900, 901, 902
SPECIAL = {EOS: "<eos>", MARK: "<tool_call>", OTHER: "<pad>"}


class Spelling:
    """A vocabulary of single characters, and three special tokens."""

    def __init__(self, skips: bool) -> None:
        self.skips = skips

    def texts(self) -> TokenTexts:
        return TokenTexts(
            lambda ids: "".join(
                "" if self.skips and each in SPECIAL else self.token(each) for each in ids
            ),
            self.token,
            skipped=frozenset(SPECIAL.values() if self.skips else ()),
            decoder={"type": "Fuse"},
        )

    @staticmethod
    def token(token_id: int) -> str:
        return SPECIAL.get(token_id) or chr(token_id)


def decoder_of(
    stop: Sequence[str] = (),
    *,
    in_reasoning: bool = False,
    stop_in_reasoning: bool = False,
    one_call: bool = False,
    min_tokens: int = 0,
    skips: bool = True,
    special: dict[int, str] | None = None,
) -> ParsedDecoder:
    known = {EOS: SPECIAL[EOS], OTHER: SPECIAL[OTHER]} if special is None else special
    form = OutputFormat(TOOL_FORMATS["hermes"], REASONING_FORMATS["think"], known)
    parser = OutputParser(form, "call{}".format, {"add": {}}, in_reasoning=in_reasoning)
    stops = StopStrings(stop, SpecialTokens(SPECIAL) if skips else None) if stop else None
    return ParsedDecoder(
        SequenceLog(0),
        Detokenizer(Spelling(skips).texts()),
        SequenceEnds(
            stop_token_ids=frozenset({EOS}), own_eos_ids=frozenset({EOS}), min_tokens=min_tokens
        ),
        parser,
        form.marks,
        {} if skips else SPECIAL,
        stops=StopMatcher(stops) if stops else None,
        reasoning_stops=StopMatcher(stops) if stops and stop_in_reasoning else None,
        one_call=one_call,
    )


def output(decoder: ParsedDecoder, ids: Sequence[int], finish: Finish = Finish.STOP) -> Delta:
    """Pushes ids in runs of random sizes, ends the sequence, and returns all of it."""
    rng, start = random.Random(len(ids)), 0
    while start < len(ids):
        end = start + max(rng.randint(-7, 7), 1)
        run = ids[start:end]
        if len(run) == 1:
            decoder.push_one(run[0])
        else:
            decoder.push(run)
        start = end
    decoder.finish(finish, EOS if finish is Finish.STOP else None)
    return decoder.log.whole()


def ids_of(text: str) -> list[int]:
    return [ord(each) for each in text]


def calls(delta: Delta) -> list[tuple[int, str, str, str]]:
    return [(each.index, each.id, each.name, each.arguments) for each in delta.calls]


def test_reasoning_text_and_calls_are_told_apart():
    whole = output(decoder_of(), [*ids_of(f"{THOUGHT}\n\nI add.\n{CALL}"), EOS])
    assert whole.reasoning == "Is it {4}?"
    assert whole.text.strip() == "I add."
    assert calls(whole) == [(0, "call0", "add", '{"a": 2, "b": "é"}')]
    assert whole.end == End(Finish.TOOL_CALLS)


def test_a_prompt_may_have_begun_the_reasoning():
    whole = output(decoder_of(in_reasoning=True), ids_of("hm</think>Yes."))
    assert (whole.reasoning, whole.text) == ("hm", "Yes.")
    assert whole.end == End(Finish.STOP)


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.CANCELLED, Finish.TIME_BUDGET])
def test_another_end_than_stop_stays_what_it_is(finish):
    whole = output(decoder_of(), ids_of(CALL), finish)
    assert len(whole.calls) == 1
    assert whole.end == End(finish)


def test_an_unfinished_call_does_not_end_with_tool_calls():
    for size in range(len(CALL)):
        whole = output(decoder_of(), ids_of(CALL[:size]))
        complete = any(call.arguments.endswith("}") for call in whole.calls)
        assert (whole.end.finish is Finish.TOOL_CALLS) <= complete


def test_stop_strings_do_not_count_in_calls_and_count_in_reasoning_when_asked():
    ids = ids_of(f"{THOUGHT}a{CALL}b4c")
    whole = output(decoder_of(["4", '"a"']), ids)
    assert whole.end == End(Finish.STOP, stop="4")
    assert whole.text.replace("\n", "") == "ab"
    assert len(whole.calls) == 1
    early = output(decoder_of(["4"], stop_in_reasoning=True), ids)
    assert (early.reasoning, early.text) == ("Is it {", "")
    assert early.end == End(Finish.STOP, stop="4")
    assert len(early.token_ids) == len("<think>Is it {4")


def test_a_stop_before_min_tokens_is_passed_over():
    whole = output(decoder_of(["b"], min_tokens=3), ids_of("abcb!"))
    assert (whole.text, list(whole.token_ids)) == ("abc", ids_of("abcb"))


def test_one_call_ends_the_sequence():
    decoder = decoder_of(one_call=True)
    assert decoder.push(ids_of(CALL + "\n" + CALL))
    whole = decoder.log.whole()
    assert len(whole.calls) == 1
    assert whole.end == End(Finish.TOOL_CALLS)
    assert len(whole.token_ids) < len(CALL + CALL)


@pytest.mark.parametrize("skips", [True, False])
def test_a_marker_that_is_a_special_token_counts_as_that_token_alone(skips):
    call = ids_of(CALL.removeprefix("<tool_call>"))
    whole = output(decoder_of(skips=skips, special=SPECIAL), [*ids_of("x<tool_call>"), MARK, *call])
    assert whole.text.rstrip() == "x<tool_call>"
    assert len(whole.calls) == 1


@pytest.mark.parametrize(("skips", "text"), [(True, "ab"), (False, "a<pad>b")])
def test_other_special_tokens_are_in_the_text_where_they_are_asked_for(skips, text):
    assert output(decoder_of(skips=skips), [*ids_of("a"), OTHER, *ids_of("b"), EOS]).text == text


def test_a_stop_token_that_the_sequence_outlives_has_its_text():
    decoder = decoder_of(skips=False, special={})
    decoder.push([*ids_of("a"), EOS, *ids_of("b")])
    decoder.finish(Finish.LENGTH)
    assert decoder.log.whole().text == "a<eos>b"


def test_ids_after_the_end_are_passed_over():
    decoder = decoder_of(["!"])
    decoder.push(ids_of("a!b"))
    decoder.push(ids_of("c"))
    decoder.finish(Finish.LENGTH)
    assert (decoder.log.whole().text, decoder.log.token_count) == ("a", 2)
