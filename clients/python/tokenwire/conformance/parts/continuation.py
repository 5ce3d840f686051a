"""Continuation: a generation that goes on after output which exists already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenwire.conformance.answer import Answer
from tokenwire.conformance.deployment import ANSWER_TOKENS, PROMPT, Deployment
from tokenwire.conformance.reflected import needing
from tokenwire.conformance.refusal import refused
from tokenwire.conformance.rule import Rule, Skipped, expect, unseen
from tokenwire.frontend.v1 import generation_pb2

_SEAM = 3
"""Ids of an answer that exist when it goes on."""


def _going_on(
    deployment: Deployment, ids: Sequence[int], **fields: Any
) -> generation_pb2.Generation:
    """Returns the generation of an answer that goes on after these ids."""
    so_far = [generation_pb2.SequenceSoFar(token_ids=ids)]
    return deployment.generation(output_so_far=so_far, **fields)


def _both(deployment: Deployment) -> tuple[Answer, Answer]:
    """Returns an answer, and the rest of one that went on after the first ids of it."""
    whole = deployment.stream()
    return whole, deployment.stream(_going_on(deployment, whole.ids()[:_SEAM]))


def _offsets(deployment: Deployment) -> None:
    whole, rest = _both(deployment)
    first = rest.deltas[0]
    expect(first.token_offset == _SEAM, f"token_offset is {first.token_offset} after {_SEAM} ids")
    known = deployment.detokenize(whole.ids()[:_SEAM])
    told = first.text_offset
    expect(told > 0 or not known, f"text_offset is {told} after the text {known!r}")


def _exact(deployment: Deployment) -> None:
    whole, rest = _both(deployment)
    ids, text = whole.ids(), whole.text().encode()
    again = deployment.stream()
    if again.ids() != ids:
        raise Skipped("the model gave two greedy answers to one prompt")
    expect(rest.ids() == ids[_SEAM:], f"{rest.ids()} followed; not {ids[_SEAM:]}")
    wanted = text[rest.deltas[0].text_offset :].decode(errors="replace")
    expect(rest.text() == wanted, f"the text that followed is {rest.text()!r}; not {wanted!r}")


def _counts(deployment: Deployment) -> None:
    _, rest = _both(deployment)
    count = len(rest.ids())
    wanted = ANSWER_TOKENS - _SEAM
    expect(count == wanted, f"{count} ids followed; {wanted} are left of max_tokens")
    rest.expect_reason(generation_pb2.FINISH_REASON_LENGTH)
    _min_tokens(deployment)


def _min_tokens(deployment: Deployment) -> None:
    ids = deployment.stream().ids()
    known, following = ids[:_SEAM], ids[_SEAM : _SEAM + 1]

    def new_ids(least: int) -> list[int]:
        stop = {"stop_token_ids": following, "min_tokens": least}
        return deployment.stream(_going_on(deployment, known, stop=stop)).ids()

    early = new_ids(_SEAM + 2)
    expect(len(early) > 1, f"a stop token ended it before min_tokens {_SEAM + 2}")
    ended = new_ids(_SEAM + 1)
    if ended[:1] != following:
        raise Skipped("the model gave two greedy answers to one prompt")
    expect(len(ended) == 1, f"a stop token did not end it at min_tokens {_SEAM + 1}")


def _stop_over_the_seam(deployment: Deployment) -> None:
    whole = deployment.stream()
    prompt = deployment.tokenize(PROMPT)
    before = deployment.detokenize(prompt)
    known = deployment.detokenize([*prompt, *whole.ids()[:_SEAM]])[len(before) :]
    stop = whole.text()[max(len(known) - 1, 0) :][:3]
    if not known or len(stop) < 2 or whole.text().index(stop) != len(known) - 1:
        raise Skipped("the model's answer has no text to stop at")
    what = _going_on(deployment, whole.ids()[:_SEAM], stop={"stop": [stop]})
    rest = deployment.stream(what)
    rest.expect_reason(generation_pb2.FINISH_REASON_STOP)
    expect(rest.end().stop == stop, f"end.stop is {rest.end().stop!r}; not {stop!r}")


def _ended_sequences(deployment: Deployment) -> None:
    if deployment.model.sequence_count_limit < 2:
        raise Skipped(f"{deployment.model.name} has one sequence at a time")
    ids = deployment.stream().ids()[:_SEAM]
    so_far = [
        generation_pb2.SequenceSoFar(token_ids=ids, ended=True),
        generation_pb2.SequenceSoFar(token_ids=ids),
    ]
    found = deployment.stream(deployment.generation(sequence_count=2, output_so_far=so_far))
    expect(not found.ids(0), f"{len(found.ids(0))} ids of a sequence came that had ended")
    found.end(1)
    _ = found.completed


def _usage(deployment: Deployment) -> None:
    _, rest = _both(deployment)
    usage, wanted = rest.completed.usage, len(deployment.tokenize(PROMPT))
    told = usage.prompt_tokens
    expect(told == wanted, f"{told} prompt tokens are counted; the prompt has {wanted}")
    told = usage.completion_tokens
    expect(told == ANSWER_TOKENS, f"{told} tokens are counted of an output of {ANSWER_TOKENS}")


def _refused(deployment: Deployment) -> None:
    ids = deployment.tokenize(PROMPT)
    what = _going_on(deployment, ids)
    refused(lambda: deployment.generate(what)).expect_field("generation.output_so_far")
    what = _going_on(deployment, ids, sequence_count=2)
    refused(lambda: deployment.stream(what)).expect_field("generation.output_so_far")


RULES = (
    *needing(
        generation_pb2.Generation.DESCRIPTOR,
        "output_so_far",
        Rule("C1", "offsets count what exists", _offsets),
        Rule("C2", "exactly as if uninterrupted", _exact),
        Rule("C3", "token counts include what exists", _counts),
        Rule("C4", "a stop string over the seam", _stop_over_the_seam),
        Rule("C5", "sequences that have ended", _ended_sequences),
        Rule("C6", "usage counts the whole output", _usage),
        Rule("C7", "where it is refused", _refused),
    ),
    unseen("C8", "another worker goes on", "a worker would have to be lost"),
    unseen("C9", "none can go on", "a worker would have to be lost"),
)
