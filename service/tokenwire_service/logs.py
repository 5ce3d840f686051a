"""Structured log lines on standard error: one object a line, or readable text on a terminal.

`configure` runs once, before the event loop and before gRPC: grpc.aio can deadlock with logging
that is set up later (grpc issue 43421).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from opentelemetry import trace


def configure(level: str, form: str, service: str) -> None:
    """Sets up logging for the process.

    Args:
        level: least severe level to write.
        form: `json`, `text`, or `auto` (text on a terminal, else JSON).
        service: value of `service` in every line.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if text else structlog.processors.JSONRenderer()
    numeric_level = getattr(logging, level.upper())
    structlog.contextvars.bind_contextvars(service=service)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace_id,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(numeric_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module; warnings of theirs are worth a line of the same
    # form. Their threads have no context of their own, so the service is added here.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _add(service=service), _add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(numeric_level, logging.WARNING))


def _add(**fields: str) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        event.update(fields)
        return event

    return add


def _add_logger_name(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
    event["logger"] = event["_record"].name
    return event


def _add_trace_id(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid and "trace_id" not in event:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
    return event
