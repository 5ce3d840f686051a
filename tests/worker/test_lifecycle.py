"""What stops generations early, and how a worker begins and ends."""

from __future__ import annotations

import subprocess
import sys
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenwire.worker.v1 import execution_pb2 as pb

from tests.services.calls import Worker, refusal_of, refusal_of_status, refused
from tests.services.processes import (
    MODEL,
    NOT_SERVING,
    ROOT,
    SERVING,
    WAIT_S,
    Processes,
    wait_for_health,
)
from tests.worker.calls import (
    CANCELLED,
    LENGTH,
    LONG,
    TIME_BUDGET,
    Exchange,
    execute,
    prompt,
    read_execute,
    request,
)

SOON_TOKENS = 400
"""The engine has stopped soon when it made fewer tokens than this after the reason to stop: a tenth
of what it would have made, and far more than two steps, for the machine may be busy."""


def made_since(worker, before) -> int:
    """Waits until the engine is free, and returns the tokens that it made since."""
    return worker.wait_until_idle().generated_tokens - before.generated_tokens


# --- what stops a generation ---------------------------------------------------------------------


@pytest.mark.parametrize("sequences", [1, 3])
def test_cancelling_execute_frees_the_engine(worker, sequences):
    asked = request(max_tokens=LONG, sequence_count=sequences)
    call = worker.execution.Execute(pb.ExecuteRequest(request=asked), timeout=WAIT_S)
    next(message for message in call if message.tokens.token_ids)
    before = worker.wait_for_load(lambda load: load.running_sequences == sequences)
    call.cancel()
    assert made_since(worker, before) < SOON_TOKENS * sequences


def test_a_deadline_frees_the_engine(worker):
    asked = pb.ExecuteRequest(request=request(max_tokens=LONG))
    call = worker.execution.Execute(asked, timeout=0.5)
    with pytest.raises(grpc.RpcError):
        read_execute(call)
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    before = worker.load()
    assert made_since(worker, before) < SOON_TOKENS


def test_cancelling_one_of_a_stream_leaves_the_others(worker):
    with Exchange(worker) as exchange:
        exchange.submit(1, request(max_tokens=LONG))
        exchange.submit(2, request(1, max_tokens=200))
        exchange.read_until(lambda: exchange[1].ids and exchange[2].ids)
        exchange.cancel(1)
        cancelled, other = exchange.finish(1, 2)
    assert cancelled.reasons == [CANCELLED]
    assert 0 < cancelled.completed.completion_tokens < LONG
    assert len(other.ids[0]) == 200


def test_cancelling_some_sequences_leaves_the_rest(worker):
    with Exchange(worker) as exchange:
        exchange.submit(1, request(max_tokens=150, sequence_count=3))
        exchange.read_until(lambda: len(exchange[1].ids) == 3)
        exchange.cancel(1, 0, 2)
        exchange.read_until(lambda: len(exchange[1].endings) == 2)
        assert not exchange[1].over
        (generated,) = exchange.finish(1)
    assert generated.reasons == [CANCELLED, LENGTH, CANCELLED]
    assert len(generated.ids[1]) == 150


def test_cancelling_every_sequence_by_number_ends_it(worker):
    with Exchange(worker) as exchange:
        exchange.submit(1, request(max_tokens=LONG, sequence_count=2))
        exchange.read_until(lambda: exchange[1].ids)
        exchange.cancel(1, 0)
        exchange.cancel(1, 1)
        (generated,) = exchange.finish(1)
    assert generated.reasons == [CANCELLED, CANCELLED]
    worker.wait_until_idle()


def test_cancelling_the_stream_frees_everything(worker):
    exchange = Exchange(worker)
    for handle in range(8):
        exchange.submit(handle, request(handle, max_tokens=LONG))
    exchange.read_until(lambda: all(exchange[handle].ids for handle in range(8)))
    before = worker.wait_for_load(lambda load: load.running_sequences == 8)
    exchange.call.cancel()
    assert made_since(worker, before) < SOON_TOKENS * 8


