"""The trace of a generation that is stopped, refused or lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2
from tokenwire.worker.v1 import execution_pb2

from tests.services.calls import (
    LONG,
    Frontend,
    Worker,
    duration,
    endless,
    generation,
    read,
    read_to_first_token,
    refused,
)
from tests.services.collector import SpanOf
from tests.services.processes import ROOT, WAIT_S, Process
from tests.telemetry.conftest import exporting
from tests.telemetry.trees import Caller, call, check_tree, only, ran, under

GENERATION = "text_completion demo"
HOP = "tokenwire.worker.v1.ExecutionService/Exchange"


def causes(spans: list[SpanOf]) -> tuple[str | None, str | None]:
    """Returns why each hop stopped it: the frontend and the worker."""
    own, there = (only(spans, hop, GENERATION).attributes for hop in ("frontend", "worker"))
    return own.get("tokenwire.cancel.cause"), there.get("tokenwire.cancel.cause")


# --- the client stops it -------------------------------------------------------------------------


def test_a_cancelled_unary_call(pair):
    caller = Caller()
    before = pair.worker.load().generated_tokens
    request = generation_pb2.GenerateRequest(generation=endless())
    future = pair.frontend.generations.Generate.future(
        request, timeout=WAIT_S, metadata=caller.metadata
    )
    pair.worker.wait_for_load(lambda load: load.generated_tokens > before + 20)
    future.cancel()
    spans = check_tree(pair.collector, caller, under(call("Generate"), ran(end="both")))
    assert causes(spans) == ("client_gone", "caller")
    assert spans[0].attributes["rpc.response.status_code"] == "CANCELLED"
    assert "error.type" not in spans[0].attributes


def test_a_cancelled_stream(pair):
    caller = Caller()
    started = pair.frontend.start(endless(), metadata=caller.metadata)
    read_to_first_token(started)
    started.cancel()
    spans = check_tree(pair.collector, caller, under(call("StreamGenerate"), ran(end="both")))
    assert causes(spans) == ("client_gone", "caller")
    own = only(spans, "frontend", GENERATION).attributes
    assert own["gen_ai.response.finish_reasons"] == ["cancelled"]
    assert 0 < own["gen_ai.usage.output_tokens"] < LONG


def test_a_generation_that_is_cancelled_in_a_session(pair):
    caller, other = Caller(), Caller()
    with pair.frontend.session() as session:
        session.open(1, endless(), trace_context=caller.context)
        session.open(2, generation("One", 30), trace_context=other.context)
        session.read_until(lambda: bool(session[1].deltas))
        session.cancel(1)
        session.finish(1, 2)
    spans = check_tree(pair.collector, caller, ran(end="both"))
    assert causes(spans) == ("client_cancel", "caller")
    check_tree(pair.collector, other, ran())


def test_a_session_that_is_cancelled(pair):
    of_session = Caller()
    with pair.frontend.session(of_session.metadata) as session:
        session.open(1, endless())
        session.read_until(lambda: bool(session[1].deltas))
        session.call.cancel()
    check_tree(pair.collector, of_session, call("Session"))
    spans = check_tree(pair.collector, session[1].accepted.trace_id, ran(end="both"))
    assert causes(spans) == ("client_gone", "caller")


CLIENT = """
import sys, grpc
from tokenwire.frontend.v1 import generation_pb2, generation_pb2_grpc
stub = generation_pb2_grpc.GenerationServiceStub(grpc.insecure_channel(sys.argv[1]))
what = generation_pb2.Generation.FromString(bytes.fromhex(sys.argv[2]))
request = generation_pb2.StreamGenerateRequest(generation=what)
for event in stub.StreamGenerate(request, metadata=[("traceparent", sys.argv[3])]):
    print(event.WhichOneof("event"), flush=True)
