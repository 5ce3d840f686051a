"""What each scenario runs, phase by phase, and which options it presets.

A scenario is a generator of phases, which is sent the result of each. So it can choose the next by
what it has seen, as `overload` does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from tokenwire.bench import figures, options
from tokenwire.bench.plan import Arrivals, Flow, Phase
from tokenwire.cli.arguments import whole_number
from tokenwire.cli.failures import CommandError

Phases = Generator[Phase, Mapping[str, Any], None]

LONG_CONTEXT_SHARE = 0.9
"""Of the model's context that a long prompt fills where the context is smaller than asked for."""


@dataclass(frozen=True)
class Plans:
    """What all phases of a run have in common."""

    args: argparse.Namespace
    nonce: str
    context_tokens: int
    """Tokens that a prompt and its output may have together."""
    prompt_tokens: int
    """Tokens that a prompt may have."""

    def phase(self, name: str, *flows: Flow, **more: Any) -> Phase:
        """Returns a phase of these flows."""
        args = self.args
        return Phase(
            name,
            flows,
            duration_s=args.duration,
            warmup_s=args.warmup,
            drain_s=args.drain,
            seed=args.seed,
            nonce=self.nonce,
            objective=args.objective,
            model=args.model,
            timeout_s=args.timeout,
            prompt_limit=self.context_tokens,
            **more,
        )

    def flow(self, **changes: Any) -> Flow:
        """Returns the flow that the options describe, with some changes."""
        args = self.args
        flow = Flow(
            arrivals=Arrivals(concurrency=args.concurrency[0]),
            call=args.call[0],
            sessions=args.sessions,
            max_delay_s=args.max_delay[0],
            prompt=args.prompt,
            input=args.input,
            output=args.output,
            prefixes=args.prefixes,
            prefix_tokens=args.prefix_tokens if args.prefixes else 0,
            prefix_share=args.prefix_share,
            turns=args.turns,
            think_s=args.think,
            tools=args.tools,
            let_stop=args.let_stop,
            temperature=args.temperature,
        )
        return replace(flow, **changes)

    def arrivals(self) -> list[Arrivals]:
        """Returns the loads that the options ask for: one open loop, or else the closed one."""
        args = self.args
        if args.replay:
            return [Arrivals("replay", trace=args.replay, speed=each) for each in args.speed]
        if args.rate:
            return [Arrivals(args.arrivals, rate_per_s=each) for each in args.rate]
        return [Arrivals(concurrency=each) for each in args.concurrency]


def sweep(plans: Plans) -> Phases:
    """A phase for each combination of what options list, to and fro over the rounds."""
    args = plans.args
    made = []
    for load, call, delay_s in product(plans.arrivals(), args.call, args.max_delay):
        name = f"{call}, {load.shown}"
        if delay_s:
            name += f", {delay_s * 1e3:g} ms window"
        made.append(plans.phase(name, plans.flow(arrivals=load, call=call, max_delay_s=delay_s)))
    for number in range(1, args.rounds + 1):
        for phase in made if number % 2 else reversed(made):
            yield replace(phase, round=number)


def overload(plans: Plans) -> Phases:
    """The capacity in a closed loop, then Poisson arrivals at multiples of it."""
    args = plans.args
    measured = yield plans.phase(f"capacity, {args.concurrency[0]} at once", plans.flow())
    capacity = figures.value(measured["flows"]["all"]["figures"], "requests_per_s")
    if not capacity:
        raise CommandError("overload: no request ended while the capacity was measured")
    for number, multiple in product(range(1, args.rounds + 1), args.multiples):
        arrivals = Arrivals(args.arrivals, rate_per_s=capacity * multiple)
        yield plans.phase(
            f"{multiple:g}x capacity",
            plans.flow(arrivals=arrivals),
            round=number,
            labels={"load": multiple},
        )


