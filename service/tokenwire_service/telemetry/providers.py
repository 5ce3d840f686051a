"""Sets up where a process's spans and metrics go.

Both go to an OTLP endpoint where OTEL_EXPORTER_OTLP_ENDPOINT, or its variant for one of the two,
names one, over HTTP or as OTEL_EXPORTER_OTLP_PROTOCOL says; OTEL_TRACES_EXPORTER=none and
OTEL_METRICS_EXPORTER=none leave one of them out. OTEL_SDK_DISABLED=true leaves out both.
OTEL_TRACES_SAMPLER and the SDK's other variables apply; `variables` has made them fit for use
before. Metrics can be scraped as well.
Without an endpoint no span is recorded, but every request still has a trace id, its caller's or a
new one, in replies and log lines; and without an endpoint or a scrape nothing is measured.

Every queue is bounded (OTEL_BSP_MAX_QUEUE_SIZE, 2,048 spans); what an endpoint that is away does
not take is dropped, and no request waits for it.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from typing import Any, Protocol

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tokenwire_service.telemetry import exposition, histogram, semconv, tracing, variables
from tokenwire_service.telemetry.collected import Collected, collected
from tokenwire_service.telemetry.histogram import HistogramExporter

LAST_EXPORT_TIMEOUT_S = 3.0
"""Time at the process's end to send what is left. The SDK would try for half a minute, and a
collector that is away must not hold up a restart."""


class Telemetry:
    """The process's providers, installed as OpenTelemetry's global ones.

    Args:
        service: name of the service.
        instance: what tells this process from others of the service.
        version: of the service.
        scraped: whether `scrape` will be called.
        simulated: whether the process computes nothing, which every span and metric then says.
    """

    def __init__(
        self,
        service: str,
        instance: str,
        version: str,
        *,
        scraped: bool,
        simulated: bool = False,
    ) -> None:
        own: dict[str, str | bool] = {
            SERVICE_NAME: service,
            SERVICE_INSTANCE_ID: instance,
            SERVICE_VERSION: version,
        }
        if simulated:
            own[semconv.SIMULATED] = True
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word.
        resource = Resource.create(own).merge(OTELResourceDetector().detect())
        self._resource = resource
        self._tracers = _tracer_provider(resource)
        trace.set_tracer_provider(self._tracers)
        self._scraped = InMemoryMetricReader() if scraped else None
        readers: list[MetricReader] = [self._scraped] if self._scraped else []
        if variables.exports("METRICS"):
            readers.append(_otlp_metrics(resource))
        self._meters = MeterProvider(readers, resource, shutdown_on_exit=False) if readers else None
        if self._meters is not None:
            metrics.set_meter_provider(self._meters)
            histogram.enable()

    @property
    def measures(self) -> bool:
        """Whether metrics go anywhere."""
        return self._meters is not None

    def collect(self) -> Collected:
        """Returns all metrics. Takes some milliseconds: call it off the event loop."""
        data = self._scraped.get_metrics_data() if self._scraped else None
        return collected(histogram.added_to(data, self._resource))

    def render(self, data: Collected, accept: str) -> tuple[bytes, str]:
        """Returns metrics and their content type, in the format that Accept asks for; likewise."""
        return exposition.render(self._resource.attributes, data, accept)

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Returns all metrics and their content type, in the format that Accept asks for."""
        return await asyncio.to_thread(lambda: self.render(self.collect(), accept))

    def shutdown(self) -> None:
        """Sends what is left, within LAST_EXPORT_TIMEOUT_S."""
        closing = threading.Thread(target=self._close, name="telemetry-close", daemon=True)
        closing.start()
        closing.join(LAST_EXPORT_TIMEOUT_S)

    def _close(self) -> None:
        self._tracers.shutdown()
        if self._meters is not None:
            self._meters.shutdown()


def _tracer_provider(resource: Resource) -> TracerProvider:
    if not variables.exports("TRACES"):
        return TracerProvider(resource=resource, sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = _over("TRACES").span_exporter()
    processor = BatchSpanProcessor(exporter, max_export_batch_size=variables.batch_spans())
    provider.add_span_processor(processor)
    tracing.write_to(processor, resource, provider.sampler)
    return provider


def _otlp_metrics(resource: Resource) -> MetricReader:
    exporter = HistogramExporter(_over("METRICS").metric_exporter(), resource)
    return PeriodicExportingMetricReader(exporter)


class _Exporters(Protocol):
    """What a module of exporters offers."""

    def span_exporter(self) -> SpanExporter: ...
    def metric_exporter(self) -> MetricExporter: ...


def _over(signal: str) -> _Exporters:
    """Returns the exporters of the protocol that a signal is sent over.

    They are imported only where they are used: HTTP's bring a client of their own.
    """
    name = "otlp_grpc" if variables.protocol(signal) == variables.GRPC else "otlp_http"
    module: Any = importlib.import_module(f"{__package__}.{name}")
    return module  # type: ignore[no-any-return]
