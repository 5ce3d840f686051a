"""The command line of `tokenwire bench`: options of a scenario, and of a comparison."""

from __future__ import annotations

import argparse
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from tokenwire.bench import arrivals
from tokenwire.bench.lengths import FORMS, distribution
from tokenwire.bench.plan import CALLS, PROMPTS, Objective
from tokenwire.cli.arguments import whole_number

_TIME = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(us|ms|s|min|h)?")
_UNITS_S: Mapping[str | None, float] = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    None: 1.0,
    "min": 60.0,
    "h": 3600.0,
}

MOST_CONCURRENT = 100_000
"""Far above what the load processes can carry; a bound against a typing error."""

MOST_PROCESSES = 256


def time_s(value: str) -> float:
    """The type of a time: a number with us, ms, s, min or h; seconds without."""
    found = _TIME.fullmatch(value)
    if found is None:
        raise ArgumentTypeError(f"{value!r} is not a time, such as 250ms, 20s or 5min")
    return float(found[1]) * _UNITS_S[found[2]]


def positive_time_s(value: str) -> float:
    """The type of a time above 0."""
    found = time_s(value)
    if found <= 0:
        raise ArgumentTypeError(f"{value!r} is not a time above 0")
    return found


def positive(value: str) -> float:
    """The type of a number above 0."""
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ArgumentTypeError(f"{value!r} is not a number above 0")
    return found


