"""Receivers of OTLP over HTTP and over gRPC: what services export, as a collector gets it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.services.processes import WAIT_S


def plain(value: AnyValue) -> Any:
    """Returns an attribute's value as Python's own."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(each) for each in value.array_value.values]
    return getattr(value, kind)


def attributes(message: Any) -> dict[str, Any]:
    """Returns the attributes of a span, an event, a resource or a metric's point."""
    return {each.key: plain(each.value) for each in message.attributes}


@dataclass(frozen=True)
class Origin:
    """Where something that was received comes from."""

    resource: tuple[tuple[str, Any], ...]
    scope: str
    schema_url: str

    @property
    def service(self) -> str:
        """Name of the service."""
        name: str = dict(self.resource)["service.name"]
        return name


@dataclass(frozen=True)
class SpanOf:
    """A span that was received."""

    origin: Origin
    span: Span

    @cached_property
    def attributes(self) -> dict[str, Any]:
        return attributes(self.span)

    @property
    def service(self) -> str:
        return self.origin.service

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def kind(self) -> str:
        return Span.SpanKind.Name(self.span.kind).removeprefix("SPAN_KIND_")


@dataclass(frozen=True)
class MetricOf:
    """A metric that was received, with the points of one export."""

    origin: Origin
    metric: Metric

    @property
    def kind(self) -> str:
        kind = str(self.metric.WhichOneof("data"))
        return "counter" if kind == "sum" and self.metric.sum.is_monotonic else kind

    @property
    def points(self) -> list[Any]:
        return list(getattr(self.metric, str(self.metric.WhichOneof("data"))).data_points)


class Received:
    """What has come."""

    def __init__(self) -> None:
        self.spans: list[SpanOf] = []
        self.metrics: list[MetricOf] = []
        self.bodies: list[bytes] = []
        """Every request's body, unpacked."""
        self.checked: dict[str, int] = {}
        """Traces that a test has seen as it wanted them, and the number of their spans."""
        self._news = threading.Condition()

    def _take(self, path: str, body: bytes) -> None:
        spans, metrics = [], []
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            for origin, scope in _scopes(traces.resource_spans, "scope_spans"):
                spans += [SpanOf(origin, span) for span in scope.spans]
        else:
            assert path == "/v1/metrics", path
            exported = ExportMetricsServiceRequest.FromString(body)
            for origin, scope in _scopes(exported.resource_metrics, "scope_metrics"):
                metrics += [MetricOf(origin, metric) for metric in scope.metrics]
        with self._news:
            self.bodies.append(body)
            self.spans += spans
            self.metrics += metrics
            self._news.notify_all()

    def wait_until(self, done: Callable[[], Any], what: Callable[[], Any] = str) -> Any:
        """Waits until something holds of what was received and returns it, or says what is."""
        with self._news:
            self._news.wait_for(done, WAIT_S)
            found = done()
            assert found, what()
            return found

    def trace(self, trace_id: str) -> list[SpanOf]:
        """Returns the spans of a trace that have come."""
        return [each for each in list(self.spans) if each.trace_id == trace_id]

    def wait_for(self, trace_id: str, names: set[str]) -> dict[str, SpanOf]:
        """Waits until spans of these names have come for a trace, and returns them by name."""

        def found() -> dict[str, SpanOf] | None:
            spans = {each.span.name: each for each in self.trace(trace_id)}
            return spans if names <= set(spans) else None

        spans: dict[str, SpanOf] = self.wait_until(
            found, lambda: f"of {names} came {[each.span.name for each in self.trace(trace_id)]}"
        )
        return spans

    def points(self, service: str, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """Returns a metric's points of the last export that has it, by their attributes."""
        for each in reversed(list(self.metrics)):
            if (each.origin.service, each.metric.name) == (service, name):
                return {tuple(sorted(attributes(point).items())): point for point in each.points}
        return {}


class Collector(Received):
    """Listens over HTTP until it is closed; port 0 takes any."""

    def __init__(self, port: int = 0) -> None:
        super().__init__()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                self.send_response(200)
                self.end_headers()
                collector._take(self.path, body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05])
        self._thread.start()

    def close(self) -> None:
        """Stops to listen, as a collector that is killed."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class GrpcCollector(Received):
    """Listens over gRPC until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: dict[str, str] = {}
        """Those of the last export."""
        self._server = grpc.server(ThreadPoolExecutor(2))
        for signal in ("trace", "metrics"):
            service = f"opentelemetry.proto.collector.{signal}.v1.{signal.title()}Service"
            path = f"/v1/{signal.removesuffix('s')}s"
            handler = grpc.unary_unary_rpc_method_handler(partial(self._export, path))
            self._server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(service, {"Export": handler})]
            )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._server.start()

    def _export(self, path: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        self.headers = dict(context.invocation_metadata())
        self._take(path, body)
        return b""

    def close(self) -> None:
        """Stops to listen."""
        self._server.stop(None)


def _scopes(resources: Any, scopes: str) -> Iterator[tuple[Origin, Any]]:
    for resource in resources:
        told = tuple(sorted(attributes(resource.resource).items()))
        for scope in getattr(resource, scopes):
            yield Origin(told, scope.scope.name, scope.schema_url), scope
