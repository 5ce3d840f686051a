"""Traces as trees: what a trace looks like, and what must hold of every one."""

from __future__ import annotations

import itertools
import re
import secrets
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Status
from tokenwire.frontend.v1 import generation_pb2
from tokenwire_service.telemetry import registry, semconv
from tokenwire_service.telemetry.registry import SpanForm

from tests.services.collector import Collector, SpanOf, attributes

CLOCKS_NS = 1_000_000
"""Two processes read the clocks that they date spans by at their start, each for itself."""

FRONTEND_STAGES = (
    semconv.SPAN_LOOP, semconv.SPAN_RENDER, semconv.SPAN_TOKENIZE, semconv.SPAN_ROUTE,
)  # fmt: skip
WORKER_STAGES = (semconv.SPAN_QUEUE, semconv.SPAN_PREFILL, semconv.SPAN_DECODE)


@dataclass(frozen=True)
class Caller:
    """A client with a trace of its own."""

    sampled: bool = True
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What goes with a call."""
        return [("traceparent", self.traceparent)]

    @property
    def context(self) -> Any:
        """What goes with one generation of a session."""
        return generation_pb2.TraceContext(traceparent=self.traceparent)


def form_of(span: SpanOf) -> SpanForm:
    """Returns the declaration that a span is of: its service, kind and name."""

    def told(name: re.Match[str]) -> str:
        return str(span.attributes.get(name[1], ""))

    # Under a call of Execute a worker's generation is a part of that call.
    kinds = {span.kind, "SERVER" if semconv.ENGINE in span.attributes else span.kind}
    forms = [
        form
        for form in registry.SPANS
        if span.service in form.services
        and form.kind in kinds
        and re.sub(r"\{(.+?)\}", told, form.name).strip() == span.span.name
    ]
    assert len(forms) == 1, f"{span.service} {span.kind} {span.span.name}: {forms}"
    return forms[0]


def check_declared(span: SpanOf) -> None:
    """Checks a span's attributes and events against its declaration."""
    form, own = form_of(span), set(span.attributes)
    assert own >= set(form.attributes), (form.name, set(form.attributes) - own)
    assert own <= {*form.attributes, *form.optional}, (form.name, own)
    for event in span.span.events:
        assert event.name in form.events, (form.name, event.name)
        assert set(attributes(event)) == set(registry.EVENTS[event.name])


def shown(spans: Sequence[SpanOf]) -> str:
    """Returns the trees of a trace's spans as text, a span a line, its parent above it.

    Whether the event loop was behind is the machine's affair.
    """
    spans = [each for each in spans if each.span.name != semconv.SPAN_LOOP]
    ids = {each.span.span_id for each in spans}
    ordered = sorted(spans, key=lambda each: (each.span.start_time_unix_nano, each.span.name))

    def lines(parent: bytes | None, indent: str) -> list[str]:
        return [
            line
            for each in ordered
            if (each.span.parent_span_id == parent if parent else _is_root(each, ids))
            for line in (indent + _line(each), *lines(each.span.span_id, indent + "  "))
        ]

    return "\n".join(lines(None, ""))


def _is_root(span: SpanOf, ids: set[bytes]) -> bool:
    return span.span.parent_span_id not in ids


def _line(span: SpanOf) -> str:
    parts = [span.service.removeprefix("tokenwire-"), span.kind, span.span.name]
    if span.span.status.code == Status.STATUS_CODE_ERROR:
        parts.append(f"ERROR {span.attributes['error.type']}")
    if span.span.events:
        events = sorted(span.span.events, key=lambda event: event.time_unix_nano)
        parts.append(_events([event.name for event in events]).strip())
    return " ".join(parts)


