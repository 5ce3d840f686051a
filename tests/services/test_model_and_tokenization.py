"""What the model tells of itself, and text to ids and back."""

from __future__ import annotations

import re

import pytest
from tokenwire.frontend.v1 import model_pb2, tokenization_pb2

from tests.services.calls import (
    endless,
    generation,
    read_to_first_token,
)
from tests.services.processes import MODEL_NAME, WAIT_S
from tests.services.prompts import STORY

# --- the rest of the contract --------------------------------------------------------------------


@pytest.mark.parametrize("priority", [-100, 0, 100])
def test_any_priority_within_bounds_is_taken(frontend, priority):
    assert frontend.generate(generation(STORY, 3, priority=priority)).usage.completion_tokens == 3


def test_the_model_may_be_named_or_left_out(frontend):
    assert (
        frontend.generate(generation(STORY, 3, model=MODEL_NAME)).sequences
        == frontend.generate(generation(STORY, 3)).sequences
    )
    request = model_pb2.GetModelRequest(name=MODEL_NAME)
    assert frontend.models.GetModel(request, timeout=WAIT_S).model == frontend.model()


def test_the_model_tells_its_bounds(frontend):
    model = frontend.model()
    listed = frontend.models.ListModels(model_pb2.ListModelsRequest(), timeout=WAIT_S).models
    assert list(listed) == [model]
    assert model.name == MODEL_NAME
    assert model.has_chat_template
    assert model.ready_worker_count == 1
    assert 1 <= model.sequence_count_limit <= 32
    assert 0 < model.prompt_tokens_limit < model.context_tokens
    assert re.fullmatch("[0-9a-f]{64}", model.tokenizer_fingerprint)
    assert all(token < model.vocabulary_size for token in model.eos_token_ids)
    most = frontend.generate(generation(STORY, 2, sequence_count=model.sequence_count_limit))
    assert len(most.sequences) == model.sequence_count_limit


def test_the_worker_is_listed_with_its_load(frontend, worker):
    call = frontend.start(endless(STORY, sequence_count=2))
    read_to_first_token(call)
    worker.wait_for_load(lambda load: load.running_sequences == 2)
    [listed] = frontend.workers()
    assert listed.address == worker.address
    assert listed.state == model_pb2.WORKER_STATE_READY
    assert listed.state_reason == ""
    assert listed.model == MODEL_NAME
    assert listed.engine.startswith("openvino ")
    assert listed.in_flight == 1
    call.cancel()


# --- tokenisation --------------------------------------------------------------------------------

TEXTS = ["Hello, world!", " leading and trailing ", "naïve café ☕ 日本語 🙂", "a\nb\t\0", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_text_goes_to_ids_and_back(frontend, text):
    request = tokenization_pb2.TokenizeRequest(text=text, with_offsets=True)
    answer = frontend.tokenization.Tokenize(request, timeout=WAIT_S)
    assert list(answer.token_ids) == frontend.tokenize(text)
    assert frontend.detokenize(answer.token_ids) == text
    assert len(answer.offset_starts) == len(answer.offset_ends) == len(answer.token_ids)
    places = list(zip(answer.offset_starts, answer.offset_ends, strict=True))
    covered = {place for start, end in places for place in range(start, end)}
    assert all(0 <= start <= end <= len(text) for start, end in places)
    assert covered >= {place for place, character in enumerate(text) if not character.isspace()}


def test_a_stream_of_texts_is_tokenised_in_order(frontend):
    requests = [tokenization_pb2.StreamTokenizeRequest(text=text) for text in TEXTS * 20]
    answers = frontend.tokenization.StreamTokenize(iter(requests), timeout=WAIT_S)
    assert [list(answer.token_ids) for answer in answers] == [
        frontend.tokenize(text) for text in TEXTS
    ] * 20


def test_ids_are_detokenised_as_they_come_in_sequences_of_their_own(frontend):
    texts = {number: text * 3 for number, text in enumerate(TEXTS)}
    pending = {number: frontend.tokenize(text) for number, text in texts.items()}
    requests = []
    while pending:
        for number, ids in list(pending.items()):
            requests.append(
                tokenization_pb2.StreamDetokenizeRequest(
                    sequence=number, token_ids=ids[:1], end=len(ids) <= 1
                )
            )
            pending[number] = ids[1:]
            if len(ids) <= 1:
                del pending[number]
    answers = list(frontend.tokenization.StreamDetokenize(iter(requests), timeout=WAIT_S))
    assert [answer.sequence for answer in answers] == [request.sequence for request in requests]
    joined = dict.fromkeys(texts, "")
    for answer in answers:
        joined[answer.sequence] += answer.text
        assert "\ufffd" not in answer.text
    assert joined == texts
