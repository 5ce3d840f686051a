"""A worker of this engine as a real process, on the stand-in, called over gRPC."""

from __future__ import annotations

import subprocess
import sys

import grpc
import pytest
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2

from tests.engines.conftest import STAND_INS
from tests.engines.tensorrt_llm.conftest import EOS, LONG, VOCABULARY
from tests.services.calls import Worker, refusal_of_status, refused
from tests.services.processes import (
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
    STOP,
    TIME_BUDGET,
    Exchange,
    execute,
    read_execute,
    request,
)

STAND_IN = {"PYTHONPATH": str(STAND_INS["tensorrt_llm"])}


def run(processes, model, *arguments, **environment):
    """Starts a worker on the stand-in."""
    fixed = ["--engine", "tensorrt_llm", "--model", str(model), "--model-name", "m"]
    listening = ["--listen", "127.0.0.1:0", "--log-format", "json"]
    return processes.run(
        "tokenwire_worker", [*fixed, *listening, *arguments], {**STAND_IN, **environment}
    )


@pytest.fixture
def processes():
    started = Processes()
    yield started
    started.end()


@pytest.fixture
def own_worker(processes, model):
    """Starts a worker of the test's own and returns it with a client, once it serves."""
    clients: list[Worker] = []

    def start(*arguments, **environment):
        process = run(processes, model, *arguments, **environment)
        client = Worker(process.address)
        clients.append(client)
        wait_for_health(client.raw, SERVING)
        return process, client

    yield start
    for client in clients:
        client.raw.close()


@pytest.fixture(scope="module")
def shared(model):
    """A worker that several tests share."""
    started = Processes()
    try:
        process = run(started, model, "--tensorrt-llm.max-num-tokens", "256")
        with Worker(process.address) as client:
            wait_for_health(client.raw, SERVING)
            yield client, process
            assert "Traceback" not in process.output
            assert '"level": "error"' not in process.output
    finally:
        started.end()


@pytest.fixture
def worker(shared) -> Worker:
    client = shared[0]
    client.wait_until_idle()
    return client


def chat(**fields) -> pb.Request:
    """A request that the stand-in answers with four tokens and its end-of-sequence id."""
    fields = {"stopping": {"ignore_eos": False}, **fields}
    return request(prompt_token_ids=[100, EOS[0], 4], max_tokens=50, **fields)


# --- what it is ----------------------------------------------------------------------------------


def test_it_says_what_it_is(worker):
    told = worker.service.GetWorkerInfo(worker_pb2.GetWorkerInfoRequest(), timeout=WAIT_S)
    assert (told.engine, told.engine_version, told.model) == ("tensorrt_llm", "1.2.1", "m")
    assert (told.limits.context_tokens, told.limits.vocabulary_size) == (2048, VOCABULARY)
    assert (told.limits.kv_block_tokens, told.limits.kv_blocks) == (32, 2048)
    assert list(told.eos_token_ids) == list(EOS)
    assert {worker_pb2.Capability.Name(each) for each in told.capabilities} == {
        "CAPABILITY_LOGPROBS",
        "CAPABILITY_MIN_P",
        "CAPABILITY_CACHE_SALT",
        "CAPABILITY_KV_EVENTS",
        "CAPABILITY_CACHED_PROMPT_TOKENS",
    }


# --- generations ---------------------------------------------------------------------------------


def test_tokens_come_as_they_are_made_and_once(worker):
    asked = pb.ExecuteRequest(request=request(max_tokens=60))
    messages = list(worker.execution.Execute(asked, timeout=WAIT_S))
    assert sum(bool(each.tokens.token_ids) for each in messages) > 20
    generated = read_execute(iter(messages))
    assert (len(generated.ids[0]), generated.reasons) == (60, [LENGTH])
    assert execute(worker, request(max_tokens=60)).ids == generated.ids


def test_sequences_are_their_own(worker):
    sampling = {"temperature": 1.0, "seed": 3}
    generated = execute(worker, request(max_tokens=30, sequence_count=3, sampling=sampling))
    assert generated.reasons == [LENGTH] * 3
    assert [len(generated.ids[sequence]) for sequence in range(3)] == [30] * 3
    assert len({tuple(ids) for ids in generated.ids.values()}) == 3
    second = {"temperature": 1.0, "seed": 4}
    assert execute(worker, request(max_tokens=30, sampling=second)).ids[0] == generated.ids[1]


def test_the_models_end_and_a_callers_stop(worker):
    generated = execute(worker, chat())
    assert (generated.reasons, generated.endings[0].stop_token_id) == ([STOP], EOS[0])
    assert (len(generated.ids[0]), generated.ids[0][-1]) == (5, EOS[0])
    passed = execute(worker, chat(stopping={"ignore_eos": True}))
    assert (passed.reasons, len(passed.ids[0])) == ([LENGTH], 50)
    stop = generated.ids[0][2]
    stopped = execute(worker, chat(stopping={"ignore_eos": True, "stop_token_ids": [stop]}))
    assert (stopped.reasons, stopped.endings[0].stop_token_id) == ([STOP], stop)
    assert stopped.ids[0][-1] == stop