def long(plans: Plans) -> Phases:
    """Short streams alone, and then beside long prompts."""
    args = plans.args
    most = int(min(plans.context_tokens - 16, plans.prompt_tokens) * LONG_CONTEXT_SHARE)
    tokens = min(args.long_input, most)
    short = plans.flow(name="short")
    beside = plans.flow(
        name="long",
        arrivals=Arrivals(concurrency=args.long_concurrency),
        input=str(tokens),
        output="8",
        prefixes=0,
        prefix_tokens=0,
        turns="1",
    )
    for number in range(1, args.rounds + 1):
        yield plans.phase("short streams alone", short, round=number)
        name = f"beside prompts of {tokens:,} tokens"
        yield plans.phase(name, short, beside, round=number)


def _overload_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--multiples",
        type=options.several(options.positive),
        default="0.5,0.8,1,1.2,1.5",
        metavar="X,...",
        help="of the measured capacity; default: %(default)s",
    )


def _long_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--long-input",
        type=whole_number(1, 10_000_000),
        default="100000",
        metavar="N",
        help="tokens of a long prompt, at most what the model takes; default: %(default)s",
    )
    parser.add_argument(
        "--long-concurrency",
        type=whole_number(1, 1024),
        default="1",
        metavar="N",
        help="long prompts at once; default: %(default)s",
    )


def _nothing(_: argparse.ArgumentParser) -> None:
    """A scenario without options of its own."""


@dataclass(frozen=True)
class Scenario:
    """Options with defaults of their own, and the phases that they make."""

    summary: str
    answers: str
    """Which question, and what to look at."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    phases: Callable[[Plans], Phases] = sweep
    sweeps: bool = True
    """Whether options may list several values, and loads may be open loops."""
    configure: Callable[[argparse.ArgumentParser], None] = _nothing


SCENARIOS: Mapping[str, Scenario] = {
    "wire": Scenario(
        "What a token and a request cost the frontend.",
        "One short request shape, so that the engine is cheap and the frontend is what limits; "
        "StreamGenerate and Session in turn. Look at CPU time per token and at tokens/s.",
        {"call": "stream,session", "concurrency": "64"},
    ),
    "engine": Scenario(
        "What the engine does at several concurrencies.",
        "Fixed lengths as token ids, which the frontend does not tokenise. Look at tokens/s "
        "against the gap between tokens, and choose the concurrency from it.",
        {"prompt": "ids", "concurrency": "1,8,32", "input": "512", "call": "session"},
    ),
    "prefix": Scenario(
        "What shared prefixes and conversations gain.",
        "Conversations that begin with one of a few long prefixes and go on for some turns. Look "
        "at the share of cached prompt tokens and at the first token.",
        {
            "concurrency": "16",
            "prefixes": "8",
            "prefix_tokens": "512",
            "input": "64",
            "output": "64",
            "turns": "uniform:2-4",
            "think": "0.2",
            "call": "session",
        },
    ),
    "overload": Scenario(
        "What happens beyond the capacity.",
        "The capacity is measured first; then requests arrive at random at multiples of it. Look "
        "at goodput: it should stay at its height, with refusals for what is beyond.",
        {
            "input": "128",
            "output": "64",
            "duration": "15s",
            "objective": "ttft=500ms,itl=100ms",
            "drain": "10s",
        },
        overload,
        sweeps=False,
        configure=_overload_options,
    ),
    "long": Scenario(
        "What long prompts cost the others.",
        "Short streams run alone, then beside prompts as long as the model takes. Look at the gaps "
        "of the short streams: p99 and the longest.",
        {"concurrency": "8", "input": "32", "output": "64"},
        long,
        sweeps=False,
        configure=_long_options,
    ),
    "soak": Scenario(
        "Whether anything grows over time.",
        "A steady mixed load for ten minutes. Look at memory and latencies over time.",
        {
            "duration": "10min",
            "warmup": "30s",
            "concurrency": "16",
            "input": "lognormal:128,0.6",
            "output": "lognormal:64,0.6",
            "turns": "uniform:1-3",
        },
    ),
    "chat": Scenario(
        "What chats with parsed output cost.",
        "Chats of some turns that offer tools; the frontend renders the template and tells "
        "reasoning and calls from the text. Compare with `wire --call stream`.",
        {
            "prompt": "chat",
            "tools": True,
            "let_stop": True,
            "turns": "uniform:1-3",
            "input": "64",
            "output": "96",
        },
    ),
}