def test_a_caller_that_vanishes_frees_the_engine(worker):
    program = f"""
import sys, grpc
from tokenwire.worker.v1 import execution_pb2 as pb, execution_pb2_grpc
stub = execution_pb2_grpc.ExecutionServiceStub(grpc.insecure_channel({worker.address!r}))
request = pb.Request.FromString(bytes.fromhex(sys.argv[1]))
both = [pb.ExchangeRequest(submit=pb.Submit(handle=n, request=request)) for n in (1, 2)]
import itertools, threading
call = stub.Exchange(itertools.chain(both, iter(threading.Event().wait, True)))
next(message for message in call if message.token_ids)
print("running", flush=True)
threading.Event().wait()
"""
    asked = request(max_tokens=LONG).SerializeToString().hex()
    caller = subprocess.Popen(
        [sys.executable, "-c", program, asked], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with caller:
        assert caller.stdout.readline() == "running\n"
        before = worker.wait_for_load(lambda load: load.running_sequences == 2)
        caller.kill()
    assert made_since(worker, before) < 2 * SOON_TOKENS


def test_a_time_budget_ends_with_what_there_is(worker):
    asked = request(max_tokens=LONG, time_budget=0.4)
    before = worker.load()
    generated = execute(worker, asked)
    assert generated.reasons == [TIME_BUDGET]
    assert 0 < generated.completed.completion_tokens == len(generated.ids[0]) < LONG
    assert made_since(worker, before) < len(generated.ids[0]) + SOON_TOKENS
    with Exchange(worker) as exchange:
        exchange.submit(1, asked)
        exchange.submit(2, request(1))
        budgeted, other = exchange.finish(1, 2)
    assert budgeted.reasons == [TIME_BUDGET]
    assert other.reasons == [LENGTH]


@pytest.mark.parametrize("budget", [0.0, -5.0])
def test_a_spent_budget_is_a_result_without_tokens(worker, budget):
    before = worker.load()
    generated = execute(worker, request(time_budget=budget, sequence_count=2))
    assert generated.reasons == [TIME_BUDGET, TIME_BUDGET]
    assert generated.completed.completion_tokens == 0
    assert not generated.completed.HasField("prefill")
    with Exchange(worker) as exchange:
        exchange.submit(1, request(time_budget=budget))
        (by_exchange,) = exchange.finish(1)
    assert by_exchange.accepted
    assert by_exchange.reasons == [TIME_BUDGET]
    assert worker.load().generated_tokens == before.generated_tokens


def test_a_budget_that_is_not_spent_changes_nothing(worker):
    assert execute(worker, request(time_budget=3600)).ids == execute(worker, request()).ids


# --- admission -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """A worker of two sequences at a time, with room for five requests to wait."""
    started = Processes()
    process = started.worker(
        *("--openvino.max-sequences", "2", "--max-waiting-requests", "5"),
        *("--worker-name", "small"),
    )
    with Worker(process.address) as client:
        wait_for_health(client.raw, SERVING)
        yield client
    started.end()


def test_a_time_budget_ends_what_waits_and_what_prefills(small):
    small.wait_until_idle()
    with Exchange(small) as exchange:
        for handle in range(2):
            exchange.submit(handle, request(handle, max_tokens=LONG))
        exchange.submit(2, request(2, time_budget=0.2))
        (waited,) = exchange.finish(2)
        assert (waited.reasons, waited.ids) == ([TIME_BUDGET], {})
        assert waited.completed.queue.ToNanoseconds() >= 0.2e9
        exchange.cancel(0)
        exchange.finish(0)
        # It takes about a second beside the other, in 15 steps.
        exchange.submit(3, request(3, max_tokens=150, tokens=LONG, time_budget=0.1))
        (begun,) = exchange.finish(3)
        assert begun.reasons == [TIME_BUDGET]
        exchange.cancel(1)
        exchange.finish(1)
    small.wait_until_idle()


def test_overload_is_told_with_what_to_do(small):
    small.wait_until_idle()
    with Exchange(small) as exchange:
        for handle in range(8):
            exchange.submit(handle, request(handle, max_tokens=LONG))
        (last,) = exchange.finish(7)
        by_exchange = refusal_of_status(last.failure)
        load = small.load()
        assert (load.running_sequences, load.waiting_requests) == (2, 5)
        message = pb.ExecuteRequest(request=request())
        by_execute = refused(lambda: small.execution.Execute(message, timeout=WAIT_S))
        for refusal in (by_exchange, by_execute):
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.reason == "QUEUE_FULL"
            assert refusal.quotas == ["worker:small/waiting_requests"]
            assert refusal.retry_after_s > 0
        # A place makes room, and who waits can be cancelled.
        exchange.cancel(0)
        exchange.finish(0)
        exchange.read_until(lambda: exchange[2].ids)
        exchange.submit(8, request(max_tokens=LONG))
        exchange.read_until(lambda: exchange[8].accepted)
        exchange.cancel(8)
        (waited,) = exchange.finish(8)
        assert waited.reasons == [CANCELLED]
        assert waited.completed.completion_tokens == 0


def test_priority_goes_first_among_those_that_wait(small):
    """They come one at a time into the place of the first; the second is taken all the while."""
    small.wait_until_idle()
    with Exchange(small) as exchange:
        for handle in (0, 6):
            exchange.submit(handle, request(max_tokens=LONG))
        exchange.read_until(lambda: exchange[0].ids and exchange[6].ids)
        for handle, priority in [(1, -1), (2, 0), (3, 7), (4, 0), (5, 7)]:
            exchange.submit(handle, request(handle, priority=priority))
        exchange.read_until(lambda: exchange[5].accepted)
        exchange.cancel(0)
        exchange.finish(*range(6))
        ends = [each.handle for message in exchange.messages for each in message.completions]
    assert ends == [0, 3, 5, 2, 4, 1]


# --- the process ---------------------------------------------------------------------------------


def test_sigterm_lets_what_is_in_flight_finish(own_worker):
    process, worker = own_worker()
    with Exchange(worker) as exchange:
        exchange.submit(1, request(max_tokens=400))
        asked = pb.ExecuteRequest(request=request(1, max_tokens=400))
        call = worker.execution.Execute(asked, timeout=WAIT_S)
        first = next(call)
        assert first.accepted.request_id
        exchange.read_until(lambda: exchange[1].ids)
        watch = worker.watch()
        process.terminate()
        wait_for_health(worker.raw, NOT_SERVING)
        wait_for_health(worker.raw, NOT_SERVING, "tokenwire.worker.v1.ExecutionService")
        assert next(load for load in watch if load.draining).running_sequences == 2
        # New work is turned away on the open stream and on new calls.
        exchange.submit(2, request())
        (late,) = exchange.finish(2)
        by_exchange = refusal_of_status(late.failure)
        by_execute = refused(lambda: worker.execution.Execute(asked, timeout=WAIT_S))
        for refusal in (by_exchange, by_execute):
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert refusal.retry_after_s > 0
        (generated,) = exchange.finish(1)
        assert len(generated.ids[0]) == 400
        tokens = [token for message in call for token in message.tokens.token_ids]
        assert len(tokens) == 400
        exchange.read_to_end()
        assert exchange.call.code() is grpc.StatusCode.OK
        watch.cancel()
    assert process.wait() == 0
    process.wait_for("draining")
    process.wait_for("stopped")
    assert "Traceback" not in process.output


def test_an_idle_worker_stops_at_once(simulated_worker):
    process, worker = simulated_worker()
    with Exchange(worker) as exchange:
        exchange.submit(1, request())
        exchange.finish(1)
        began = time.monotonic()
        process.terminate()
        exchange.read_to_end()
        assert exchange.call.code() is grpc.StatusCode.OK, "an idle stream is ended, not cut off"
    worker.raw.close()
    assert process.wait() == 0
    assert time.monotonic() - began < 20


def test_what_outlasts_the_grace_fails(simulated_worker):
    process, worker = simulated_worker("--drain-grace-s", "0.3")
    with Exchange(worker) as exchange:
        exchange.submit(1, request(max_tokens=LONG))
        call = worker.execution.Execute(
            pb.ExecuteRequest(request=request(1, max_tokens=LONG)), timeout=WAIT_S
        )
        next(call)
        exchange.read_until(lambda: exchange[1].ids)
        process.terminate()
        (generated,) = exchange.finish(1)
        assert refusal_of_status(generated.failure).reason == "DRAINING"
        with pytest.raises(grpc.RpcError) as error:
            list(call)
        assert refusal_of(error.value).reason == "DRAINING"
    assert process.wait() == 0


def test_the_death_of_the_engine_is_told_to_everyone_and_ends_the_process(processes):
    process = processes.run(
        "tests.worker.dying_worker",
        ["--model", str(MODEL), "--listen", "127.0.0.1:0", "--log-format", "json"],
    )
    with Worker(process.address) as worker, Exchange(worker) as exchange:
        for handle in range(3):
            exchange.submit(handle, request(handle, max_tokens=LONG))
        exchange.read_until(lambda: all(exchange[handle].ids for handle in range(3)))
        fatal = request(guide=pb.Guide(regex="["), stopping={"ignore_eos": False})
        exchange.submit(3, fatal)
        for generated in exchange.finish(0, 1, 2, 3):
            refusal = refusal_of_status(generated.failure)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DIED")
            assert "Unclosed" in refusal.message
        exchange.read_to_end()
        assert process.wait() == 70
    line = process.wait_for("engine_died")
    assert line["level"] == "critical"
    assert "Unclosed" in line["reason"]
    assert "Traceback" not in process.output


def test_each_generation_is_one_log_line(worker, worker_process):
    seen = worker_process.event_count
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    context = pb.TraceContext(traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
    execute(worker, request(request_id="line-1", trace_context=context, sequence_count=2))
    line = worker_process.wait_for("generation", after=seen, request_id="line-1")
    assert line["trace_id"] == trace_id
    assert (line["prompt_tokens"], line["completion_tokens"]) == (len(prompt()), 24)
    assert (line["sequences"], line["outcome"], line["reason"]) == (2, "completed", "length")
    assert line["service"] == "tokenwire-worker"
    assert all(line[stage] >= 0 for stage in ("queue_ms", "prefill_ms", "decode_ms"))
    seen = worker_process.event_count
    call = worker.execution.Execute(
        pb.ExecuteRequest(request=request(request_id="line-2", max_tokens=LONG)), timeout=WAIT_S
    )
    next(call)
    call.cancel()
    line = worker_process.wait_for("generation", after=seen, request_id="line-2")
    assert (line["outcome"], line["reason"]) == ("cancelled", "caller_gone")


def test_health_knows_no_other_service(worker):
    stub = health_pb2_grpc.HealthStub(worker.raw)
    with pytest.raises(grpc.RpcError) as error:
        stub.Check(health_pb2.HealthCheckRequest(service="nonsense"), timeout=30)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
