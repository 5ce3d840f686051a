"""Watch a frontend: its load, workers, latencies and last requests.

The view is renewed until Ctrl-C; while the frontend is away it says so and tries again. Where
standard output is no terminal one view is printed, as with --once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from time import sleep
from types import ModuleType

from tokenwire import Client
from tokenwire.activity import ActivityStream
from tokenwire.cli import arguments, rates
from tokenwire.cli.failures import CommandError, describe
from tokenwire.cli.interrupts import cancelled_by_ctrl_c
from tokenwire.cli.printing import print_json
from tokenwire.errors import UnavailableError
from tokenwire.types import Activity

_PAUSE_S = 0.5
"""A frontend that drains ends every stream at once, and would be asked without a pause."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add = parser.add_argument
    add(
        "--interval",
        type=arguments.interval,
        default=1.0,
        metavar="SECONDS",
        help="0.1 to 60; default: 1",
    )
    add(
        "--records",
        type=arguments.whole_number(0, 100),
        default=10,
        metavar="N",
        help="last requests to show, up to 100; default: 10",
    )
    add("--once", action="store_true", help="print one view, after one interval, and exit")
    add("--json", action="store_true", help="print each snapshot as a JSON object on a line")


def run(client: Client, args: argparse.Namespace) -> None:
    """Shows the frontend's activity."""
    if args.json:
        _print_json(client, args)
    elif args.once or not sys.stdout.isatty():
        _print_once(client, args)
    else:
        _show(client, args)


class Watch:
    """Snapshots without end, and where they break off the error; `cancel` ends it."""

    def __init__(self, client: Client, args: argparse.Namespace) -> None:
        self._client = client
        self._args = args
        self._cancelled = False
        self._stream: ActivityStream | None = None

    def __iter__(self) -> Iterator[Activity | UnavailableError]:
        while not self._cancelled:
            yield from self._one_stream()

    def _one_stream(self) -> Iterator[Activity | UnavailableError]:
        try:
            with _open(self._client, self._args) as stream:
                self._stream = stream
                # Ctrl-C may have come before there was this stream to cancel.
                if not self._cancelled:
                    yield from stream
            if not self._cancelled:
                yield UnavailableError("the frontend has ended the stream")
                sleep(_PAUSE_S)
        except UnavailableError as error:
            if not self._cancelled:
                yield error

    def cancel(self) -> None:
        """Ends the watch, from a signal handler too."""
        self._cancelled = True
        if self._stream is not None:
            self._stream.cancel()


def _open(client: Client, args: argparse.Namespace) -> ActivityStream:
    return client.activity(interval_s=args.interval, records=args.records)


def _print_json(client: Client, args: argparse.Namespace) -> None:
    if args.once:
        _print_line(_first(client, args, 1)[0])
        return
    watch = Watch(client, args)
    connected = True
    with suppress(KeyboardInterrupt), cancelled_by_ctrl_c(watch):
        for news in watch:
            if isinstance(news, Activity):
                _print_line(news)
            elif connected:
                line = f"tokenwire: {describe(news, args.target)}; trying again"
                print(line, file=sys.stderr, flush=True)
            connected = isinstance(news, Activity)


def _print_line(snapshot: Activity) -> None:
    print_json(asdict(snapshot))


def _print_once(client: Client, args: argparse.Namespace) -> None:
    top_view = _load_view()
    *before, now = _first(client, args, 2)
    gained = rates.between(before[0] if before else None, now)
    top_view.console().print(top_view.View(args.target, now, gained))


def _first(client: Client, args: argparse.Namespace, count: int) -> list[Activity]:
    with _open(client, args) as stream, cancelled_by_ctrl_c(stream):
        found = list(islice(stream, count))
    if not found:
        raise CommandError("the frontend ended the stream before its first snapshot")
    return found


def _show(client: Client, args: argparse.Namespace) -> None:
    top_view = _load_view()
    watch = Watch(client, args)
    before: Activity | None = None
    shown = top_view.View(args.target)
    with suppress(KeyboardInterrupt), cancelled_by_ctrl_c(watch), top_view.screen() as screen:
        for news in watch:
            if isinstance(news, Activity):
                shown = top_view.View(args.target, news, rates.between(before, news))
                before = news
            else:
                # What was last known stays to be read.
                notice = f"{describe(news, args.target)}; trying again"
                shown = top_view.View(args.target, before, notice=notice)
            screen.update(shown, refresh=True)


def _load_view() -> ModuleType:
    try:
        # rich is an extra: everything else works without it.
        from tokenwire.cli import top_view  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise CommandError("the view needs rich: pip install rich, or use --json") from None
    return top_view
