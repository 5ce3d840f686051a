"""The spans of a worker, as an OTLP collector receives them."""

from __future__ import annotations

import itertools

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from tokenwire.worker.v1 import execution_pb2 as pb

from tests.services.calls import Worker
from tests.services.collector import Collector, SpanOf
from tests.services.processes import MODEL, WAIT_S, Processes
from tests.worker.calls import LONG, Exchange, execute, request

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
CONTEXT = pb.TraceContext(traceparent=f"00-{TRACE}-{PARENT}-01")


@pytest.fixture(scope="module")
def traced():
    collector, started = Collector(), Processes()
    process = started.run(
        "tokenwire_worker",
        [
            *("--model", str(MODEL), "--listen", "127.0.0.1:0", "--worker-name", "traced"),
            *("--model-name", "demo", "--openvino.kv-blocks", "512", "--log-format", "json"),
        ],
        {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"},
    )
    with Worker(process.address) as worker:
        yield worker, collector
    started.end()
    collector.close()


STAGES = {"text_completion demo", "queue", "prefill", "decode"}


def check_generation(spans: dict[str, SpanOf], parent: str) -> None:
    told, span = spans["text_completion demo"].attributes, spans["text_completion demo"].span
    assert span.parent_span_id.hex() == parent
    assert told["gen_ai.request.model"] == "demo"
    assert told["tokenwire.worker"] == "traced"
    assert told["tokenwire.prompt_tokens"] == 40
    assert told["tokenwire.completion_tokens"] == 12
    assert told["gen_ai.response.finish_reasons"] == ["length"]
    assert [event.name for event in span.events] == ["tokenwire.first_token"]
    stages = [spans[name].span for name in ("queue", "prefill", "decode")]
    assert {stage.parent_span_id for stage in stages} == {span.span_id}
    for earlier, later in itertools.pairwise(stages):
        assert earlier.end_time_unix_nano == later.start_time_unix_nano, "one after the other"
    assert stages[0].start_time_unix_nano == span.start_time_unix_nano
    assert stages[-1].end_time_unix_nano <= span.end_time_unix_nano


def test_a_generation_on_a_shared_stream_is_a_child_of_its_own_caller(traced):
    worker, collector = traced
    with Exchange(worker) as exchange:
        exchange.submit(1, request(request_id="mine", trace_context=CONTEXT))
        exchange.finish(1)
    spans = collector.wait_for(TRACE, STAGES)
    check_generation(spans, PARENT)
    assert spans["text_completion demo"].attributes["tokenwire.request_id"] == "mine"
    assert set(spans) == STAGES, "nothing of the stream, and nothing for a token"


def test_execute_without_a_context_of_the_request_is_a_child_of_the_call(traced):
    worker, collector = traced
    trace_id = "1" * 32
    call = worker.execution.Execute(
        pb.ExecuteRequest(request=request()),
        timeout=WAIT_S,
        metadata=[("traceparent", f"00-{trace_id}-{PARENT}-01")],
    )
    list(call)
    method = "tokenwire.worker.v1.ExecutionService/Execute"
    spans = collector.wait_for(trace_id, {*STAGES, method})
    assert spans[method].span.parent_span_id.hex() == PARENT
    assert spans[method].kind == "SERVER"
    assert spans[method].attributes["rpc.response.status_code"] == "OK"
    check_generation(spans, spans[method].span.span_id.hex())


def test_a_cancelled_generation_tells_why(traced):
    worker, collector = traced
    trace_id = "2" * 32
    context = pb.TraceContext(traceparent=f"00-{trace_id}-{PARENT}-01")
    execute(worker, request(max_tokens=LONG, time_budget=0.3, trace_context=context))
    spans = collector.wait_for(trace_id, STAGES)
    told = spans["text_completion demo"].attributes
    assert told["tokenwire.cancel.cause"] == "time_budget"
    assert 0 < told["tokenwire.completion_tokens"] < LONG


def test_one_that_never_ran_has_a_queue_and_no_more(traced):
    worker, collector = traced
    trace_id = "3" * 32
    context = pb.TraceContext(traceparent=f"00-{trace_id}-{PARENT}-01")
    execute(worker, request(time_budget=0, trace_context=context))
    spans = collector.wait_for(trace_id, {"text_completion demo", "queue"})
    assert set(spans) == {"text_completion demo", "queue"}
    assert spans["text_completion demo"].span.status.code == Status.STATUS_CODE_UNSET


def test_one_that_goes_on_after_output_tells_how_much_it_had(traced):
    worker, collector = traced
    trace_id = "6" * 32
    context = pb.TraceContext(traceparent=f"00-{trace_id}-{PARENT}-01")
    execute(worker, request(max_tokens=12, output_so_far=[9, 8, 7], trace_context=context))
    told = collector.wait_for(trace_id, STAGES)["text_completion demo"].attributes
    assert told["tokenwire.carried_tokens"] == 3
    assert told["gen_ai.request.max_tokens"] == 12
    assert (told["tokenwire.prompt_tokens"], told["tokenwire.completion_tokens"]) == (40, 9)


def test_an_unsampled_caller_leaves_no_spans(traced):
    worker, collector = traced
    hidden, marker = "4" * 32, "5" * 32
    for trace_id, flags in ((hidden, "00"), (marker, "01")):
        context = pb.TraceContext(traceparent=f"00-{trace_id}-{PARENT}-{flags}")
        execute(worker, request(trace_context=context))
    collector.wait_for(marker, STAGES)
    assert collector.trace(hidden) == []
