"""A prompt and its tokens at workers of their own: real processes, and what they tell of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire_service.telemetry import semconv

from tests.services.calls import Frontend, generation
from tests.services.collector import Collector
from tests.services.groups import group_of
from tests.services.processes import SERVING, Process, Processes, wait_for_health
from tests.telemetry.conftest import ADMIN, exporting
from tests.telemetry.scrapes import Scrape
from tests.telemetry.trees import Caller, call, check_tree, ran, under

PROMPT = list(range(300, 1300))


@dataclass
class Apart:
    """A worker for each phase, their frontend of two processes, and a client of the first."""

    prefill: Process
    decode: Process
    frontend: Process
    client: Frontend


@pytest.fixture(scope="module")
def apart(lasting: Processes, collector: Collector) -> Iterator[Apart]:
    environment = exporting(collector)
    workers = [
        lasting.simulated(
            *("--phases", phases, "--worker-name", phases, "--simulated.step-ms", "1", *ADMIN),
            environment=environment,
        )
        for phases in ("prefill", "decode")
    ]
    group = group_of(
        lasting, "--disaggregate-from-tokens", "500", workers=workers, environment=environment
    )
    for worker in workers:
        group.process.wait_for("worker", address=worker.address, state="ready", process=0)
    with Frontend(group.both_serve()[0]["address"]) as client:
        wait_for_health(client.raw, SERVING)
        yield Apart(*workers, group.process, client)


def modes(response: fg.GenerateResponse) -> list[tuple[str, int]]:
    return [(each.worker, each.mode) for each in response.attempts]


def test_one_trace_has_both_workers_and_their_metrics_tell_what_was_fetched(apart, collector):
    caller = Caller()
    told = apart.client.generate(generation(PROMPT, 5), metadata=caller.metadata)
    assert modes(told) == [
        ("prefill", fg.ATTEMPT_MODE_PREFILL),
        ("decode", fg.ATTEMPT_MODE_FETCHED),
    ]
    first = ran(before=(), worker=(semconv.SPAN_QUEUE, semconv.SPAN_PREFILL)).splitlines()
    second = ran(before=(), worker=(semconv.SPAN_QUEUE, semconv.SPAN_FETCH, semconv.SPAN_DECODE))
    event = " [tokenwire.first_token]"
    own, route, hop, worker, *stages = second.splitlines()
    tree = [
        own.removesuffix(event) + event,
        route,
        *(line.replace(event, "") for line in first[2:]),
        route,
        hop,
        worker.removesuffix(event) + event,
        *stages,
    ]
    spans = check_tree(collector, caller, under(call("Generate"), "\n".join(tree)))
    fetched = [each.attributes.get(semconv.FETCHED_PROMPT_TOKENS) for each in spans]
    assert sorted(filter(None, fetched)) == [len(PROMPT) - 1]
    [only] = [each for each in spans if semconv.PREFILL_ONLY in each.attributes]
    assert only.attributes[semconv.WORKER] == "prefill"
    # What the second worker has now needs no other one.
    again = apart.client.generate(generation(PROMPT, 5))
    assert not again.attempts
    assert again.sequences == told.sequences
    scrape = Scrape(apart.frontend)
    reasons = scrape.by("tokenwire_frontend_prefills_total", "tokenwire_reason")
    assert reasons == {("handed_over",): 1}
    labels = ("gen_ai_request_model", "tokenwire_transfer_group", "tokenwire_process")
    pays = scrape.by("tokenwire_frontend_paired_groups", *labels)
    assert pays == {("demo", "simulated", "0"): 1}
    count = Scrape(apart.decode).by("tokenwire_worker_fetched_tokens_total", "gen_ai_request_model")
    assert count == {("demo",): len(PROMPT) - 1}


def test_a_worker_that_drains_with_prompts_loses_none(apart):
    prompts = [[seed, *PROMPT] for seed in range(10, 34)]

    def ask(prompt: list[int]) -> list[int]:
        answer = apart.client.generate(generation(prompt, 40))
        return list(answer.sequences[0].token_ids)

    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(ask, prompts))
        asked = [pool.submit(ask, prompt) for prompt in prompts[:8]]
        apart.prefill.terminate()
        assert [each.result() for each in asked] == answers[:8]
        assert apart.prefill.wait() == 0
        assert list(pool.map(ask, prompts[:2])) == answers[:2]
    assert apart.decode.process.poll() is None