def test_each_token_has_its_log_probability(worker):
    generated = execute(worker, request(logprobs=True))
    assert [each.token_id for each in generated.logprobs[0]] == generated.ids[0]
    assert all(each.logprob <= 0 for each in generated.logprobs[0])


def test_cached_tokens_and_times_are_those_of_the_engine(worker):
    asked = request(max_tokens=40, tokens=200, cache_salt="times")
    first = execute(worker, asked).completed
    again = execute(worker, asked).completed
    assert (first.cached_prompt_tokens, again.cached_prompt_tokens) == (0, 192)
    for completed in (first, again):
        assert completed.queue.ToNanoseconds() >= 0
        assert completed.prefill.ToNanoseconds() >= 0
        assert completed.decode.ToNanoseconds() > 39 * 1_000_000, "40 steps of 2 ms"


def test_many_share_a_stream(worker):
    with Exchange(worker) as exchange:
        for handle in range(40):
            exchange.submit(handle, request(handle, max_tokens=30))
        together = exchange.finish(*range(40))
    assert all(len(each.ids[0]) == 30 for each in together)
    assert together[7].ids == execute(worker, request(7, max_tokens=30)).ids
    assert max(len(message.handles) for message in exchange.messages) > 10


def test_what_the_engine_cannot_take_is_refused_by_name(worker):
    for fields, field in [
        ({"lora_adapter": "none"}, "request.lora_adapter"),
        ({"logprobs": True, "top_logprobs": 1}, "request.top_logprobs"),
        ({"guide": pb.Guide(regex="a+")}, "request.guide"),
        ({"prompt_token_ids": [VOCABULARY]}, "request.prompt_token_ids"),
    ]:
        message = pb.ExecuteRequest(request=request(**fields))
        refusal = refused(lambda message=message: worker.execution.Execute(message, timeout=WAIT_S))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [name for name in refusal.fields if name.startswith(field)], refusal.fields


# --- load and events -----------------------------------------------------------------------------


def test_the_load_follows_what_runs(worker):
    watch = worker.watch()
    with Exchange(worker) as exchange:
        for handle in range(3):
            exchange.submit(handle, request(handle, max_tokens=LONG))
        busy = next(load for load in watch if load.running_sequences == 3)
        used = next(load for load in watch if load.kv_cache_usage > 0)
        assert used.generated_tokens > busy.generated_tokens
    next(load for load in watch if load.running_sequences == 0)
    watch.cancel()


def test_cached_blocks_are_published(worker):
    wanted = worker_pb2.WatchKvEventsRequest(first_number=1)
    watch = worker.service.WatchKvEvents(wanted, timeout=WAIT_S)
    asked = request(77, tokens=96, max_tokens=4)
    execute(worker, asked)
    numbers, stored = [], []
    while not stored or stored[-1].token_ids[-1] != asked.prompt_token_ids[-1]:
        event = next(watch)
        numbers.append(event.number)
        if event.HasField("stored"):
            stored.append(event.stored)
    watch.cancel()
    assert numbers == list(range(1, len(numbers) + 1))
    (whole,) = [each for each in stored if each.token_ids[0] == asked.prompt_token_ids[0]]
    assert whole.parent_hash == 0
    assert list(whole.token_ids) == list(asked.prompt_token_ids)
    assert len(set(whole.block_hashes)) == 3


# --- what stops generations ----------------------------------------------------------------------


def test_cancelling_frees_the_engine(worker):
    call = worker.execution.Execute(
        pb.ExecuteRequest(request=request(max_tokens=LONG, sequence_count=2)), timeout=WAIT_S
    )
    next(message for message in call if message.tokens.token_ids)
    call.cancel()
    worker.wait_until_idle()
    with Exchange(worker) as exchange:
        exchange.submit(1, request(max_tokens=LONG))
        exchange.submit(2, request(1, max_tokens=100))
        exchange.read_until(lambda: exchange[1].ids and exchange[2].ids)
        exchange.cancel(1)
        cancelled, other = exchange.finish(1, 2)
    assert (cancelled.reasons, other.reasons) == ([CANCELLED], [LENGTH])
    assert 0 < cancelled.completed.completion_tokens < LONG


def test_a_time_budget_ends_with_what_there_is(worker):
    generated = execute(worker, request(max_tokens=LONG, time_budget=0.3))
    assert generated.reasons == [TIME_BUDGET]
    assert 0 < generated.completed.completion_tokens < LONG
    worker.wait_until_idle()


