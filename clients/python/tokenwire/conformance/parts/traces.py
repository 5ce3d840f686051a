"""Traces: by which id a request is known."""

from __future__ import annotations

import re
import secrets
from typing import Any

from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.rule import Rule, expect


def _context() -> tuple[str, str]:
    """Returns a new trace id, and a traceparent that has it."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-01"


def _traceparent(deployment: Deployment) -> None:
    trace_id, traceparent = _context()
    metadata = (("traceparent", traceparent),)
    what = deployment.generation(max_tokens=1)
    told = {
        "accepted": deployment.stream(what, metadata=metadata).accepted.trace_id,
        "GenerateResponse": deployment.generate(what, metadata=metadata).trace_id,
    }
    for name, found in told.items():
        expect(found == trace_id, f"{name} has trace id {found!r}; not {trace_id}")


def _in_a_session(deployment: Deployment) -> None:
    trace_id, traceparent = _context()
    context: Any = {"traceparent": traceparent}
    with deployment.session() as session:
        session.open(1, deployment.generation(max_tokens=1), trace_context=context)
        found = session.finish(1).accepted.trace_id
    expect(found == trace_id, f"accepted has trace id {found!r}; not {trace_id}")


def _own_traces(deployment: Deployment) -> None:
    trace_id, traceparent = _context()
    found = [deployment.stream(deployment.generation(max_tokens=1)).accepted.trace_id]
    with deployment.session(metadata=(("traceparent", traceparent),)) as session:
        for number in (1, 2):
            session.open(number, deployment.generation(max_tokens=1))
            found.append(session.finish(number).accepted.trace_id)
    for each in found:
        expect(bool(re.fullmatch("[0-9a-f]{32}", each)), f"a trace id is {each!r}")
    expect(len({*found, trace_id}) == 4, f"requests share a trace id: {', '.join(found)}")


RULES = (
    Rule("T1", "traceparent comes back", _traceparent),
    Rule("T2", "trace_context in a session", _in_a_session),
    Rule("T3", "a trace of its own", _own_traces),
)
