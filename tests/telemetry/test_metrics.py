"""Metrics after known work: what clients counted is what both services tell, by either way out."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from tokenwire.frontend.v1 import generation_pb2 as fg

from tests.services.calls import (
    Streamed,
    duration,
    endless,
    generation,
    read,
    refused,
)
from tests.services.collector import Collector
from tests.services.processes import WAIT_S
from tests.telemetry.conftest import Pair
from tests.telemetry.scrapes import OPENMETRICS, Scrape, grown
from tests.telemetry.trees import Caller

MODEL = "gen_ai_request_model"
GENERATIONS = ("tokenwire_generations_total", MODEL, "tokenwire_outcome", "tokenwire_reason")
TOKENS = ("tokenwire_tokens_total", MODEL, "gen_ai_token_type")
SERVICE = "tokenwire.frontend.v1.GenerationService"


def idle(pair: Pair) -> None:
    """Waits until nothing is left of what earlier tests did."""
    pair.worker.wait_until_idle()
    while Scrape(pair.frontend_process).value("tokenwire_frontend_active_generations"):
        pair.frontend.workers()


def work(pair: Pair) -> list[Streamed]:
    """Does known work by every entry point; returns what came of each generation that ran."""
    client, done = pair.frontend, []
    for number, tokens in enumerate((5, 40, 1)):
        done.append(client.stream(generation(f"Number {number}", tokens)))
    text = done[1].text()
    done.append(client.stream(endless("Number 1", stop={"stop": [text[6:10]]})))
    done.append(client.stream(endless(time_budget=duration(0.3))))
    with client.session() as session:
        session.open(1, endless("One", sequence_count=2))
        session.read_until(lambda: len(session[1].deltas) > 59)
        session.cancel(1)
        done += session.finish(1)
        session.close_sending()
        session.read_to_end()
    refused(lambda: client.stream(generation(max_tokens=0)))
    refused(lambda: client.stream(generation(model="invented")))
    return done


@pytest.fixture(scope="module")
def worked(shared):
    """Known work: what came of it, and scrapes of both services around it."""
    idle(shared)
    processes = (shared.frontend_process, shared.worker_process)
    before = [Scrape(process) for process in processes]
    done = work(shared)
    idle(shared)
    after = [Scrape(process) for process in processes]
    return done, (before[0], after[0]), (before[1], after[1])


def test_generations_by_how_they_ended(worked):
    _, frontend, worker = worked
    assert grown(*frontend, *GENERATIONS) == {
        ("demo", "completed", "length"): 3,
        ("demo", "completed", "stop"): 1,
        ("demo", "completed", "time_budget"): 1,
        ("demo", "cancelled", "client_cancel"): 1,
        ("demo", "refused", "INVALID_FIELD"): 1,
        ("", "refused", "UNKNOWN_MODEL"): 1,
    }
    assert grown(*worker, *GENERATIONS) == {
        ("demo", "completed", "length"): 3,
        ("demo", "completed", "time_budget"): 1,
        # A stop string is the frontend's, so to the worker its end is its caller's cancel.
        ("demo", "cancelled", "caller"): 2,
    }


def test_tokens_are_what_clients_counted(worked):
    done, frontend, worker = worked
    usages = [each.completed.usage for each in done]
    read, made = (
        sum(getattr(usage, f"{kind}_tokens") for usage in usages)
        for kind in ("prompt", "completion")
    )
    assert made > 100
    told, there = grown(*frontend, *TOKENS), grown(*worker, *TOKENS)
    assert told["demo", "input"] == there["demo", "input"] == read
    # A worker is ahead of a stop string and of a cancel.
    assert made <= told["demo", "output"] <= there["demo", "output"]
    taken = sum(len(each.deltas) for each in done)
    assert grown(*frontend, "tokenwire_frontend_deltas_total", MODEL) == {("demo",): taken}


def test_tokens_of_what_runs_to_its_end_are_exact(pair):
    idle(pair)
    processes = (pair.frontend_process, pair.worker_process)
    before = [Scrape(process) for process in processes]
    usage = pair.frontend.stream(generation("Hello", 30, sequence_count=2)).completed.usage
    idle(pair)
    for process, scrape in zip(processes, before, strict=True):
        assert grown(scrape, Scrape(process), *TOKENS) == {
            ("demo", "input"): usage.prompt_tokens,
            ("demo", "output"): 60,
        }


def test_durations_are_counted_once_for_a_generation(worked):
    _, frontend, worker = worked
    of_model = ("gen_ai_operation_name", MODEL)
    for scrapes in (frontend, worker):
        for name, count in [
            ("gen_ai_server_request_duration_seconds", 6),
            ("gen_ai_server_time_to_first_token_seconds", 6),
            ("gen_ai_server_time_per_output_token_seconds", 5),  # one has a single token
        ]:
            counts = grown(*scrapes, f"{name}_count", *of_model)
            assert counts == {("text_completion", "demo"): count}, name
    queue = grown(*worker, "tokenwire_worker_queue_duration_seconds_count", MODEL)
    assert queue == {("demo",): 6}
    text = grown(
        *frontend, "tokenwire_frontend_text_duration_seconds_count", "tokenwire_text_stage"
    )
    assert text == {("tokenize",): 6}


def test_the_sum_of_durations_is_what_clients_were_told(worked):
    done, frontend, _ = worked
    sums = grown(*frontend, "gen_ai_server_request_duration_seconds_sum")
    told_s = sum(each.completed.timings.total.ToNanoseconds() for each in done) / 1e9
    assert sums[()] == pytest.approx(told_s, rel=0.01)


def test_calls_by_method_and_status(worked):
    _, frontend, worker = worked
    labels = ("rpc_method", "rpc_response_status_code", "error_type")
    calls = grown(*frontend, "rpc_server_call_duration_seconds_count", *labels)
    stream = f"{SERVICE}/StreamGenerate"
    assert {key: value for key, value in calls.items() if key[0].startswith(SERVICE)} == {
        (stream, "OK", ""): 5,
        (stream, "INVALID_ARGUMENT", "INVALID_ARGUMENT"): 1,
        (stream, "NOT_FOUND", "NOT_FOUND"): 1,
        (f"{SERVICE}/Session", "OK", ""): 1,
    }
    hops = grown(*frontend, "rpc_client_call_duration_seconds_count", *labels)
    assert hops == {("tokenwire.worker.v1.ExecutionService/Exchange", "OK", ""): 6}
    assert worker[1].by("rpc_server_call_duration_seconds_count", "rpc_system_name").keys() == {
        ("grpc",)
    }


def test_steps_of_the_engine(worked):
    _, _, (before, after) = worked
    [steps] = grown(before, after, "tokenwire_worker_step_duration_seconds_count").values()
    [counted] = grown(before, after, "tokenwire_worker_step_sequences_count").values()
    [sequences] = grown(before, after, "tokenwire_worker_step_sequences_sum").values()
    assert steps == counted
    # One token for a sequence and step; a step of a prompt brings none.
    made = grown(before, after, *TOKENS)["demo", "output"]
    assert made <= sequences <= made + steps


def test_the_event_loops_are_watched(worked):
    for before, after in worked[1:]:
        [samples] = grown(before, after, "tokenwire_event_loop_lag_seconds_count").values()
        assert samples >= 1


def exported(collector: Collector, service: str, scrape: Scrape, name: str) -> bool:
    """Tells whether a counter's last export has the values of a scrape."""
    points = collector.points(service, name)
    values = {
        tuple(sorted((key.replace(".", "_"), value) for key, value in attributes)): point.as_int
        for attributes, point in points.items()
    }
    sample = name.replace(".", "_") + "_total"
    scraped = {labels: value for (each, labels), value in scrape.samples.items() if each == sample}
    return bool(values) and values == scraped


