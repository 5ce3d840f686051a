"""A whole run: what is served, the phases one after the other, the result."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import math
import os
import platform
import secrets
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import grpc

from tokenwire import Client, ModelInfo, WorkerInfo, __version__
from tokenwire._api_key import ApiKey
from tokenwire._channel import Tls, open_channel
from tokenwire._trace import Trace
from tokenwire.bench import checks, doubts, vocabulary
from tokenwire.bench.figures import curve, figures, timeline
from tokenwire.bench.fleet import Fleet
from tokenwire.bench.lengths import distribution
from tokenwire.bench.measures import METRICS, SLICES, Histogram, Merged
from tokenwire.bench.plan import Phase
from tokenwire.bench.processes import Watched, discovered
from tokenwire.bench.progress import Progress
from tokenwire.bench.prompts import TOOLS
from tokenwire.bench.results import SCHEMA
from tokenwire.bench.scenarios import SCENARIOS, Plans
from tokenwire.bench.watch import Watch
from tokenwire.cli.failures import CommandError
from tokenwire.errors import from_rpc_error

SPARE_TOKENS = 16
"""Of the context, for what a joint of two texts may add, and a few tokens of slack."""


class Run:
    """A scenario with its options against one deployment."""

    def __init__(
        self, client: Client, tls: Tls | None, api_key: ApiKey | None, args: argparse.Namespace
    ) -> None:
        self._args = args
        self._tls = tls
        self._api_key = api_key
        checks.of_options(args)
        self._model = client.model(args.model)
        self._workers = client.workers()
        self._overhead = _chat_overhead(client, args) if self._model.has_chat_template else 0
        checks.of_model(args, self._model, self._context_tokens)
        self._vocabulary = self._read_vocabulary()
        self._fleet = Fleet()
        self._watched = self._processes()
        self._done: list[dict[str, Any]] = []
        self.interrupted = False
        """Ctrl-C has cut it short; the result has what there was."""

    def execute(self) -> dict[str, Any]:
        """Runs the scenario; returns the result, also after the first Ctrl-C.

        Raises:
            CommandError: a load process has ended by itself.
            KeyboardInterrupt: at the second Ctrl-C.
        """
        created = datetime.now(UTC)
        load_before = os.getloadavg()[0]
        asyncio.run(self._phases())
        return {
            "schema": SCHEMA,
            "created_at": created.isoformat(timespec="seconds"),
            "scenario": self._args.scenario,
            "label": self._args.label,
            "interrupted": self.interrupted,
            "command": self._args.words,
            "environment": {
                "tokenwire": __version__,
                "python": platform.python_version(),
                "grpcio": grpc.__version__,
                "uvloop": importlib.util.find_spec("uvloop") is not None,
                "platform": platform.platform(),
                "cpus": os.cpu_count(),
                "load_average_before": round(load_before, 2),
            },
            "deployment": _deployment(self._args.target, self._model, self._workers),
            "phases": self._done,
        }

    # --- before

    @property
    def _context_tokens(self) -> int:
        return self._model.context_tokens - SPARE_TOKENS - self._overhead

    def _read_vocabulary(self) -> vocabulary.Vocabulary:
        args, trace = self._args, Trace(None)
        with open_channel(args.target, self._tls, (), api_key=self._api_key) as channel:
            try:
                found = vocabulary.read(channel, args.model, self._model.vocabulary_size)
            except grpc.RpcError as failure:
                raise from_rpc_error(failure, trace.trace_id) from failure
        if args.prompt != "ids" and not found.words:
            raise CommandError("--prompt: the tokenizer has too few plain words; use --prompt ids")
        return found

    def _processes(self) -> list[Watched]:
        args = self._args
        if args.process:
            return [Watched(name, (pid,)) for name, pid in args.process]
        return discovered(args.target, [each.address for each in self._workers])

    # --- the phases

    async def _phases(self) -> None:
        args = self._args
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt)
        nonce = "" if args.same_prompts else secrets.token_hex(4)
        plans = Plans(args, nonce, self._context_tokens, self._model.prompt_tokens_limit)
        scenario = SCENARIOS[args.scenario].phases(plans)
        try:
            await self._fleet.start(
                args.processes,
                args.target,
                self._tls,
                self._api_key,
                self._vocabulary,
                args.connections,
            )
            phase = next(scenario)
            while True:
                result = await self._phase(phase)
                self._done.append(result)
                if self.interrupted:
                    break
                phase = scenario.send(result)
        except StopIteration:
            pass
        except CommandError:
            if self.interrupted:
                raise KeyboardInterrupt from None
            raise
        finally:
            await self._fleet.close()

    def _interrupt(self) -> None:
        if self.interrupted:
            self._fleet.kill()
        self.interrupted = True
        self._fleet.stop()

    async def _phase(self, phase: Phase) -> dict[str, Any]:
        watch = Watch(self._watched, self._fleet.process_ids)
        progress = Progress(phase)
        watching: asyncio.Task[None] | None = None

        def started(start_s: float) -> None:
            nonlocal watching
            begin_s = start_s + phase.warmup_s
            watching = asyncio.create_task(watch.run(begin_s, begin_s + phase.duration_s))
            progress.start(start_s)
            if self.interrupted:
                self._fleet.stop()

        try:
            parts = await self._fleet.run(phase, started, progress.hear)
        finally:
            progress.end()
            if watching is not None:
                watch.stop()
                await watching
        return _phase_result(phase, parts, watch)


def _phase_result(phase: Phase, parts: list[dict[str, Any]], watch: Watch) -> dict[str, Any]:
    window_s = max(each["window_s"] for each in parts)
    flows, tokens = {}, [0] * SLICES
    for number, flow in enumerate(phase.flows):
        merged = Merged([each["flows"][number] for each in parts])
        tokens = [some + each.tokens for some, each in zip(tokens, merged.slices, strict=True)]
        flows[flow.name] = _flow_result(merged, window_s, phase)
    lag = Histogram()
    for each in parts:
        lag.merge(Histogram.from_json(each["lag"]))
    result = {
        "name": phase.name,
        "round": phase.round,
        "labels": phase.labels,
        "window_s": round(window_s, 3),
        "plan": phase.to_json(),
        "flows": flows,
        "processes": watch.processes(tokens, phase.duration_s / SLICES),
        "load": {
            "processes": [
                {
                    "cpu_share": round(each["cpu_s"] / each["window_s"], 3)
                    if each["window_s"]
                    else 0.0
                }
                for each in parts
            ],
            "loop_lag_p99_s": _known(lag.quantile_s(0.99)),
            "loop_lag_max_s": lag.largest_s,
            "machine_busy_share": watch.machine_busy_share(),
        },
    }
    result["doubts"] = doubts.found(result)
    return result


def _flow_result(merged: Merged, window_s: float, phase: Phase) -> dict[str, Any]:
    totals = merged.totals
    return {
        "figures": figures(merged, window_s, phase.duration_s, phase.objective),
        "requests": {
            name: totals[name] for name in ("started", "completed", "failed", "unfinished", "good")
        },
        "tokens": {name: totals[f"{name}_tokens"] for name in ("prompt", "completion", "cached")},
        "lost": {name: totals[name] for name in ("lost", "repeated", "text_gaps")},
        "errors": dict(merged.errors.most_common()),
        "finish_reasons": dict(merged.finish_reasons.most_common()),
        "late_p99_s": _known(merged.late.quantile_s(0.99)),
        "curves": {name: curve(merged, name) for name in METRICS},
        "timeline": timeline(merged, window_s, phase.duration_s),
        "sample": merged.sample,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _chat_overhead(client: Client, args: argparse.Namespace) -> int:
    """Returns the tokens that the chat template adds to a conversation, at a guess."""
    if args.prompt != "chat":
        return 0
    turns = 2 * math.ceil(min(distribution(args.turns).most, 16))
    chat = [{"role": "user" if n % 2 == 0 else "assistant", "content": "a"} for n in range(turns)]
    rendered = client.render_chat(chat[:-1], model=args.model, tools=TOOLS if args.tools else [])
    return len(rendered.token_ids)


def _deployment(target: str, model: ModelInfo, workers: list[WorkerInfo]) -> Mapping[str, Any]:
    return {
        "target": target,
        "model": model.name,
        "context_tokens": model.context_tokens,
        "tool_parser": model.tool_parser,
        "reasoning_parser": model.reasoning_parser,
        "workers": [
            {"address": each.address, "engine": each.engine, "state": each.state}
            for each in workers
        ],
    }
