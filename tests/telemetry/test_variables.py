"""OpenTelemetry's variables, which a fleet shares: what can't be used is told and left out."""

from __future__ import annotations

import os

import pytest
import structlog
from tokenwire_service.telemetry import variables

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
QUEUE, BATCH = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def settled(monkeypatch, **values: str) -> list[tuple[str, str]]:
    """Sets variables and settles them; returns name and reason of each that is not used."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with structlog.testing.capture_logs() as lines:
        variables.settle()
        variables.tell()
    for line in lines:
        assert (line["event"], line["log_level"]) == ("otel_variable_not_used", "warning")
    return [(line["variable"], line["reason"]) for line in lines]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (ENDPOINT, "nonsense"),
        (ENDPOINT, "127.0.0.1:4318"),
        (ENDPOINT, "grpc://127.0.0.1:4317"),
        (ENDPOINT, "http://"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:port"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:0"),
        (PROTOCOL, "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "thrift"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "ten"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_PROPAGATORS", "b3"),
        ("OTEL_TRACES_SAMPLER", "parentbased_jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "7"),
        ("OTEL_TRACES_SAMPLER_ARG", "a tenth"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "some"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4k"),
        (QUEUE, "-5"),
        (QUEUE, "many"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1"),
    ],
)
def test_what_can_not_be_used_is_told_and_left_out(monkeypatch, name, value):
    [(told, reason)] = settled(monkeypatch, **{name: value})
    assert told == name
    assert value in reason
    assert name not in os.environ


@pytest.mark.parametrize(
    ("name", "value", "used"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger", "none"),
        ("OTEL_METRICS_EXPORTER", "prometheus", "none"),
        ("OTEL_METRICS_EXPORTER", "console, otlp", "otlp"),
        (BATCH, "4096", "2048"),
    ],
)
def test_what_is_nearest_is_used_instead(monkeypatch, name, value, used):
    assert [told for told, _ in settled(monkeypatch, **{name: value})] == [name]
    assert os.environ[name] == used


def test_a_fleets_variables_are_told_once_and_the_rest_is_used(monkeypatch):
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    told = settled(monkeypatch, OTEL_PROPAGATORS="b3,tracecontext", OTEL_METRICS_EXPORTER="statsd")
    assert [name for name, _ in told] == ["OTEL_METRICS_EXPORTER", "OTEL_PROPAGATORS"]
    assert variables.exports("TRACES")
    assert not variables.exports("METRICS")
    assert settled(monkeypatch) == []


def test_what_the_documents_show_is_used(monkeypatch):
    given = {
        ENDPOINT: "http://127.0.0.1:4318",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://[::1]:4318/v1/traces",
        "OTEL_METRICS_EXPORTER": "none",
        PROTOCOL: "http/protobuf",
        "OTEL_PROPAGATORS": "tracecontext,baggage",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_TRACES_SAMPLER": "ParentBased_TraceIdRatio",
        "OTEL_TRACES_SAMPLER_ARG": "0.05",
        "OTEL_LOGS_EXPORTER": "none",
    }
    assert settled(monkeypatch, **given) == []
    assert {name: os.environ[name] for name in given} == given
    assert variables.exports("TRACES")
    assert not variables.exports("METRICS")


def test_each_signal_may_have_a_protocol_and_an_endpoint_of_its_own(monkeypatch):
    given = {
        ENDPOINT: "http://127.0.0.1:4318",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector:4317",  # as gRPC's own names are written
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip",
    }
    assert settled(monkeypatch, **given) == []
    assert [variables.protocol(each) for each in variables.SIGNALS] == ["grpc", "http/protobuf"]
    assert [variables.compression(each) for each in variables.SIGNALS] == ["gzip", "none"]


def test_nothing_is_sent_where_the_sdk_is_disabled(monkeypatch):
    settled(monkeypatch, **{ENDPOINT: "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"})
    assert not any(variables.exports(signal) for signal in variables.SIGNALS)


def test_a_small_queue_makes_small_batches(monkeypatch):
    assert settled(monkeypatch, **{QUEUE: "256"}) == []
    assert variables.batch_spans() == 256
