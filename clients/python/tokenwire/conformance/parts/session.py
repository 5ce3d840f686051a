"""A session: many generations on one stream."""

from __future__ import annotations

import grpc

from tokenwire.conformance.answer import RULES_OF_A_STREAM
from tokenwire.conformance.deployment import ANSWER_TOKENS, Deployment
from tokenwire.conformance.rule import Rule, Skipped, expect, unseen
from tokenwire.conformance.session_call import SessionCall
from tokenwire.frontend.v1 import generation_pb2

_COMMANDS = 4096
"""Of one kind in one message, at most."""
_INVALID = {"temperature": -1.0}


def _is_well(deployment: Deployment, session: SessionCall, number: int = 99) -> None:
    """Opens a generation, which must run to its end: the session still works."""
    session.open(number, deployment.generation(max_tokens=2))
    count = len(session.finish(number).ids())
    expect(count == 2, f"a later generation has {count} tokens of 2")


def _begin_endless(deployment: Deployment, session: SessionCall, number: int) -> None:
    session.open(number, deployment.endless())
    session.read_to_first_token(number)


def _expect_cancelled(session: SessionCall, number: int) -> None:
    found = session.finish(number)
    if found.end().reason == generation_pb2.FINISH_REASON_LENGTH:
        raise Skipped("the model had filled its context before the cancel")
    found.expect_reason(generation_pb2.FINISH_REASON_CANCELLED)


def _events(deployment: Deployment) -> None:
    with deployment.session() as session:
        session.open(7, deployment.generation())
        found = session.finish(7)
        for holds in RULES_OF_A_STREAM:
            holds(found)
        count = len(found.ids())
        expect(count == ANSWER_TOKENS, f"{count} tokens came under the number, of {ANSWER_TOKENS}")


def _at_once(deployment: Deployment) -> None:
    with deployment.session() as session:
        _begin_endless(deployment, session, 1)
        session.open(2, deployment.generation(max_tokens=2))
        session.finish(2)
        session.cancel(1)
        _expect_cancelled(session, 1)


def _several_commands(deployment: Deployment) -> None:
    opening = generation_pb2.Open
    with deployment.session() as session:
        session.send(
            opens=[
                opening(id=1, generation=deployment.endless()),
                opening(id=2, generation=deployment.generation(max_tokens=3)),
            ],
            cancels=[generation_pb2.Cancel(id=1)],
        )
        found = session.finish(2)
        expect(len(found.ids()) == 3, f"the second has {len(found.ids())} tokens of 3")
        _expect_cancelled(session, 1)


def _too_many_commands(deployment: Deployment) -> None:
    # Cancels of numbers that are not open cost nothing.
    with deployment.session() as session:
        session.send(cancels=[generation_pb2.Cancel(id=1)] * (_COMMANDS + 1))
        session.failure(0).expect_field("cancels")
        count = len(session.answer(0).events)
        expect(count == 1, f"{count} errors of number 0 came for one message")
        _is_well(deployment, session)


def _cancel(deployment: Deployment) -> None:
    with deployment.session() as session:
        _begin_endless(deployment, session, 1)
        session.cancel(1)
        _expect_cancelled(session, 1)
        last = session.answer(1).kinds[-1]
        expect(last == "completed", f"the last event was {last}")


def _failures_stay_apart(deployment: Deployment) -> None:
    with deployment.session() as session:
        session.open(1, deployment.generation())
        session.open(2, deployment.generation(sampling=_INVALID))
        session.failure(2)
        session.finish(1)
        _is_well(deployment, session)


def _free_numbers(deployment: Deployment) -> None:
    with deployment.session() as session:
        _is_well(deployment, session, 1)
        session.open(1, deployment.generation(sampling=_INVALID))
        session.failure(1)
        _is_well(deployment, session, 1)


def _opened_twice(deployment: Deployment) -> None:
    with deployment.session() as session:
        _begin_endless(deployment, session, 1)
        if session.is_over(1):
            raise Skipped("the model had filled its context before")
        again = generation_pb2.Open(id=1, generation=deployment.generation())
        session.send(open=again)
        refusal = session.failure(1)
        refusal.expect(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        _is_well(deployment, session, 1)


def _no_number(deployment: Deployment) -> None:
    with deployment.session() as session:
        session.open(0, deployment.generation())
        session.failure(0).expect_field("open.id")
        session.forget(0)
        session.send()
        session.failure(0).expect(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        _is_well(deployment, session)


def _half_closed(deployment: Deployment) -> None:
    with deployment.session() as session:
        session.open(1, deployment.generation())
        session.close_sending()
        session.read_to_end()
        count = len(session.answer(1).ids())
        expect(count == ANSWER_TOKENS, f"{count} tokens came of {ANSWER_TOKENS}")
        expect(session.is_over(1), "the generation did not end")


def _cancelled_call(deployment: Deployment) -> None:
    opened = [deployment.endless(), deployment.endless()]
    with deployment.session() as session:
        for number, what in enumerate(opened, 1):
            session.open(number, what)
        for number in (1, 2):
            session.read_to_first_token(number)
    for what in opened:
        deployment.expect_stopped(what.request_id)


RULES = (
    Rule("M1", "the events of a stream", _events),
    Rule("M2", "generations run at once", _at_once),
    Rule("M3", "several commands in a message", _several_commands),
    Rule("M4", "at most 4,096 of a kind", _too_many_commands),
    Rule("M5", "a cancel", _cancel),
    Rule("M6", "a failure stays alone", _failures_stay_apart),
    Rule("M7", "numbers are free again", _free_numbers),
    Rule("M8", "a number opened twice", _opened_twice),
    Rule("M9", "number 0 and no command", _no_number),
    Rule("M10", "closing lets finish", _half_closed),
    Rule("M11", "cancelling cancels everything", _cancelled_call),
    unseen("M12", "a session that is to move", "its connection would have to be old"),
)
