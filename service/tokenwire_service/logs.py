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
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_trace_id,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric_level),
        # One write for a line, so that no other thread's comes between it and its end.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module; warnings of theirs are worth a line.
    logging.basicConfig(handlers=[_Libraries(service)], level=max(numeric_level, logging.WARNING))


class _Libraries(logging.Handler):
    """Writes what libraries log in the form of all other lines.

    Args:
        service: value of `service`, which the context of a library's own threads does not have.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno,
            "library",
            service=self._service,
            logger=record.name,
            message=record.getMessage(),
            **({"exc_info": record.exc_info} if record.exc_info else {}),
        )


def _add_trace_id(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid and "trace_id" not in event:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
    return event