def check_nesting(spans: Sequence[SpanOf]) -> None:
    """Checks that stages are ordered and inside their parents, and a hop inside its own."""
    by_id = {each.span.span_id: each for each in spans}
    for each in spans:
        span, parent = each.span, by_id.get(each.span.parent_span_id)
        assert span.start_time_unix_nano <= span.end_time_unix_nano, span.name
        if parent is None:
            continue
        # Only a stage and a hop are over before what they are part of: a generation whose caller
        # has gone outlives its call.
        apart = 0 if each.service == parent.service else CLOCKS_NS
        assert span.start_time_unix_nano >= parent.span.start_time_unix_nano - apart, span.name
        if span.name in (*FRONTEND_STAGES, *WORKER_STAGES) or each.kind == "CLIENT":
            assert span.end_time_unix_nano <= parent.span.end_time_unix_nano, span.name
    for stages in (FRONTEND_STAGES, WORKER_STAGES):
        _check_order(spans, stages)


def _check_order(spans: Sequence[SpanOf], stages: Sequence[str]) -> None:
    parents: dict[bytes, list[SpanOf]] = {}
    for each in spans:
        if each.span.name in stages:
            parents.setdefault(each.span.parent_span_id, []).append(each)
    for siblings in parents.values():
        siblings.sort(key=lambda each: (stages.index(each.span.name), _start(each)))
        for earlier, later in itertools.pairwise(siblings):
            assert earlier.span.end_time_unix_nano <= later.span.start_time_unix_nano


def _start(span: SpanOf) -> int:
    return span.span.start_time_unix_nano


def check_tree(collector: Collector, caller: Caller | str, *expected: str) -> list[SpanOf]:
    """Waits until a trace is one of these trees, checks all of it, and returns it in its order."""
    trace_id = caller if isinstance(caller, str) else caller.trace_id
    wanted = [textwrap.dedent(each).strip() for each in expected]
    collector.wait_until(
        lambda: shown(collector.trace(trace_id)) in wanted,
        lambda: f"{shown(collector.trace(trace_id))}\n\nis none of\n\n" + "\n\n".join(wanted),
    )
    spans = collector.trace(trace_id)
    collector.checked[trace_id] = len(spans)
    if isinstance(caller, Caller):
        ids = {each.span.span_id for each in spans}
        roots = {each.span.parent_span_id.hex() for each in spans if _is_root(each, ids)}
        assert roots == {caller.span_id}
    for each in spans:
        check_declared(each)
    check_nesting(spans)
    return sorted(spans, key=_start)


def only(spans: Sequence[SpanOf], service: str, name: str) -> SpanOf:
    """Returns the only span of this name that a service sent."""
    [found] = [
        each for each in spans if (each.service, each.span.name) == (f"tokenwire-{service}", name)
    ]
    return found


def call(method: str, *, error: str = "") -> str:
    """Returns the line of a call of the frontend."""
    line = f"frontend SERVER tokenwire.frontend.v1.GenerationService/{method}"
    return f"{line} ERROR {error}" if error else line


def ran(
    operation: str = "text_completion",
    before: Sequence[str] = ("tokenize",),
    worker: Sequence[str] = WORKER_STAGES,
    end: str = "",
) -> str:
    """Returns the tree of a generation that a worker ran.

    Args:
        operation: what it was.
        before: stages of the frontend before the route.
        worker: stages of the worker.
        end: which hop's span has the event of a cancel: "both", "worker" or neither.
    """
    first = ["tokenwire.first_token"] if "prefill" in worker else []
    cancelled = ["tokenwire.cancelled"]
    own = _events([*first, *(cancelled if end == "both" else [])])
    there = _events([*first, *(cancelled if end else [])])
    lines = [
        f"frontend INTERNAL {operation} demo{own}",
        *(f"  frontend INTERNAL {stage}" for stage in (*before, "route")),
        "  frontend CLIENT tokenwire.worker.v1.ExecutionService/Exchange",
        f"    worker SERVER text_completion demo{there}",
        *(f"      worker INTERNAL {stage}" for stage in worker),
    ]
    return "\n".join(lines)


def _events(names: Sequence[str]) -> str:
    return f" [{', '.join(names)}]" if names else ""


def under(parent: str, *children: str) -> str:
    """Returns a tree with these trees below its line."""
    return "\n".join([parent, *(textwrap.indent(child, "  ") for child in children)])