"""


def test_a_client_that_is_killed(pair):
    caller = Caller()
    what = endless().SerializeToString().hex()
    command = [sys.executable, "-c", CLIENT, pair.frontend.address, what, caller.traceparent]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert client.stdout is not None
    try:
        while client.stdout.readline() != "delta\n":
            assert client.poll() is None
    finally:
        client.kill()
        client.wait()
        client.stdout.close()
    spans = check_tree(pair.collector, caller, under(call("StreamGenerate"), ran(end="both")))
    assert causes(spans) == ("client_gone", "caller")


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Generate", "StreamGenerate", "Session"])
def test_a_deadline_that_passes(pair, method):
    """Whether the client's timer, the frontend's or the worker's is the first, it is told so."""
    caller, of_generation = Caller(), Caller()
    request = generation_pb2.GenerateRequest(generation=endless())
    opened = {"id": 1, "generation": endless(), "trace_context": of_generation.context}
    command = generation_pb2.SessionRequest(open=opened)
    stub, of_call = pair.frontend.generations, {"timeout": 0.4, "metadata": caller.metadata}
    calls = {
        "Generate": lambda: stub.Generate(request, **of_call),
        "StreamGenerate": lambda: read(pair.frontend.start(endless(), **of_call)),
        "Session": lambda: list(stub.Session(iter([command]), **of_call)),
    }
    with pytest.raises(grpc.RpcError) as failure:
        calls[method]()
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    line, tree = call(method, error="DEADLINE_EXCEEDED"), ran(end="both")
    if method == "Session":
        check_tree(pair.collector, caller, line)
        spans = check_tree(pair.collector, of_generation, tree)
    else:
        spans = check_tree(pair.collector, caller, under(line, tree))
    own, there = causes(spans)
    assert own == "deadline"
    # The worker ends it by itself, unless it is told to before.
    assert there in ("time_budget", "caller")


def test_a_time_budget_that_is_spent(pair):
    caller = Caller()
    what = endless(time_budget=duration(0.3))
    pair.frontend.stream(what, metadata=caller.metadata)
    spans = check_tree(pair.collector, caller, under(call("StreamGenerate"), ran(end="worker")))
    assert causes(spans) == (None, "time_budget")
    for hop in ("frontend", "worker"):
        told = only(spans, hop, GENERATION).attributes
        assert told["gen_ai.response.finish_reasons"] == ["time_budget"]


def test_a_time_budget_that_is_spent_before_the_worker_is_asked(pair):
    caller = Caller()
    what = endless(time_budget=duration(1e-9))
    pair.frontend.stream(what, metadata=caller.metadata)
    lines = (
        "frontend INTERNAL text_completion demo [tokenwire.cancelled]",
        "  frontend INTERNAL tokenize",
    )
    check_tree(pair.collector, caller, under(call("StreamGenerate"), "\n".join(lines)))


# --- two workers, and overload -------------------------------------------------------------------


@dataclass
class Narrow:
    """Two workers of one sequence at a time, `a` without a queue, `b` with one of two places."""

    client: Frontend
    a: Worker
    b: Worker


@pytest.fixture(scope="module")
def narrow(lasting, collector) -> Iterator[Narrow]:
    environment = exporting(collector)
    fixed = ("--simulated.max-sequences", "1", "--worker-name")
    workers = [
        lasting.simulated(*fixed, name, "--max-waiting-requests", places, environment=environment)
        for name, places in (("a", "0"), ("b", "2"))
    ]
    limits = ("--generations-limit", "2", "--queue-limit", "0")
    started = lasting.frontend(*limits, workers=workers, environment=environment)
    for worker in workers:
        started.wait_for("worker", address=worker.address, state="ready")
    with (
        Frontend(started.address) as client,
        Worker(workers[0].address) as a,
        Worker(workers[1].address) as b,
    ):
        yield Narrow(client, a, b)


@contextmanager
def held(narrow: Narrow, on_b: int) -> Iterator[list[grpc.Call]]:
    """Has one generation run on `a` and so many run or wait on `b`, and the frontend know it."""
    request = execution_pb2.Request(
        prompt_token_ids=[5, 6], stopping={"max_tokens": LONG, "ignore_eos": True}
    )
    execute = execution_pb2.ExecuteRequest(request=request)
    calls = [narrow.a.execution.Execute(execute, timeout=WAIT_S)]
    calls += [narrow.b.execution.Execute(execute, timeout=WAIT_S) for _ in range(on_b)]
    try:
        load = {"a": (1, 0), "b": (1, on_b - 1)}
        while {each.name: (each.running, each.waiting) for each in narrow.client.workers()} != load:
            narrow.a.load()
        yield calls
    finally:
        for each in calls:
            each.cancel()
        for worker in (narrow.a, narrow.b):
            worker.wait_until_idle()


def hop(error: str) -> str:
    """Returns the tree of a worker's refusal."""
    return "\n".join(
        [
            f"frontend CLIENT {HOP} ERROR {error}",
            f"  worker SERVER text_completion demo ERROR {error}",
        ]
    )


def test_each_trace_names_the_worker_that_was_chosen(narrow, collector):
    chosen = {}
    while len(chosen) < 2:
        caller = Caller()
        streamed = narrow.client.stream(generation(max_tokens=2), metadata=caller.metadata)
        spans = check_tree(collector, caller, under(call("StreamGenerate"), ran()))
        worker = streamed.completed.timings.worker
        chosen[worker] = only(spans, "frontend", HOP).attributes["server.port"]
        for service, name in (
            ("frontend", "route"),
            ("frontend", GENERATION),
            ("worker", GENERATION),
        ):
            assert only(spans, service, name).attributes["tokenwire.worker"] == worker
        assert (
            dict(only(spans, "worker", GENERATION).origin.resource)["service.instance.id"] == worker
        )
    ports = {
        name: int(each.address.rpartition(":")[2])
        for name, each in (("a", narrow.a), ("b", narrow.b))
    }
    assert chosen == ports