def several(one: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Returns the type of values with commas between; each is measured on its own."""
    return lambda value: [one(each) for each in value.split(",")]


def one_of(*names: str) -> Callable[[str], str]:
    """Returns the type of a name among some."""

    def parse(value: str) -> str:
        if value not in names:
            raise ArgumentTypeError(f"{value!r} is none of {', '.join(names)}")
        return value

    return parse


def lengths(value: str) -> str:
    """The type of a distribution; it stays a text, which load processes read again."""
    try:
        return distribution(value).spec
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def share(value: str) -> float:
    """The type of a share."""
    try:
        found = float(value)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise ArgumentTypeError(f"{value!r} is not a number from 0 to 1")
    return found


def trace(value: str) -> str:
    """The type of a trace's file, which is read once to find what is wrong with it."""
    try:
        arrivals.read_trace(value)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return value


def objective(value: str) -> Objective:
    """The type of an objective: ttft=200ms,itl=30ms."""
    names = {each.name.removesuffix("_s"): each.name for each in fields(Objective)}
    found: dict[str, float] = {}
    for part in value.split(","):
        name, given, limit = part.partition("=")
        if not given or name not in names:
            known = ", ".join(names)
            raise ArgumentTypeError(f"{part!r} is not NAME=TIME, where NAME is one of {known}")
        found[names[name]] = positive_time_s(limit)
    return Objective(**found)


def process(value: str) -> tuple[str, int]:
    """The type of a process to watch: NAME=PID."""
    name, given, pid = value.partition("=")
    if not name or not given:
        raise ArgumentTypeError(f"{value!r} is not NAME=PID, such as frontend=4711")
    return name, whole_number(1, 2**31 - 1)(pid)


def configure(parser: argparse.ArgumentParser, defaults: Mapping[str, Any]) -> None:
    """Adds the options of a scenario, with its own defaults."""
    _load(parser.add_argument_group("load"))
    _workload(parser.add_argument_group("workload"))
    _measuring(parser.add_argument_group("measuring"))
    parser.set_defaults(**defaults)


def _load(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--call",
        type=several(one_of(*CALLS)),
        default="stream",
        metavar="CALL,...",
        help="stream (StreamGenerate), session (Session), generate; default: %(default)s",
    )
    add(
        "--concurrency",
        type=several(whole_number(1, MOST_CONCURRENT)),
        default="32",
        metavar="N,...",
        help="closed loop: conversations at once; default: %(default)s",
    )
    add(
        "--rate",
        type=several(positive),
        metavar="PER_S,...",
        help="open loop: conversations that start each second, whatever the server does",
    )
    add(
        "--arrivals",
        choices=("poisson", "constant"),
        default="poisson",
        help="of --rate: at random, or evenly; default: %(default)s",
    )
    add(
        "--replay",
        type=trace,
        metavar="FILE",
        help="open loop: requests of a JSONL file with at_s, input_tokens, output_tokens, text",
    )
    add(
        "--speed",
        type=several(positive),
        default="1",
        metavar="X,...",
        help="of --replay: this much faster than recorded; default: %(default)s",
    )
    add(
        "--processes",
        type=whole_number(1, MOST_PROCESSES),
        default="1",
        metavar="N",
        help="load processes; default: %(default)s",
    )
    add(
        "--connections",
        type=whole_number(1, 1024),
        default="1",
        metavar="N",
        help="connections of each load process; default: %(default)s",
    )
    add(
        "--sessions",
        type=whole_number(1, 4096),
        default="1",
        metavar="N",
        help="of --call session: streams over all, at least one a process; default: %(default)s",
    )
    add(
        "--max-delay",
        type=several(time_s),
        default="0",
        metavar="TIME,...",
        help="how long a delta may be held to send more tokens at once; default: %(default)s",
    )


def _workload(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--input",
        type=lengths,
        default="128",
        metavar="LENGTH",
        help=f"tokens of a turn's prompt: {FORMS}; default: %(default)s",
    )
    add(
        "--output",
        type=lengths,
        default="128",
        metavar="LENGTH",
        help="tokens to generate, in the forms of --input; default: %(default)s",
    )
    add(
        "--prompt",
        choices=PROMPTS,
        default="text",
        help="what requests carry: text, token ids or chats; default: %(default)s",
    )
    add(
        "--prefixes",
        type=whole_number(0, 1_000_000),
        default="0",
        metavar="N",
        help="different prefixes that prompts share; default: %(default)s",
    )
    add(
        "--prefix-tokens",
        type=whole_number(0, 10_000_000),
        default="0",
        metavar="N",
        help="tokens of each, beside --input; default: %(default)s",
    )
    add(
        "--prefix-share",
        type=share,
        default="1",
        metavar="SHARE",
        help="share of the conversations that begin with one; default: %(default)s",
    )
    add(
        "--turns",
        type=lengths,
        default="1",
        metavar="LENGTH",
        help="requests of a conversation, in the forms of --input; each continues the last; "
        "default: %(default)s",
    )
    add(
        "--think",
        type=lengths,
        default="0",
        metavar="SECONDS",
        help="seconds between an answer and the next turn, in the forms of --input; "
        "default: %(default)s",
    )
    add("--tools", action="store_true", help="chats offer the model two tools")
    add(
        "--let-stop",
        action="store_true",
        help="the model may end before --output; else its end-of-sequence tokens are ignored",
    )
    add("--temperature", type=float, default="0", metavar="T", help="default: %(default)s")
    add("--model", default="", metavar="NAME", help="where several are served")
    add(
        "--seed",
        type=whole_number(0, 2**63),
        default="1",
        metavar="N",
        help="of arrivals, lengths and words; default: %(default)s",
    )
    add(
        "--same-prompts",
        action="store_true",
        help="send the words of earlier runs with this seed, which a prefix cache may still hold",
    )


def _measuring(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--duration",
        type=positive_time_s,
        default="20s",
        metavar="TIME",
        help="measured time of each phase; default: %(default)s",
    )
    add(
        "--warmup",
        type=time_s,
        default="3s",
        metavar="TIME",
        help="time before it that no figure counts; default: %(default)s",
    )
    add(
        "--drain",
        type=time_s,
        default="30s",
        metavar="TIME",
        help="time after it for what is in flight to end; default: %(default)s",
    )
    add(
        "--rounds",
        type=whole_number(1, 100),
        default="1",
        metavar="N",
        help="times that all phases are measured, every second time in reverse order; "
        "default: %(default)s",
    )
    add(
        "--objective",
        type=objective,
        default=Objective(),
        metavar="NAME=TIME,...",
        help="goodput counts requests that meet all: ttft, itl (99 %% of the gaps), tpot, e2e",
    )
    add(
        "--process",
        type=process,
        action="append",
        default=[],
        metavar="NAME=PID",
        help="local process whose CPU time and memory are measured; default: those that listen "
        "on the ports of the frontend and its workers, where they are on this machine",
    )
    add("--label", default="", metavar="TEXT", help="a name for this run, for reports")
    add(
        "--out",
        metavar="NAME",
        help="write NAME.json and NAME.html; default: tokenwire-bench/SCENARIO-TIME",
    )


def configure_comparison(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `compare`."""
    parser.add_argument("before", metavar="A.json", help="result to compare with")
    parser.add_argument("after", metavar="B.json", help="result that is judged")
    parser.add_argument(
        "--limit",
        type=positive,
        metavar="PERCENT",
        help="exit with 1 where a figure is worse by more than this and the noise together",
    )
    parser.add_argument("--report", metavar="FILE", help="write the comparison as an HTML page")
    parser.add_argument("--all", action="store_true", help="every figure; default: the main ones")