@pytest.mark.parametrize("service", ["frontend", "worker"])
def test_otlp_tells_the_same(pair, worked, service):
    scrape = Scrape({"frontend": pair.frontend_process, "worker": pair.worker_process}[service])
    for name in ("tokenwire.generations", "tokenwire.tokens"):
        pair.collector.wait_until(
            lambda name=name: exported(pair.collector, f"tokenwire-{service}", scrape, name)
        )


# --- while they run ------------------------------------------------------------------------------


def test_what_runs_and_waits_is_told_while_it_does(pair):
    """The shared worker runs four at once and gets one more; the sixth waits at the frontend."""
    idle(pair)
    with ExitStack() as calls:
        for number in range(6):
            started = pair.frontend.start(endless(f"Number {number}"))
            calls.callback(started.cancel)
            if number < 5:
                next(started)
        pair.worker.wait_for_load(
            lambda load: load.running_sequences == 4 and load.kv_cache_usage > 0.05
        )
        frontend, worker = Scrape(pair.frontend_process), Scrape(pair.worker_process)
        pair.collector.wait_until(lambda: held(pair.collector))
    assert frontend.value("tokenwire_frontend_active_generations") == 6
    assert frontend.value("tokenwire_frontend_generations_limit") == 1024
    assert frontend.value("tokenwire_frontend_tokenizer_texts") == 0
    assert frontend.by("tokenwire_frontend_workers", "tokenwire_worker_state") == {
        ("connecting",): 0,
        ("ready",): 1,
        ("suspect",): 0,
        ("lost",): 0,
        ("draining",): 0,
        ("refused",): 0,
    }
    assert worker.value("tokenwire_worker_running_sequences") == 4
    assert worker.value("tokenwire_worker_running_sequences_limit") == 4
    assert frontend.value("tokenwire_frontend_queued_requests", gen_ai_request_model="demo") == 1
    assert worker.value("tokenwire_worker_waiting_requests") == 1
    assert worker.value("tokenwire_worker_waiting_requests_limit") == 256
    used = worker.value("tokenwire_worker_kv_blocks_used")
    assert 512 * 0.05 <= used <= 512 == worker.value("tokenwire_worker_kv_blocks_capacity")
    usage = worker.value("tokenwire_worker_kv_cache_usage_ratio")
    assert usage == pytest.approx(used / 512, abs=0.05)  # read one after the other, while they grow
    idle(pair)
    assert Scrape(pair.worker_process).value("tokenwire_worker_running_sequences") == 0