def test_overload_is_told_with_what_to_do(own_worker):
    _, worker = own_worker("--tensorrt-llm.max-batch-size", "2", "--max-waiting-requests", "1")
    with Exchange(worker) as exchange:
        for handle in range(4):
            exchange.submit(handle, request(handle, max_tokens=LONG))
        (fourth,) = exchange.finish(3)
        refusal = refusal_of_status(fourth.failure)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert refusal.retry_after_s > 0
        load = worker.load()
        assert (load.running_sequences, load.waiting_requests) == (2, 1)
        exchange.cancel(0)
        exchange.read_until(lambda: exchange[2].ids)


def test_what_the_torch_sampler_passes_over_is_refused(own_worker):
    _, worker = own_worker("--tensorrt-llm.sampler-type", "TorchSampler")
    penalty = request(sampling={"repetition_penalty": 1.2})
    message = pb.ExecuteRequest(request=penalty)
    refusal = refused(lambda: worker.execution.Execute(message, timeout=WAIT_S))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "request.sampling.repetition_penalty" in refusal.fields
    ran = execute(worker, request(logprobs=True, top_logprobs=2))
    assert all(len(each.alternatives) == 2 for each in ran.logprobs[0])


# --- the process ---------------------------------------------------------------------------------


def test_sigterm_lets_what_is_in_flight_finish(own_worker):
    process, worker = own_worker()
    with Exchange(worker) as exchange:
        exchange.submit(1, request(max_tokens=200))
        exchange.read_until(lambda: exchange[1].ids)
        process.terminate()
        wait_for_health(worker.raw, NOT_SERVING)
        (generated,) = exchange.finish(1)
    assert (len(generated.ids[0]), generated.reasons) == (200, [LENGTH])
    worker.raw.close()
    assert process.wait() == 0
    assert "Traceback" not in process.output


def test_what_outlasts_the_grace_fails(own_worker):
    process, worker = own_worker("--drain-grace-s", "0.2")
    with Exchange(worker) as exchange:
        exchange.submit(1, request(max_tokens=LONG))
        exchange.read_until(lambda: exchange[1].ids)
        process.terminate()
        (generated,) = exchange.finish(1)
    assert refusal_of_status(generated.failure).reason == "DRAINING"
    worker.raw.close()
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("way", "stall_s", "reason", "told"),
    [
        ("FATAL", "0", "ENGINE_DIED", "illegal memory access"),
        ("HANGING", "2", "ENGINE_STALLED", "made no progress for 2 s"),
    ],
)
def test_the_death_of_the_engine_ends_the_process(own_worker, way, stall_s, reason, told):
    fatal = 4001
    environment = {f"STAND_IN_{way}_TOKEN": str(fatal)}
    process, worker = own_worker("--stall-s", stall_s, **environment)
    with Exchange(worker) as exchange:
        for handle in range(3):
            exchange.submit(handle, request(handle, max_tokens=LONG))
        exchange.read_until(lambda: all(exchange[handle].ids for handle in range(3)))
        exchange.submit(3, request(prompt_token_ids=[fatal] * 9))
        for generated in exchange.finish(0, 1, 2, 3):
            refusal = refusal_of_status(generated.failure)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
            assert told in refusal.message
        exchange.read_to_end()
    assert process.wait() == 70
    line = process.wait_for("engine_died")
    assert (line["level"], told in line["reason"]) == ("critical", True)
    assert "Traceback" not in process.output


def test_what_is_set_wrongly_is_one_line(processes, model, tmp_path):
    for arguments, told in [
        (["--tensorrt-llm.arg", "no_such=1"], "no_such"),
        (["--tensorrt-llm.kv-cache-config.tokens-per-block", "33"], "33 is not a power of two"),
        (["--tensorrt-llm.lora", f"x={tmp_path / 'none'}"], "none"),
    ]:
        process = run(processes, model, *arguments)
        assert process.wait() == 64
        assert told in process.output
        assert "Traceback" not in process.output


def test_without_the_package_it_is_told_how_to_get_it(processes, model):
    process = run(processes, model, PYTHONPATH="")
    assert process.wait() == 64
    assert "tensorrt_llm" in process.output
    assert "Traceback" not in process.output


def test_an_engine_that_does_not_start_ends_with_70(processes, model):
    process = run(processes, model, STAND_IN_START_ERROR="CUDA out of memory")
    assert process.wait() == 70
    assert "CUDA out of memory" in process.wait_for("engine_did_not_start")["reason"]
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    ("environment", "code", "told"),
    [(STAND_IN, 0, "tensorrt_llm 1.2.1: as recorded"), ({}, 1, "tensorrt_llm is not installed")],
)
def test_check_engine_is_a_command(environment, code, told):
    done = subprocess.run(
        [sys.executable, "-m", "tokenwire_worker", "check-engine"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, told in done.stdout) == (code, True)
    assert "Traceback" not in done.stderr
