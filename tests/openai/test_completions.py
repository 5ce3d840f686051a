"""/v1/completions, as OpenAI's client sees it."""

from __future__ import annotations

import pytest
from tokenwire.worker.v1 import execution_pb2 as pb

MODEL = "demo"


async def test_prompts_of_every_form(deployment):
    deployment.says(" Yes.")
    forms = ["Hello", ["Hello"], [300, 301], [[300, 301]]]
    for form in forms:
        got = await deployment.client.completions.create(model=MODEL, prompt=form)
        assert [choice.text for choice in got.choices] == [" Yes."], form
    assert (got.object, got.id[:5]) == ("text_completion", "cmpl-")
    assert [list(asked.prompt_token_ids) for asked in deployment.asked[2:]] == [[300, 301]] * 2
    assert {asked.stopping.max_tokens for asked in deployment.asked} == {16}


@pytest.mark.parametrize("stream", [False, True])
async def test_several_prompts_of_several_sequences(deployment, stream):
    deployment.says(" Yes.")
    ask = {"model": MODEL, "prompt": ["A", "B", "C"], "n": 2, "echo": True, "temperature": 1}
    texts: dict[int, str] = {}
    if stream:
        told = {"include_usage": True}
        async for chunk in await deployment.client.completions.create(
            **ask, stream=True, stream_options=told
        ):
            usage = chunk.usage
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
    else:
        got = await deployment.client.completions.create(**ask)
        usage = got.usage
        texts = {choice.index: choice.text for choice in got.choices}
    assert texts == {
        2 * place + each: f"{text} Yes." for place, text in enumerate("ABC") for each in (0, 1)
    }
    assert usage.prompt_tokens == sum(len(each.prompt_token_ids) for each in deployment.asked)
    assert usage.completion_tokens == 6 * (usage.completion_tokens // 6) > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_of_prompt_and_output(deployment, stream):
    deployment.says(" Yes.", each=1)
    ask = {"model": MODEL, "prompt": "Hello there", "logprobs": 2, "echo": True}
    parts, text = [], ""
    if stream:
        async for chunk in await deployment.client.completions.create(**ask, stream=True):
            text += chunk.choices[0].text
            if chunk.choices[0].logprobs:
                parts.append(chunk.choices[0].logprobs)
    else:
        [choice] = (await deployment.client.completions.create(**ask)).choices
        parts, text = [choice.logprobs], choice.text
    tokens = [each for part in parts for each in part.tokens]
    logprobs = [each for part in parts for each in part.token_logprobs]
    tops = [each for part in parts for each in part.top_logprobs]
    offsets = [each for part in parts for each in part.text_offset]
    assert text == "Hello there Yes."
    # A token that the tokenizer puts before a text has no place in it.
    shown = "".join(tokens)
    assert shown.endswith(text)
    assert (logprobs[0], tops[0]) == (None, None)
    assert set(logprobs[1:]) == {-0.5}
    assert all(
        max(top, key=top.get) == token for token, top in zip(tokens[1:], tops[1:], strict=True)
    )
    assert all(
        shown[place:].startswith(token) for place, token in zip(offsets, tokens, strict=True)
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_the_prompt_alone(deployment, stream):
    """What evaluations ask for to score a text: nothing is generated that anybody sees."""
    ask = {"model": MODEL, "prompt": "Hello there", "max_tokens": 0, "echo": True}
    for generated, reason in ((" Yes.", pb.FINISH_REASON_LENGTH), ("", pb.FINISH_REASON_STOP)):
        deployment.says(generated, reason=reason)
        for top in (None, 1):
            text, parts, choices = "", [], []
            scored = {**ask, "logprobs": top}
            if stream:
                told = {"include_usage": True}
                async for chunk in await deployment.client.completions.create(
                    **scored, stream=True, stream_options=told
                ):
                    choices += chunk.choices
                    usage = chunk.usage
            else:
                got = await deployment.client.completions.create(**scored)
                choices, usage = got.choices, got.usage
            text = "".join(each.text for each in choices)
            parts = [each.logprobs for each in choices if each.logprobs]
            asked = deployment.asked[-1]
            prompt = list(asked.prompt_token_ids)
            assert (text, choices[-1].finish_reason) == ("Hello there", "length")
            assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), 0)
            assert asked.stopping.max_tokens == 1
            scores = [each for part in parts for each in part.token_logprobs]
            assert scores == ([] if top is None else [None] + [-0.5] * (len(prompt) - 1))


async def test_log_probabilities_without_alternatives(deployment):
    deployment.says(" Yes.")
    got = await deployment.client.completions.create(model=MODEL, prompt="Hello", logprobs=0)
    told = got.choices[0].logprobs
    assert "".join(told.tokens) == " Yes."
    assert set(told.token_logprobs) == {-0.5}
    assert set(told.top_logprobs) == {None}


async def test_the_models(deployment):
    listed = await deployment.client.models.list()
    assert [(each.id, each.object) for each in listed.data] == [(MODEL, "model")]
    one = await deployment.client.models.retrieve(MODEL)
    assert one.max_model_len == 4096