def test_what_outlives_its_calls_is_told(pair):
    """Kept while it is, attached to by token and by key, and dropped when nobody came."""
    detach = {"on_disconnect": fg.ON_DISCONNECT_DETACH, "detach_ttl": duration(0.5)}
    what = generation("Kept", 4, idempotency_key="kept-once", **detach)
    before = Scrape(pair.frontend_process)
    token = pair.frontend.stream(what).accepted.resume_token
    during = Scrape(pair.frontend_process)
    assert during.value("tokenwire_frontend_kept_generations") == 1
    assert 16_384 < during.value("tokenwire_frontend_retained_bytes") < 20_000
    read(pair.frontend.generations.Attach(fg.AttachRequest(resume_token=token), timeout=WAIT_S))
    assert pair.frontend.stream(what).accepted.attached
    while Scrape(pair.frontend_process).value("tokenwire_frontend_kept_generations"):
        pair.frontend.workers()
    after = Scrape(pair.frontend_process)
    attaches = ("tokenwire_frontend_attaches_total", "tokenwire_attached_by")
    assert grown(before, after, *attaches) == {("token",): 1, ("key",): 1}
    dropped = ("tokenwire_frontend_kept_dropped_total", "tokenwire_reason")
    assert grown(before, after, *dropped) == {("expired",): 1}


def held(collector: Collector) -> bool:
    """Tells whether OTLP has told of what runs, too."""
    [waiting] = collector.points("tokenwire-worker", "tokenwire.worker.waiting_requests").values()
    [active] = collector.points(
        "tokenwire-frontend", "tokenwire.frontend.active_generations"
    ).values()
    return (waiting.as_int, active.as_int) == (1, 6)


# --- formats -------------------------------------------------------------------------------------


def test_both_formats_tell_the_same(pair, worked):
    for process in (pair.frontend_process, pair.worker_process):
        idle(pair)
        plain, open_ = Scrape(process), Scrape(process, OPENMETRICS)
        assert plain.content_type.startswith("text/plain; version=")
        assert open_.content_type.startswith("application/openmetrics-text")
        assert plain.samples.keys() == open_.samples.keys()
        [info] = [labels for name, labels in open_.samples if name == "target_info"]
        assert dict(info)["service_name"].startswith("tokenwire-")
        assert plain.value(GENERATIONS[0]) == open_.value(GENERATIONS[0])
        assert plain.exemplars == []


def test_exemplars_are_of_traces_that_were_exported(pair):
    caller = Caller()
    pair.frontend.stream(generation(max_tokens=4), metadata=caller.metadata)
    # No scrape before this one: exemplars are of what was measured since the last.
    pair.collector.wait_for(caller.trace_id, {"decode", f"{SERVICE}/StreamGenerate"})
    for process in (pair.frontend_process, pair.worker_process):
        exemplars = Scrape(process, OPENMETRICS).exemplars
        traces = {each.labels["trace_id"] for each in exemplars}
        assert caller.trace_id in traces
        got = {(each.trace_id, each.span.span_id.hex()) for each in list(pair.collector.spans)}
        unknown = {(each.labels["trace_id"], each.labels["span_id"]) for each in exemplars} - got
        assert unknown == set()


def test_an_unsampled_request_leaves_no_exemplar(pair):
    hidden, caller = Caller(sampled=False), Caller()
    for each in (hidden, caller):
        pair.frontend.generate(generation(max_tokens=2), metadata=each.metadata)
    pair.collector.wait_for(caller.trace_id, {"decode", f"{SERVICE}/Generate"})
    for process in (pair.frontend_process, pair.worker_process):
        exemplars = Scrape(process, OPENMETRICS).exemplars
        traces = {each.labels["trace_id"] for each in exemplars}
        assert caller.trace_id in traces
        assert hidden.trace_id not in traces
