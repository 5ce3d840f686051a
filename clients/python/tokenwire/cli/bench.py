"""Load a deployment and measure it; compare two results.

Each scenario presets the options, answers one question, and runs against any frontend. The result
is a JSON file and a report that a browser shows: what users would have seen, and what it cost.
Exits with 1 where anything was lost, or a comparison is over its --limit.
"""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any

from tokenwire import Client
from tokenwire.cli import connection
from tokenwire.cli.failures import CommandError

# The load tests' modules are imported where they are used: other commands start without them.
# ruff: noqa: PLC0415


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds a subcommand for each scenario, and `compare`."""
    from tokenwire.bench import options
    from tokenwire.bench.scenarios import SCENARIOS

    commands = parser.add_subparsers(required=True, metavar="SCENARIO")

    def add(name: str, summary: str, more: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=summary, description=f"{summary}\n\n{more}", allow_abbrev=False
        )
        command.set_defaults(scenario=name, command=command)
        return command

    for name, scenario in SCENARIOS.items():
        command = add(name, scenario.summary, scenario.answers)
        connection.configure(command, subcommand=True)
        options.configure(command, scenario.defaults)
        scenario.configure(command)
    compare = add("compare", "Compare two results.", "Ratios of B to A, with the noise of both.")
    options.configure_comparison(compare)


def run(client: Client, args: argparse.Namespace) -> None:
    """Runs a scenario, or compares."""
    if args.scenario == "compare":
        _compare(args)
        return
    from tokenwire.bench.progress import print_result
    from tokenwire.bench.runner import Run

    connection.only_target(args)
    started = Run(client, connection.tls(args), connection.api_key(args), args)
    result = started.execute()
    print_result(result)
    _write(result, args)
    if started.interrupted:
        raise KeyboardInterrupt
    _judge(result)


def _write(result: dict[str, Any], args: argparse.Namespace) -> None:
    from tokenwire.bench import report, results

    name = args.out or f"tokenwire-bench/{args.scenario}-{datetime.now():%Y%m%d-%H%M%S}"  # noqa: DTZ005 - the user's clock
    name = name.removesuffix(".json").removesuffix(".html")
    results.write(result, Path(f"{name}.json"))
    Path(f"{name}.html").write_text(report.page(result), encoding="utf-8")
    print(f"result {name}.json, report {name}.html")


def _judge(result: dict[str, Any]) -> None:
    flows = [flow for phase in result["phases"] for flow in phase["flows"].values()]
    if any(count for flow in flows for count in flow["lost"].values()):
        raise CommandError("bench: not every token came once and in order; see the notes above")
    if flows and not any(flow["requests"]["completed"] for flow in flows):
        raise CommandError("bench: no request was completed")


def _compare(args: argparse.Namespace) -> None:
    from tokenwire.bench import comparison, report, results

    before, after = results.read(args.before), results.read(args.after)
    found = comparison.compare(before, after)
    comparison.print_rows(found, everything=args.all)
    if args.report:
        page = report.comparison_page(before, after, found)
        Path(args.report).write_text(page, encoding="utf-8")
        print(f"report {args.report}")
    if args.limit is not None:
        worse = [each for each in found if each.is_worse_by(args.limit / 100)]
        if worse:
            others = f", and {len(worse) - 1} more" if len(worse) > 1 else ""
            raise CommandError(f"worse by more than {args.limit:g} %: {worse[0].title}{others}")
