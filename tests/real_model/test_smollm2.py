"""SmolLM2-135M-Instruct from a GGUF file alone, against what others make of the same file.

Prompts are compared with what llama.cpp and transformers make of them (recorded.json), texts with a
float32 forward pass in numpy.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.real_model.reference import Reference

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())

PROMPTS = [
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):\n",
    "Water boils at",
    "The three primary colours are",
    "In 1969, the first",
    "Dear Sir or Madam,",
    "1, 2, 3, 4,",
]

END = {0, 2}


@pytest.fixture(scope="session")
def reference(served):
    return Reference(served)


def greedy(client, prompt, max_tokens=24):
    (answer,) = client.generate(prompt, temperature=0, max_tokens=max_tokens).sequences
    return answer


def test_the_model_is_what_the_file_says(client):
    (model,) = client.models()
    assert (model.context_tokens, model.vocabulary_size) == (8192, 49152)


def test_texts_become_the_ids_that_others_give(client):
    for text, ids in RECORDED["ids"].items():
        assert client.tokenize(text, add_special_tokens=True).token_ids == ids
        assert client.detokenize(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("chat", RECORDED["chats"], ids=["one turn", "several turns"])
def test_chats_become_the_prompts_that_others_give(client, chat):
    rendered = client.render_chat(chat["messages"])
    assert rendered.text == chat["prompt"]
    assert rendered.token_ids == client.tokenize(chat["prompt"]).token_ids


def test_paris(client):
    assert greedy(client, "The capital of France is").text.startswith(" Paris")
    (answer,) = client.generate(
        chat=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=40,
    ).sequences
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"


def test_the_weights_that_are_served_are_those_of_the_file(client, model, reference):
    """Q4_1 becomes Q8_0; as OpenVINO computes Q4_1 itself, the divergence is 0.43."""
    ids = client.tokenize(" ".join(PROMPTS)).token_ids
    meant = logprobs(Reference(model), ids)
    divergence = (np.exp(meant) * (meant - logprobs(reference, ids))).sum(axis=-1).mean()
    assert divergence < 0.005


def logprobs(model, ids):
    logits = model.logits(ids).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("prompt", PROMPTS[:4])
def test_greedy_text_is_that_of_the_reference(client, reference, prompt):
    ids = client.tokenize(prompt).token_ids
    made = greedy(client, prompt).token_ids
    assert reference.logits(ids + made)[len(ids) - 1 : -1].argmax(axis=-1).tolist() == made


def test_eight_at_once_give_what_each_gives_alone(client):
    alone = [greedy(client, prompt).token_ids for prompt in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        together = list(pool.map(lambda prompt: greedy(client, prompt).token_ids, PROMPTS))
    assert together == alone


def test_a_long_prompt_and_its_prefix_again(client):
    facts = "".join(f"Box {each} holds the number {each * 7 + 3}. " for each in range(90))
    prompt = facts + "The capital of France is"
    assert len(client.tokenize(prompt).token_ids) > 1000
    first, first_s = timed(client, prompt)
    again, again_s = timed(client, prompt)
    assert first == again
    assert again_s < first_s / 3, "KV blocks of the prompt are found again"


def timed(client, prompt):
    began_s = time.monotonic()
    ids = greedy(client, prompt, max_tokens=4).token_ids
    return ids, time.monotonic() - began_s
