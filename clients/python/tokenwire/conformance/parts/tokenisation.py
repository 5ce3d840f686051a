"""Tokenisation: texts to ids and back, and chats."""

from __future__ import annotations

from tokenwire.conformance.deployment import PROMPT, Deployment
from tokenwire.conformance.rule import Rule, expect
from tokenwire.frontend.v1 import prompt_pb2, tokenization_pb2

_TEXT = "Grüße, 世界 \N{EARTH GLOBE EUROPE-AFRICA}: the capital of France."
"""Characters of one to four bytes, so that tokens end within characters."""
_QUESTION = prompt_pb2.Chat(
    messages=[prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_USER, content="Hello")]
)


def _tokenize(deployment: Deployment) -> None:
    request = tokenization_pb2.TokenizeRequest(
        model=deployment.model.name, text=_TEXT, with_offsets=True
    )
    found = deployment.tokenization.Tokenize(request, timeout=deployment.left_s)
    size = deployment.model.vocabulary_size
    count = len(found.token_ids)
    expect(count > 0, "a text has no ids")
    expect(max(found.token_ids) < size, f"id {max(found.token_ids)} of a vocabulary of {size}")
    starts, ends = list(found.offset_starts), list(found.offset_ends)
    expect(
        len(starts) == len(ends) == count,
        f"{count} ids with {len(starts)} starts and {len(ends)} ends",
    )
    for start, end in zip(starts, ends, strict=True):
        expect(start <= end <= len(_TEXT), f"a place is {start} to {end} of {len(_TEXT)}")
    expect(max(ends) == len(_TEXT), f"the places end at {max(ends)} of {len(_TEXT)} code points")


def _stream_tokenize(deployment: Deployment) -> None:
    texts = [PROMPT, "Hello", _TEXT]
    requests = [
        tokenization_pb2.StreamTokenizeRequest(model=deployment.model.name, text=text)
        for text in texts
    ]
    call = deployment.tokenization.StreamTokenize(iter(requests), timeout=deployment.left_s)
    found = [list(each.token_ids) for each in call]
    expect(len(found) == len(texts), f"{len(texts)} requests have {len(found)} responses")
    for text, ids in zip(texts, found, strict=True):
        expect(ids == deployment.tokenize(text), f"other ids than Tokenize's for {text!r}")


def _stream_detokenize(deployment: Deployment) -> None:
    ids = deployment.tokenize(_TEXT)
    request = tokenization_pb2.StreamDetokenizeRequest
    model = deployment.model.name
    requests = [request(model=model, sequence=1, token_ids=[each]) for each in ids]
    requests.append(request(sequence=1, end=True))
    call = deployment.tokenization.StreamDetokenize(iter(requests), timeout=deployment.left_s)
    joined = "".join(each.text for each in call)
    whole = deployment.detokenize(ids)
    expect(joined == whole, f"{joined!r} came in pieces; not {whole!r}")


def _render_chat(deployment: Deployment) -> None:
    deployment.need_chat_template()
    rendered = deployment.render(_QUESTION)
    expect("Hello" in rendered.text, f"the chat's text is missing in {rendered.text[:80]!r}")
    ids = deployment.tokenize(rendered.text, add_special_tokens=False)
    expect(list(rendered.token_ids) == ids, "the ids are not those of the rendered text")


RULES = (
    Rule("K1", "ids and their places", _tokenize),
    Rule("K2", "tokenising on a stream", _stream_tokenize),
    Rule("K3", "detokenising on a stream", _stream_detokenize),
    Rule("K4", "chats are rendered", _render_chat),
)
