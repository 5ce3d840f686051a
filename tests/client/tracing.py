"""A server with a method of each kind, and spans that a test can wait for."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.client.scripted_server import WAIT_S

KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")


class Spans(InMemorySpanExporter):
    """The spans that have ended; `provider` makes them."""

    def __init__(self):
        super().__init__()
        self._news = threading.Condition()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self))

    def export(self, spans):
        with self._news:
            result = super().export(spans)
            self._news.notify_all()
        return result

    def ended(self, count=1):
        """Returns the spans as soon as so many have ended; there must be no more."""
        with self._news:
            self._news.wait_for(lambda: len(self.get_finished_spans()) >= count, WAIT_S)
        spans = self.get_finished_spans()
        assert len(spans) == count, [span.name for span in spans]
        return spans


class EveryKind:
    """Answers OK, or fails for b"fail", or holds the call until it is cancelled for b"hold"."""

    def __init__(self):
        self.metadata = []
        self.repeated = []
        self.held = threading.Event()
        self.cancelled = threading.Event()
        self._threads = ThreadPoolExecutor(8)
        self._server = grpc.server(self._threads)
        handlers = {
            "UnaryUnary": grpc.unary_unary_rpc_method_handler(self._one_one),
            "UnaryStream": grpc.unary_stream_rpc_method_handler(self._one_many),
            "StreamUnary": grpc.stream_unary_rpc_method_handler(self._many_one),
            "StreamStream": grpc.stream_stream_rpc_method_handler(self._many_many),
        }
        service = grpc.method_handlers_generic_handler("test.Kinds", handlers)
        self._server.add_generic_rpc_handlers([service])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self):
        self._server.stop(None).wait(WAIT_S)
        self._threads.shutdown()

    def _act(self, request, context):
        pairs = context.invocation_metadata()
        self.metadata.append(dict(pairs))
        self.repeated += [key for key in dict(pairs) if [each.key for each in pairs].count(key) > 1]
        context.add_callback(self.cancelled.set)
        if request == b"fail":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
        if request.startswith(b"hold"):
            self.held.set()
            self.cancelled.wait(WAIT_S)

    def _one_one(self, request, context):
        self._act(request, context)
        return b"one"

    def _one_many(self, request, context):
        if request == b"hold after one":
            yield b"one"
        self._act(request, context)
        yield b"one"
        yield b"two"

    def _many_one(self, requests, context):
        return self._one_one(next(requests), context)

    def _many_many(self, requests, context):
        yield from self._one_many(next(requests), context)


def callable_of(channel, kind):
    """Returns the stub's method of this kind; requests and answers are bytes."""
    name = {
        "UnaryUnary": "unary_unary",
        "UnaryStream": "unary_stream",
        "StreamUnary": "stream_unary",
        "StreamStream": "stream_stream",
    }[kind]
    return getattr(channel, name)(f"/test.Kinds/{kind}")
