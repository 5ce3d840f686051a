"""Bad input for every field of every RPC: the right status, the field named, and still serving."""

from __future__ import annotations

import math
import random

import grpc
import pytest
from google.protobuf import duration_pb2
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2

from tests.services.calls import refusal_of_status, refused
from tests.worker.calls import Exchange, execute, request

EOS_ENDS = {"ignore_eos": False}

BAD = (
    request(tokens=0),
    request(sampling={"temperature": math.nan}),
    request(guide=pb.Guide(regex="a")),
    request(guide=pb.Guide(regex="["), stopping=EOS_ENDS),
    request(guide=pb.Guide(json_schema='{"not": {}}'), stopping=EOS_ENDS),
    pb.Request(prompt_token_ids=[1], time_budget=duration_pb2.Duration(seconds=1, nanos=-1)),
)
"""Of every kind of fault one; tests/services/test_bad_input.py has all faults of all fields."""


def test_a_fault_is_told_alike_by_execute_and_exchange(worker):
    for handle, bad in enumerate(BAD):
        message = pb.ExecuteRequest(request=bad)
        by_execute = refused(lambda message=message: worker.execution.Execute(message, timeout=60))
        assert by_execute.code is grpc.StatusCode.INVALID_ARGUMENT
        with Exchange(worker) as exchange:
            exchange.submit(handle, bad)
            (generated,) = exchange.finish(handle)
        by_exchange = refusal_of_status(generated.failure)
        assert (by_exchange.code, by_exchange.fields) == (by_execute.code, by_execute.fields)
        assert by_exchange.message == by_execute.message
        assert not generated.accepted
    assert len(execute(worker, request()).ids[0]) == 12, "still serving"


def test_too_long_a_prompt_is_told_both_numbers(worker):
    message = pb.ExecuteRequest(request=request(tokens=4096))
    refusal = refused(lambda: worker.execution.Execute(message))
    assert refusal.descriptions == ["4096 tokens; this worker takes prompts of at most 4095"]


def test_every_fault_of_a_request_is_told(worker):
    asked = request(sampling={"temperature": -1.0}, priority=1000, cache_salt="x")
    refusal = refused(lambda: worker.execution.Execute(pb.ExecuteRequest(request=asked)))
    assert set(refusal.fields) == {
        "request.sampling.temperature",
        "request.priority",
        "request.cache_salt",
    }


def test_a_request_that_is_missing(worker):
    refusal = refused(lambda: worker.execution.Execute(pb.ExecuteRequest()))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["request"])


@pytest.mark.parametrize(
    "traceparent", ["nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "é"]
)
def test_a_broken_trace_context_is_replaced(worker, traceparent):
    context = pb.TraceContext(traceparent=traceparent, tracestate="=;,")
    assert len(execute(worker, request(trace_context=context)).ids[0]) == 12


@pytest.mark.parametrize(
    "interval",
    [
        duration_pb2.Duration(nanos=9_000_000),
        duration_pb2.Duration(seconds=61),
        duration_pb2.Duration(seconds=-1),
        duration_pb2.Duration(seconds=1, nanos=-1),
        duration_pb2.Duration(),
    ],
)
def test_watch_load_names_its_interval(worker, interval):
    message = worker_pb2.WatchLoadRequest(min_interval=interval)
    refusal = refused(lambda: worker.service.WatchLoad(message, timeout=60))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["min_interval"])


def test_kv_events_are_refused_by_name(worker):
    message = worker_pb2.WatchKvEventsRequest(first_number=1)
    refusal = refused(lambda: worker.service.WatchKvEvents(message))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NO_KV_EVENTS")
    assert "openvino" in refusal.message


def mutated(chance: random.Random) -> pb.Request:
    """Returns a request of which some fields are anything at all."""
    edges = [0, 1, 5, 4095, 4096, 2**31, 2**32 - 1]
    floats = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 3e38, math.nan, math.inf, -math.inf]
    made = request(chance.randrange(9), max_tokens=4, tokens=8)
    for _ in range(chance.randrange(1, 5)):
        what = chance.randrange(9)
        if what == 0:
            made.prompt_token_ids.extend(chance.choices(edges, k=3))
        elif what == 1:
            names = ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty"]
            setattr(made.sampling, chance.choice(names), chance.choice(floats))
        elif what == 2:
            made.sampling.top_k = chance.choice(edges)
            made.sampling.seed = chance.choice([0, 2**64 - 1])
        elif what == 3:
            made.stopping.min_tokens = chance.choice(edges)
        elif what == 4:
            made.stopping.stop_token_ids.extend(chance.choices(edges, k=2))
        elif what == 5:
            made.sequence_count = chance.choice([0, 1, 3, 2**32 - 1])
        elif what == 6:
            made.priority = chance.choice([0, 100, -(2**31), 2**31 - 1])
        elif what == 7:
            made.time_budget.seconds = chance.choice([-(2**63), -1, 0, 5, 2**63 - 1])
            made.time_budget.nanos = chance.choice([-(2**31), 0, 2**31 - 1])
        else:
            made.request_id = chance.choice(["", "x", "\0\n", "é" * 128])
    return made


def test_whatever_a_request_holds_it_ends_and_the_worker_serves(worker):
    chance = random.Random(20261121)
    count = 250
    with Exchange(worker) as exchange:
        for handle in range(count):
            exchange.submit(handle, mutated(chance))
            if handle >= 100:
                exchange.finish(handle - 100)
        generated = exchange.finish(*range(count))
    refusals = [refusal_of_status(each.failure) for each in generated if each.failure]
    assert {refusal.code for refusal in refusals} == {grpc.StatusCode.INVALID_ARGUMENT}
    assert all(refusal.fields for refusal in refusals)
    assert 20 < len(refusals) < count - 20, "some of each, or this tests nothing"
    assert len(execute(worker, request()).ids[0]) == 12