def test_a_refusal_and_the_next_worker_are_two_hops(narrow, collector):
    """`a` looks the less busy, but has no room; `b` takes it."""
    caller = Caller()
    with held(narrow, on_b=2) as calls:
        started = narrow.client.start(generation(max_tokens=3), metadata=caller.metadata)
        narrow.b.wait_for_load(lambda load: load.waiting_requests == 2)
        for each in calls[1:]:
            each.cancel()
        assert len(read(started).ids()) == 3
    whole = ran().splitlines()
    refusal = [
        "  frontend INTERNAL route",
        *(f"  {line}" for line in hop("QUEUE_FULL").splitlines()),
    ]
    whole[2:2] = refusal
    spans = check_tree(collector, caller, under(call("StreamGenerate"), "\n".join(whole)))
    hops = [each.attributes for each in spans if each.span.name == HOP]
    assert [each["rpc.response.status_code"] for each in hops] == ["RESOURCE_EXHAUSTED", "OK"]
    routes = [each.attributes["tokenwire.worker"] for each in spans if each.span.name == "route"]
    assert routes == ["a", "b"]


def test_overload_of_every_worker(narrow, collector):
    caller = Caller()
    with held(narrow, on_b=3):
        refusal = refused(
            lambda: narrow.client.stream(generation(max_tokens=3), metadata=caller.metadata)
        )
    assert refusal.reason == "QUEUE_FULL"
    lines = [
        f"frontend INTERNAL {GENERATION} ERROR QUEUE_FULL",
        "  frontend INTERNAL tokenize",
        *("  frontend INTERNAL route", *(f"  {line}" for line in hop("QUEUE_FULL").splitlines()))
        * 2,
    ]
    whole = under(call("StreamGenerate", error="RESOURCE_EXHAUSTED"), "\n".join(lines))
    spans = check_tree(collector, caller, whole)
    there = [each for each in spans if each.kind == "SERVER" and each.service == "tokenwire-worker"]
    assert {each.attributes["tokenwire.worker"] for each in there} == {"a", "b"}


def test_overload_of_the_frontend(narrow, collector):
    caller = Caller()
    calls = [narrow.client.start(endless()) for _ in range(2)]
    for each in calls:
        next(each)
    refusal = refused(lambda: narrow.client.stream(generation(), metadata=caller.metadata))
    assert refusal.reason == "TOO_MANY_GENERATIONS"
    for each in calls:
        each.cancel()
    line = f"frontend INTERNAL {GENERATION} ERROR TOO_MANY_GENERATIONS"
    check_tree(collector, caller, under(call("StreamGenerate", error="RESOURCE_EXHAUSTED"), line))


# --- a worker goes -------------------------------------------------------------------------------


@pytest.fixture
def doomed(processes, collector) -> Iterator[tuple[Frontend, Process]]:
    """A worker to be killed, and a client of its frontend."""
    worker = processes.simulated(environment=exporting(collector))
    started = processes.frontend(
        "--move-wait-s", "0.2", workers=[worker], environment=exporting(collector)
    )
    started.wait_for("worker", state="ready")
    with Frontend(started.address) as client:
        yield client, worker


def test_a_worker_that_is_killed(doomed, collector):
    """What the worker had not sent is lost; the frontend tells the whole story."""
    client, worker = doomed
    caller = Caller()
    started = client.start(endless(), metadata=caller.metadata)
    read_to_first_token(started)
    worker.kill()
    assert refused(lambda: started).reason == "WORKER_LOST"
    lost = f"frontend INTERNAL {GENERATION} ERROR WORKER_LOST"
    lines = [
        f"{lost} [tokenwire.first_token, tokenwire.moved]",
        "  frontend INTERNAL tokenize",
        "  frontend INTERNAL route",
        f"  frontend CLIENT {HOP} ERROR WORKER_LOST",
    ]
    whole = under(call("StreamGenerate", error="UNAVAILABLE"), "\n".join(lines))
    spans = check_tree(collector, caller, whole)
    own = only(spans, "frontend", GENERATION).attributes
    assert 0 < own["gen_ai.usage.output_tokens"] < LONG

    def measured() -> bool:
        points = collector.points("tokenwire-frontend", "gen_ai.server.request.duration")
        return any(("error.type", "WORKER_LOST") in attributes for attributes in points)

    collector.wait_until(measured)
