"""OTLP over gRPC, and a fleet's variables that ask for what is not supported."""

from __future__ import annotations

import pytest

from tests.services.calls import Frontend, generation
from tests.services.collector import GrpcCollector
from tests.services.processes import SERVING, wait_for_health
from tests.telemetry.conftest import exporting
from tests.telemetry.trees import Caller

FLEET = {
    "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=serving",
    "OTEL_PROPAGATORS": "b3,jaeger",
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_TRACES_EXPORTER": "otlp,zipkin",
    "OTEL_TRACES_SAMPLER": "xray",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "a lot",
}
UNUSED = set(FLEET) - {
    f"OTEL_EXPORTER_OTLP_{part}" for part in ("PROTOCOL", "COMPRESSION", "HEADERS")
}


@pytest.fixture
def collector():
    made = GrpcCollector()
    yield made
    made.close()


def test_both_services_export_over_grpc_and_go_on_without_what_is_not_supported(
    processes, collector
):
    def hops_of(caller: Caller) -> list[str]:
        spans = collector.trace(caller.trace_id)
        return [each.service for each in spans if each.span.name == "text_completion demo"]

    environment = exporting(collector, **FLEET)
    worker = processes.worker(
        *("--engine", "simulated", "--simulated.step-ms", "1"), environment=environment
    )
    frontend = processes.frontend("--processes", "2", workers=[worker], environment=environment)
    for process in (worker, frontend):
        for name in UNUSED:
            process.wait_for("otel_variable_not_used", variable=name)
    caller = Caller()
    with Frontend(frontend.address) as client:
        wait_for_health(client.raw, SERVING)
        client.generate(generation("Hello", 5), metadata=caller.metadata)
    name = "text_completion demo"
    collector.wait_until(
        lambda: [s.span.name for s in collector.trace(caller.trace_id)].count(name) == 2
    )
    spans = collector.trace(caller.trace_id)
    assert {each.service for each in spans} == {"tokenwire-frontend", "tokenwire-worker"}
    told = [each.attributes.get("gen_ai.usage.output_tokens", 0) for each in spans]
    assert sum(told) == 5, "a sum over all spans counts each token once"
    assert collector.headers["x-tenant"] == "serving"
    collector.wait_until(
        lambda: all(
            collector.points(service, "tokenwire.generations")
            for service in ("tokenwire-frontend", "tokenwire-worker")
        )
    )
    for process in (frontend, worker):
        process.terminate()
        assert process.wait() == 0, process.output
        assert "Traceback" not in process.output
        # The processes of a frontend have the environment that the first has made fit for use.
        assert len(process.events(event="otel_variable_not_used")) == len(UNUSED)
