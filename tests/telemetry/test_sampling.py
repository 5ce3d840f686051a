"""Whose traces are recorded, and that what is not recorded still has its trace id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tokenwire.frontend.v1 import generation_pb2

from tests.services.calls import Frontend, generation
from tests.services.collector import Collector
from tests.services.processes import SERVING, Process, wait_for_health
from tests.telemetry.conftest import Pair, exporting
from tests.telemetry.trees import Caller, call, check_tree, ran, under


def check_logged(answer: generation_pb2.GenerateResponse, *processes: Process) -> None:
    """Checks that each service has written the request's trace id into its line."""
    for process in processes:
        process.wait_for("generation", request_id=answer.request_id, trace_id=answer.trace_id)


def check_unrecorded(pair: Pair, trace_id: str) -> None:
    """Checks that nothing of a trace has come, after what came later has."""
    marker = Caller()
    pair.frontend.generate(generation(max_tokens=2), metadata=marker.metadata)
    check_tree(pair.collector, marker, under(call("Generate"), ran()))
    assert pair.collector.trace(trace_id) == []
    pair.collector.checked[trace_id] = 0


@contextmanager
def frontend_with(pair: Pair, lasting, **variables: str) -> Iterator[tuple[Process, Frontend]]:
    """A frontend of the shared worker, with these variables."""
    started = lasting.frontend(
        workers=[pair.worker_process], environment=exporting(pair.collector, **variables)
    )
    with Frontend(started.address) as client:
        wait_for_health(client.raw, SERVING)
        yield started, client


def exporters(collector: Collector, instance: str) -> set[str]:
    """Returns which signals a service of this instance id has sent."""
    signals = {"spans": collector.spans, "metrics": collector.metrics}
    told = ("service.instance.id", instance)
    return {
        name
        for name, received in signals.items()
        if any(told in each.origin.resource for each in list(received))
    }


def test_an_unsampled_caller_leaves_no_span_but_its_trace_id(pair):
    caller = Caller(sampled=False)
    answer = pair.frontend.generate(generation(max_tokens=2), metadata=caller.metadata)
    assert answer.trace_id == caller.trace_id
    check_logged(answer, pair.frontend_process, pair.worker_process)
    with pair.frontend.session() as session:
        session.open(1, generation(max_tokens=2), trace_context=caller.context)
        session.finish(1)
        assert session[1].accepted.trace_id == caller.trace_id
    check_unrecorded(pair, caller.trace_id)


def test_what_the_frontend_does_not_sample_the_worker_does_not_record(pair, processes):
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    with frontend_with(pair, processes, **sampler) as (process, client):
        answer = client.generate(generation(max_tokens=2))
        assert len(answer.trace_id) == 32
        check_logged(answer, process, pair.worker_process)
        check_unrecorded(pair, answer.trace_id)
        # A caller that samples has the last word.
        caller = Caller()
        client.generate(generation(max_tokens=2), metadata=caller.metadata)
        check_tree(pair.collector, caller, under(call("Generate"), ran()))


@pytest.mark.parametrize(("signal", "left"), [("TRACES", "metrics"), ("METRICS", "spans")])
def test_either_signal_can_be_left_out(pair, processes, signal, left):
    instance = f"without-{signal}"
    variables = {
        f"OTEL_{signal}_EXPORTER": "none",
        "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={instance},deployment.environment.name=x",
    }
    with frontend_with(pair, processes, **variables) as (process, client):
        answer = client.generate(generation(max_tokens=2))
        check_logged(answer, process, pair.worker_process)
        pair.collector.wait_until(lambda: left in exporters(pair.collector, instance))
        process.terminate()
        assert process.wait() == 0  # all that it had to send is sent
    assert exporters(pair.collector, instance) == {left}
    resources = [
        dict(each.origin.resource) for each in (*pair.collector.spans, *pair.collector.metrics)
    ]
    [environment] = {
        each["deployment.environment.name"]
        for each in resources
        if each["service.instance.id"] == instance
    }
    assert environment == "x"


def test_without_an_endpoint_every_reply_has_a_trace_id(pair, processes):
    started = processes.frontend(workers=[pair.worker_process])
    with Frontend(started.address) as client:
        wait_for_health(client.raw, SERVING)
        first, second = (client.generate(generation(max_tokens=2)) for _ in range(2))
        assert first.trace_id != second.trace_id
        for answer in (first, second):
            check_logged(answer, started, pair.worker_process)
            check_unrecorded(pair, answer.trace_id)
