"""What the subcommands print."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from tokenwire.cli import waterfall
from tokenwire.cli.interrupts import cancelled_by_ctrl_c
from tokenwire.streams import GenerationStream
from tokenwire.types import (
    Alternative,
    Answer,
    Delta,
    FinishReason,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)

EMPTY = (
    "tokenwire: the model ended its answer at once, without a text; one that is trained for chats "
    "takes a plain text for a finished message: try `tokenwire chat`"
)


def print_stream(
    stream: GenerationStream, args: Namespace, *, count: int, limited: bool = True
) -> None:
    """Prints an answer as it comes, or as the options say; Ctrl-C ends the stream.

    Args:
        stream: the answer.
        args: with `json` and `explain`.
        count: its sequences.
        limited: the caller has set an end.

    Raises:
        KeyboardInterrupt: the stream was ended.
    """
    live = not args.json and count == 1
    with cancelled_by_ctrl_c(stream), stream:
        deltas = _naming_the_generation(stream, known=getattr(args, "resume_token", ""))
        if live:
            _print_live(deltas)
        else:
            deque(deltas, maxlen=0)
        answer = stream.result
    if args.json:
        print_json(answer_object(answer))
    elif not live:
        _print_sequences(answer)
    elif _is_empty(answer):
        print(EMPTY, file=sys.stderr)
    if answer.finish_reason is FinishReason.TIME_BUDGET:
        print("tokenwire: the time budget ended the answer", file=sys.stderr)
    if answer.finish_reason is FinishReason.LENGTH and not limited:
        print("tokenwire: the context is full; --max-tokens sets an earlier end", file=sys.stderr)
    if args.explain:
        # Beside --json, whose output stays one object.
        print(waterfall.render(answer), file=sys.stderr if args.json else sys.stdout)


def _is_empty(answer: Answer) -> bool:
    """Tells whether a model ended before it said anything: else there is just nothing to see."""
    said = answer.text or answer.reasoning or answer.tool_calls
    return answer.finish_reason is FinishReason.STOP and not said


def answer_object(answer: Answer) -> dict[str, Any]:
    """Returns the answer as JSON shows it."""
    shown: dict[str, Any] = {
        "text": answer.text,
        "reasoning": answer.reasoning,
        "tool_calls": [asdict(each) for each in answer.tool_calls],
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
        "usage": asdict(answer.usage),
        "timings": asdict(answer.timings),
        "request_id": answer.request_id,
        "trace_id": answer.trace_id,
        "continued": answer.continued,
        "attempts": [asdict(each) for each in answer.attempts],
    }
    if answer.prompt_logprobs:
        shown["prompt_logprobs"] = _logprobs(answer.prompt_logprobs)
    if answer.logprobs:
        shown["logprobs"] = _logprobs(answer.logprobs)
    if len(answer.sequences) > 1:
        shown["sequences"] = [
            {**asdict(each), "logprobs": _logprobs(each.logprobs)} for each in answer.sequences
        ]
    return shown


def _logprobs(values: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {**_token(each), "alternatives": [_token(other) for other in each.alternatives]}
        for each in values
    ]


def _token(value: TokenLogprob | Alternative) -> dict[str, Any]:
    """Returns a token as JSON shows it: as text, and as bytes, which need not be UTF-8."""
    return {
        "token_id": value.token_id,
        "token": value.token.decode(errors="replace"),
        "bytes": list(value.token),
        "logprob": value.logprob,
    }


def print_json(value: object) -> None:
    """Prints the value on one line, at once; escapes what standard output can't show."""
    shown = json.dumps(value, default=datetime.isoformat, ensure_ascii=False)
    try:
        shown.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        shown = json.dumps(value, default=datetime.isoformat)
    print(shown, flush=True)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints aligned columns."""
    cells = [list(titles), *([str(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def _print_sequences(answer: Answer) -> None:
    for index, sequence in enumerate(answer.sequences):
        printer = _SequencePrinter(f"[{index}] ")
        printer.take(sequence.reasoning, sequence.text, sequence.tool_calls)
        printer.end()


def _naming_the_generation(stream: GenerationStream, known: str) -> Iterator[Delta]:
    """Yields the deltas; before the first it prints the resume token, where there is a new one."""
    for place, delta in enumerate(stream):
        token = stream.accepted.resume_token if stream.accepted else ""
        if place == 0 and token not in ("", known):
            print(f"tokenwire: resume token {token}", file=sys.stderr, flush=True)
        yield delta


def _print_live(deltas: Iterator[Delta]) -> None:
    printer = _SequencePrinter()
    try:
        for delta in deltas:
            printer.take(delta.reasoning, delta.text, delta.tool_calls)
    finally:
        # What follows, be it a failure, starts on a line of its own.
        printer.end()


class _SequencePrinter:
    """Prints a sequence's reasoning, text and tool calls so that they can be told apart.

    Reasoning is dimmed on a terminal, and stands between marks elsewhere.
    """

    def __init__(self, title: str = "") -> None:
        dims = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._marks = ("\x1b[2m", "\x1b[22m") if dims else ("[reasoning] ", "[/reasoning]")
        self._kind = ""
        self._last = "\n"
        self._print(title)

    def take(
        self, reasoning: str, text: str, calls: Sequence[ToolCall] | Sequence[ToolCallDelta]
    ) -> None:
        """Prints what is new."""
        if reasoning:
            if self._kind != "reasoning":
                self._begin("reasoning")
                self._print(self._marks[0])
            self._print(reasoning)
        if text:
            if self._kind != "text":
                self._begin("text")
            self._print(text)
        for call in calls:
            if call.name:
                self._begin("call")
                self._print(f"[tool call] {call.name} ")
            self._print(str(call.arguments))

    def end(self) -> None:
        """Ends the line."""
        self._begin("")

    def _begin(self, kind: str) -> None:
        """Ends what was printed before."""
        if self._kind == "reasoning":
            self._print(self._marks[1])
        if (self._kind or not kind) and self._last != "\n":
            self._print("\n")
        self._kind = kind

    def _print(self, text: str) -> None:
        if text:
            print(text, end="", flush=True)
            self._last = text[-1]
