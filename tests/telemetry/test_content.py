"""Prompts and outputs: nowhere, unless --trace-content asks for them."""

from __future__ import annotations

import json

import pytest

from tests.services.calls import Frontend, endless, generation, read_to_first_token, refused
from tests.services.collector import Collector
from tests.services.processes import SERVING, wait_for_health
from tests.telemetry.conftest import exporting
from tests.telemetry.scrapes import OPENMETRICS, get
from tests.telemetry.trees import Caller, call, check_tree, ran, under

CANARY = "Quetzalcoatlus"
LIMIT = 16_384


def chat(*contents: str) -> dict:
    return {"chat": {"messages": [{"role": "ROLE_USER", "content": each} for each in contents]}}


@pytest.fixture(scope="module")
def telling(lasting, shared, collectors):
    """A frontend with --trace-content and what it exports to: (client, collector)."""
    own = Collector()
    collectors.append(own)
    started = lasting.frontend(
        "--trace-content", workers=[shared.worker_process], environment=exporting(own)
    )
    with Frontend(started.address) as client:
        wait_for_health(client.raw, SERVING)
        yield client, own


def test_no_text_is_told_unless_it_is_asked_for(pair):
    client, marker = pair.frontend, Caller()
    echo = {"output": {"echo": True}}
    assert CANARY in client.stream(generation(f"A {CANARY} is", 5, **echo)).text()
    ids = client.tokenize(f"A {CANARY} is")
    assert CANARY in client.detokenize(ids)
    assert CANARY in client.generate(generation(ids, 5, **echo)).sequences[0].text
    client.generate(generation(chat(f"What is a {CANARY}?"), 5, stop={"stop": [CANARY]}))
    with client.session() as session:
        session.open(1, generation(f"The {CANARY}", 5))
        session.open(2, endless(f"One {CANARY}"))
        session.finish(1)
    call_of = client.start(endless(f"Two {CANARY}"))
    read_to_first_token(call_of)
    call_of.cancel()
    for bad in (f" {CANARY}" * 3000, {"text": CANARY, "add_special_tokens": True}):
        what = generation(bad, 5, sampling={"temperature": -1.0} if isinstance(bad, dict) else {})
        refused(lambda what=what: client.stream(what))
    pair.worker.wait_until_idle()
    client.generate(generation(max_tokens=2), metadata=marker.metadata)
    check_tree(pair.collector, marker, under(call("Generate"), ran()))
    scrapes = [
        get(process, "/metrics", accept).text
        for process in (pair.frontend_process, pair.worker_process)
        for accept in ("", OPENMETRICS)
    ]
    written = [pair.frontend_process.output, pair.worker_process.output, *scrapes]
    assert all(CANARY not in each for each in written)
    assert all(CANARY.encode() not in body for body in pair.collector.bodies)


def test_the_texts_of_a_generation_in_its_span(telling):
    client, collector = telling
    caller = Caller()
    what = generation(chat(f"A {CANARY}?"), 6, sequence_count=2)
    streamed = client.stream(what, metadata=caller.metadata)
    collector.wait_for(caller.trace_id, {"chat demo"})
    [span] = [each for each in collector.trace(caller.trace_id) if each.span.name == "chat demo"]
    assert json.loads(span.attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": f"A {CANARY}?"}]}
    ]
    assert json.loads(span.attributes["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": streamed.text(index)}],
            "finish_reason": "length",
        }
        for index in range(2)
    ]


def test_the_texts_of_a_cancelled_generation(telling):
    client, collector = telling
    caller = Caller()
    with client.session() as session:
        session.open(1, endless("One, two,"), trace_context=caller.context)
        session.read_until(lambda: len(session[1].deltas) > 3)
        session.cancel(1)
        [streamed] = session.finish(1)
    spans = collector.wait_for(caller.trace_id, {"text_completion demo"})
    [message] = json.loads(spans["text_completion demo"].attributes["gen_ai.output.messages"])
    assert message["parts"][0]["content"] == streamed.text()
    assert message["finish_reason"] == "cancelled"


def test_texts_are_cut(telling):
    client, collector = telling
    caller = Caller()
    long = generation(chat("a" * 10_000, "b" * 10_000, "c"), 2)
    refused(lambda: client.stream(long, metadata=caller.metadata))
    spans = collector.wait_for(caller.trace_id, {"chat demo"})
    messages = json.loads(spans["chat demo"].attributes["gen_ai.input.messages"])
    texts = [message["parts"][0]["content"] for message in messages]
    assert texts == ["a" * 10_000, "b" * (LIMIT - 10_000), ""]
