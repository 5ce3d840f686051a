"""Structured log lines on standard error: one object a line, or readable text on a terminal.

`configure` runs once, before the event loop and before gRPC: grpc.aio can deadlock with logging
that is set up later (grpc issue 43421). Lines are written on a thread of their own (`line_writer`).

Callers' words reach the log in errors and names, so every field of every line is cut here.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import reprlib
import select
import sys
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

import structlog
from opentelemetry import trace

from tokenwire_service.line_writer import LineWriter
from tokenwire_service.refusal_lines import RefusalLines
from tokenwire_service.wording import cut

FIELD_BYTES = 1024
LINE_BYTES = 8192
"""Most of one field, and of all fields of a line together: collectors split or drop longer lines,
and 16 KiB is where container runtimes do."""

TRACEBACK_BYTES = 6144
"""Of a traceback, whose end tells most."""

SHORTEST_BYTES = 24
"""What a field keeps though the line is full."""

CHARACTER_BYTES = 12
"""Most bytes that JSON makes of a character: two escapes of six, of one beyond U+FFFF."""

SHORT_CHARACTERS = FIELD_BYTES // CHARACTER_BYTES
"""A text that fits into a field whatever it has."""

ITEMS = 16
"""Most of a list's or mapping's entries."""

STANDARD_ERROR = 2

GRPC_AIO = "grpc._cython.cygrpc"
PEER_GONE = "ExecuteBatchError raised in core by servicer method"
"""What grpc.aio logs as an error, with a traceback, where an answer could not be sent."""

_PLAIN = (bool, int, float, type(None))

_ENCODER = json.JSONEncoder()
"""Of lines whose fields are cut: nothing else is left in them than JSON has."""

_writer: LineWriter | None = None


def configure(level: str, form: str, service: str, process: int | str | None = None) -> None:
    """Sets up logging for the process.

    Args:
        level: least severe level to write.
        form: `json`, `text`, or `auto` (text on a terminal, else JSON).
        service: value of `service` in every line.
        process: which of several processes this is, that write to the same place; None: the only
            one. It is the value of `process` in every line.
    """
    global _writer  # noqa: PLW0603 - one for the process, as standard error is
    origin: dict[str, int | str] = {"service": service}
    if process is None:
        lines = _Lines(LineWriter(STANDARD_ERROR, _tell_dropped))
    else:
        origin["process"] = process
        # Larger writes of several processes may mix in a pipe that is full.
        lines = _Lines(LineWriter(STANDARD_ERROR, _tell_dropped, select.PIPE_BUF))
    _writer = lines.writer
    atexit.register(flush)
    sys.excepthook = partial(_tell_last, sys.excepthook)
    terminal = sys.stderr.isatty()
    text = form == "text" or (form == "auto" and terminal)
    colours = terminal and not os.environ.get("NO_COLOR")
    renderer: Any = structlog.dev.ConsoleRenderer(colors=colours) if text else _as_line
    numeric_level = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            RefusalLines(),
            partial(_add_origin, origin),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_trace_id,
            structlog.processors.format_exc_info,
            _cut_fields,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric_level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module; warnings of theirs are worth a line.
    logging.basicConfig(handlers=[_Libraries()], level=max(numeric_level, logging.WARNING))


def _tell_last(hook: Callable[..., None], *fault: Any) -> None:
    """Writes what ends the process after the lines before it, not into the midst of one."""
    flush()
    hook(*fault)


def flush() -> None:
    """Waits a moment for lines that are not written yet: before os._exit, which asks nobody."""
    if _writer is not None:
        _writer.flush()


class _Lines:
    """What structlog writes with: a method for each level."""

    def __init__(self, writer: LineWriter) -> None:
        self.writer = writer
        self.msg = self.debug = self.info = self.warning = writer.write
        self.error = self.critical = self.exception = self.log = writer.write


class _Libraries(logging.Handler):
    """Writes what libraries log in the form of all other lines."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == GRPC_AIO and record.msg.startswith(PEER_GONE):
            # An answer met its caller's hang-up or deadline, which is no fault of anybody's.
            structlog.get_logger().debug("peer_gone")
            return
        structlog.get_logger().log(
            record.levelno,
            "library",
            logger=record.name,
            message=record.getMessage(),
            **({"exc_info": record.exc_info} if record.exc_info else {}),
        )


def _add_trace_id(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if "trace_id" in event:
        return event
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
    return event


def _add_origin(
    origin: Mapping[str, int | str], _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    # A line of the supervising process may be about another process.
    for name, value in origin.items():
        event.setdefault(name, value)
    return event


def _as_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    return _ENCODER.encode(event)


def _tell_dropped(count: int) -> None:
    structlog.get_logger().warning("log_lines_dropped", count=count)


def _cut_fields(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    left = LINE_BYTES
    for name, value in event.items():
        if value.__class__ is str and len(value) <= SHORT_CHARACTERS and left > FIELD_BYTES:
            left -= len(value)
        elif name == "exception":
            event[name] = _end_of(value)
        elif not isinstance(value, _PLAIN):
            told = _cut(value, max(min(FIELD_BYTES, left), SHORTEST_BYTES))
            left -= len(told) if isinstance(told, str) else FIELD_BYTES
            if told is not value:
                event[name] = told
    return event


def _cut(value: Any, limit: int) -> Any:
    """Returns the value, as text where it is no plain one, with at most so much text in it."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, str):
        return value if len(value) * CHARACTER_BYTES <= limit else _as_json(value, limit)
    part = limit // ITEMS // 2
    if isinstance(value, Mapping):
        return {_inner(str(key), part): _inner(value[key], part) for key in list(value)[:ITEMS]}
    if isinstance(value, list | tuple):
        return [_inner(item, part) for item in value[:ITEMS]]
    return _as_json(str(value), limit)


def _inner(value: Any, limit: int) -> Any:
    """Returns a part of a list or mapping; what is nested deeper is text."""
    if isinstance(value, (*_PLAIN, str)):
        return _cut(value, max(limit, SHORTEST_BYTES))
    return _as_json(reprlib.repr(value), max(limit, SHORTEST_BYTES))


def _as_json(text: str, limit: int) -> str:
    """Returns so much of the text that it has at most so many bytes in JSON."""
    told = cut(text, limit)
    while len(json.dumps(told)) > limit + 2:
        told = cut(told, len(told.encode()) * 3 // 4)
    return told


def _end_of(traceback: str) -> str:
    """Returns the last lines of a traceback, each cut: an exception's own words are its last."""
    kept: list[str] = []
    left = TRACEBACK_BYTES
    for line in reversed(traceback.splitlines()):
        kept.append(_cut(line, FIELD_BYTES))
        left -= len(kept[-1])
        if left < 0:
            break
    return "\n".join(reversed(kept))
