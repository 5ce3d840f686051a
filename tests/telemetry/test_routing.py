"""What routing expected and what came of it, in spans and metrics, and on to the next frontend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ports import free_ports
from tests.services.calls import Frontend, generation
from tests.services.collector import Collector
from tests.services.processes import SERVING, Process, Processes, wait_for_health
from tests.telemetry.conftest import ADMIN, exporting
from tests.telemetry.scrapes import Scrape
from tests.telemetry.trees import Caller, call, check_tree, ran, under

WORKERS = 2
PROMPT = list(range(100, 300))
REUSED = 192
"""Tokens of the 12 whole blocks of 16 in the prompt, less its last token."""


@pytest.fixture(scope="module")
def workers(lasting: Processes, collector: Collector) -> list[str]:
    """Where simulated workers listen."""
    first = free_ports(WORKERS)
    addresses = [f"127.0.0.1:{first + number}" for number in range(WORKERS)]
    started = lasting.simulated(
        *("--simulated.workers", str(WORKERS), "--simulated.step-ms", "1"),
        *("--worker-name", "routed", "--admin-listen", "127.0.0.1:0"),
        listen=addresses[0],
        environment=exporting(collector),
    )
    for address in addresses:
        started.wait_for("listening", address=address)
    return addresses


@pytest.fixture
def routed(
    processes: Processes, collector: Collector, workers: list[str]
) -> Iterator[tuple[Process, Frontend]]:
    """A frontend of these workers, and a client."""
    started = processes.frontend(*ADMIN, workers=workers, environment=exporting(collector))
    for address in workers:
        started.wait_for("worker", address=address, state="ready")
    with Frontend(started.address) as client:
        wait_for_health(client.raw, SERVING)
        yield started, client


def test_expected_and_actual_reuse_are_told(routed, collector):
    frontend, client = routed
    caller = Caller()
    usages = [
        client.generate(generation(PROMPT, 4), metadata=caller.metadata).usage for _ in range(2)
    ]
    assert [usage.cached_prompt_tokens for usage in usages] == [0, REUSED]
    whole = under(call("Generate"), ran(before=()))
    spans = check_tree(collector, caller, f"{whole}\n{whole}")
    routes = [each.attributes for each in spans if each.span.name == "route"]
    expected = [each["tokenwire.route.expected_tokens"] for each in routes]
    assert sorted(expected) == [0, REUSED]
    assert {each["tokenwire.route.reason"].partition(" load")[0] for each in routes} == {
        "prefix hash reuse=0",
        f"prefix held reuse={REUSED}",
    }
    scrape = Scrape(frontend)
    assert scrape.by("tokenwire_frontend_expected_cache_tokens_total", "gen_ai_request_model") == {
        ("demo",): REUSED
    }
    assert scrape.by(
        "tokenwire_frontend_routed_total", "tokenwire_route_policy", "tokenwire_route_cause"
    ) == {("prefix", "hash"): 1, ("prefix", "held"): 1}
