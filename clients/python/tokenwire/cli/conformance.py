"""Check a deployment against every rule of the contract.

The rules and their numbers are those of docs/contract.md. Each is checked with small requests:
PASS, FAIL with what was seen, or SKIPPED with why it can't be checked here. Exits with 1 where a
rule is broken. --timeout bounds the time of each check; default: 30 s.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenwire import Client
from tokenwire._channel import open_channel
from tokenwire.cli import connection
from tokenwire.cli.failures import CommandError

# The checks' modules are imported where they are used: other commands start without them.
# ruff: noqa: PLC0415


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--model", default="", help="the model; default: the first that is listed")
    parser.add_argument(
        "--rule",
        type=lambda value: value.split(","),
        default=["*"],
        metavar="RULES",
        help="check these rules alone, such as S3,E*",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")


def run(_: Client, args: argparse.Namespace) -> None:
    """Checks the deployment, and prints what was found."""
    from tokenwire.conformance import report
    from tokenwire.conformance.deployment import Deployment
    from tokenwire.conformance.rule import Outcome
    from tokenwire.conformance.rules import selected
    from tokenwire.conformance.runner import CHECK_LIMIT_S, check

    rules = selected(args.rule)
    if args.json is not None and not args.json.parent.is_dir():
        raise ValueError(f"--json: {args.json.parent} is not a folder")
    limit_s = args.timeout or CHECK_LIMIT_S
    # Of its own: the checks call what the client library does not show.
    target, tls, key = connection.only_target(args), connection.tls(args), connection.api_key(args)
    with (
        open_channel(target, tls, (), api_key=key) as channel,
        open_channel(target, tls, ()) as bare,
    ):
        # A certificate is a credential too: without one the connection fails.
        bare_channel = bare if key and not (tls and tls.certificate) else None
        deployment = Deployment(channel, args.model, limit_s, bare_channel)
        table = report.Table(rules)
        table.begin()
        findings = []
        for finding in check(deployment, rules, limit_s):
            table.add(finding)
            findings.append(finding)
    print(report.summary(findings))
    if args.json is not None:
        report.write(args.json, args.target, deployment.model.name, findings)
    broken = [each.rule.number for each in findings if each.outcome is Outcome.FAIL]
    if broken:
        raise CommandError(f"conformance: the deployment breaks {', '.join(broken)}")
