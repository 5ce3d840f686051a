"""Which values of OpenTelemetry's variables are refused, and by which name."""

from __future__ import annotations

import pytest
from tokenwire_service.telemetry import variables

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
QUEUE, BATCH = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    import os

    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (ENDPOINT, "nonsense"),
        (ENDPOINT, "127.0.0.1:4318"),
        (ENDPOINT, "grpc://127.0.0.1:4317"),
        (ENDPOINT, "http://"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:port"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:0"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_TRACES_EXPORTER", "jaeger"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_TRACES_SAMPLER", "always_of"),
        ("OTEL_TRACES_SAMPLER_ARG", "7"),
        ("OTEL_TRACES_SAMPLER_ARG", "a tenth"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan"),
        (QUEUE, "-5"),
        (QUEUE, "many"),
        (BATCH, "4096"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_its_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    [fault] = variables.faults()
    assert fault.startswith(f"{name}: ")
    assert value in fault


def test_what_the_documents_show_is_taken(monkeypatch):
    for name, value in {
        ENDPOINT: "http://127.0.0.1:4318",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://[::1]:4318/v1/traces",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_SAMPLER": "ParentBased_TraceIdRatio",
        "OTEL_TRACES_SAMPLER_ARG": "0.05",
    }.items():
        monkeypatch.setenv(name, value)
    assert list(variables.faults()) == []
    assert variables.exports("TRACES")
    assert not variables.exports("METRICS")


def test_nothing_is_sent_where_the_sdk_is_disabled(monkeypatch):
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not any(variables.exports(signal) for signal in variables.SIGNALS)


def test_a_small_queue_makes_small_batches(monkeypatch):
    monkeypatch.setenv(QUEUE, "256")
    assert list(variables.faults()) == []
    assert variables.batch_spans() == 256
