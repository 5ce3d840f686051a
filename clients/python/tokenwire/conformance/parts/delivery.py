"""Delivery: what deltas have, how large they are, and credit in a session."""

from __future__ import annotations

from tokenwire.conformance.answer import token_offsets_hold
from tokenwire.conformance.deployment import ANSWER_TOKENS, Deployment
from tokenwire.conformance.reflected import needing
from tokenwire.conformance.refusal import refused
from tokenwire.conformance.rule import Rule, Skipped, expect, unseen
from tokenwire.conformance.session_call import SessionCall
from tokenwire.frontend.v1 import generation_pb2, options_pb2

_OPEN = generation_pb2.Open.DESCRIPTOR
_STREAM_OPTIONS = options_pb2.StreamOptions.DESCRIPTOR
_CREDIT = 3
_MUCH_CREDIT = 100
"""More than an answer needs."""


def _max_tokens(deployment: Deployment) -> None:
    # Held deltas would have several tokens each.
    stream = {"max_tokens": 2, "max_delay": {"seconds": 1}}
    found = deployment.stream(stream=stream)
    largest = max(len(delta.token_ids) for delta in found.deltas)
    expect(largest <= 2, f"a delta has {largest} ids of at most 2")
    count = len(found.ids())
    expect(count == ANSWER_TOKENS, f"{count} ids came of {ANSWER_TOKENS}")


def _content(deployment: Deployment) -> None:
    ids = deployment.stream(stream={"content": options_pb2.STREAM_CONTENT_IDS})
    expect(len(ids.ids()) == ANSWER_TOKENS, f"{len(ids.ids())} ids came of {ANSWER_TOKENS}")
    expect(not ids.text(), f"the text {ids.text()!r} came where ids alone were asked for")
    text = deployment.stream(stream={"content": options_pb2.STREAM_CONTENT_TEXT})
    expect(not text.ids(), f"{len(text.ids())} ids came where text alone was asked for")
    text.end()


def _begin(deployment: Deployment, session: SessionCall, **credit: int) -> None:
    """Opens generation 1 with credit, reads its first delta, and lets two others pass it."""
    session.open(1, deployment.generation(), **credit)
    session.read_to_first_token(1)
    for number in (2, 3):
        # Each has as many tokens as the first, which would have gone on meanwhile.
        session.open(number, deployment.generation())
        session.finish(number)


def _credit_tokens(deployment: Deployment) -> None:
    with deployment.session() as session:
        _begin(deployment, session, credit_tokens=_CREDIT)
        count = len(session.answer(1).ids())
        expect(count <= _CREDIT, f"{count} tokens came of a credit of {_CREDIT}")


def _credit_messages(deployment: Deployment) -> None:
    with deployment.session() as session:
        _begin(deployment, session, credit_messages=1)
        count = len(session.answer(1).deltas)
        expect(count <= 1, f"{count} deltas came of a credit of one message")


def _more_credit(deployment: Deployment) -> None:
    with deployment.session() as session:
        _begin(deployment, session, credit_tokens=_CREDIT)
        session.send(credits=[generation_pb2.Credit(id=1, amount=_MUCH_CREDIT)])
        found = session.finish(1)
        token_offsets_hold(found)
        count = len(found.ids())
        expect(count == ANSWER_TOKENS, f"{count} tokens came of {ANSWER_TOKENS}")


def _neighbours(deployment: Deployment) -> None:
    with deployment.session() as session:
        _begin(deployment, session, credit_tokens=1)
        count = len(session.answer(2).ids())
        expect(count == ANSWER_TOKENS, f"{count} tokens of the neighbour came of {ANSWER_TOKENS}")


def _credit_of_others(deployment: Deployment) -> None:
    with deployment.session() as session:
        session.open(1, deployment.generation())
        session.send(credits=[generation_pb2.Credit(id=each, amount=1) for each in (1, 2)])
        session.finish(1)
        told = [event for number in (0, 2) for event in session.answer(number).events]
        expect(not told, f"an event came for credit of no use: {told}")


def _end_without_credit(deployment: Deployment) -> None:
    with deployment.session() as session:
        session.open(1, deployment.generation(), credit_tokens=ANSWER_TOKENS)
        count = len(session.finish(1).ids())
        expect(count == ANSWER_TOKENS, f"{count} tokens came of {ANSWER_TOKENS}")


def _cancel_without_credit(deployment: Deployment) -> None:
    with deployment.session() as session:
        session.open(1, deployment.endless(), credit_tokens=0)
        session.open(2, deployment.generation())
        session.finish(2)
        session.cancel(1)
        found = session.finish(1)
        if found.end().reason == generation_pb2.FINISH_REASON_LENGTH:
            raise Skipped("the model had filled its context before the cancel")
        found.expect_reason(generation_pb2.FINISH_REASON_CANCELLED)


def _half_close_without_credit(deployment: Deployment) -> None:
    with deployment.session() as session:
        session.open(1, deployment.generation(), credit_tokens=0)
        session.close_sending()
        session.read_to_end()
        expect(session.is_over(1), "the generation did not end")
        count = len(session.answer(1).ids())
        expect(count == ANSWER_TOKENS, f"{count} tokens came of {ANSWER_TOKENS}")


def _contradictions(deployment: Deployment) -> None:
    what = deployment.generation(output={"echo": True})
    ids = {"content": options_pb2.STREAM_CONTENT_IDS}
    refused(lambda: deployment.stream(what, stream=ids)).expect_field("generation.output.echo")
    text = {"content": options_pb2.STREAM_CONTENT_TEXT}
    with deployment.session() as session:
        session.open(1, deployment.generation(), stream=text, credit_tokens=1)
        session.failure(1).expect_field("open.credit_tokens")


RULES = (
    *needing(_STREAM_OPTIONS, "max_tokens", Rule("R1", "stream.max_tokens", _max_tokens)),
    *needing(_STREAM_OPTIONS, "content", Rule("R2", "text or ids alone", _content)),
    *needing(
        _OPEN,
        "credit_tokens",
        Rule("R3", "credit of tokens", _credit_tokens),
        Rule("R4", "credit of messages", _credit_messages),
        Rule("R5", "more credit", _more_credit),
        Rule("R6", "neighbours need no credit", _neighbours),
        Rule("R7", "credit of no use", _credit_of_others),
        Rule("R8", "an end needs no credit", _end_without_credit),
    ),
    unseen("R9", "word of a drain", "the deployment would have to stop"),
    *needing(
        _OPEN,
        "credit_tokens",
        Rule("R10", "a cancel needs no credit", _cancel_without_credit),
        Rule("R11", "nor does the end of sending", _half_close_without_credit),
    ),
    *needing(_STREAM_OPTIONS, "content", Rule("R12", "options that contradict", _contradictions)),
)
