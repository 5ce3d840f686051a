"""What a run found, as JSON and as a page of Markdown."""

from __future__ import annotations

import json
import shlex
import statistics
from pathlib import Path
from typing import Any

from benchmarks.gpu import tables, tables_of_apart, tables_of_many

TARGET_RATIO = 0.97
"""Least share of the direct arm's tokens per second that the services are to reach."""

FREED_MS = 1000
"""Most time in which cancelled generations are to have given back their KV blocks."""


def read(folder: Path) -> dict[str, Any]:
    """Returns what a folder has of earlier runs."""
    path = folder / "results.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return {"failed": {}, "wall_s": {}, "host_of": {}, "commands": [], **found}


def write(results: dict[str, Any], folder: Path) -> None:
    """Writes results.json and results.md."""
    (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    sections = [_head(results)]
    for name, section in (
        ("real", tables.real),
        ("load", _load),
        ("cancel", _cancel),
        ("prefix", _prefix),
        ("formats", tables.formats),
        ("graphs", tables.graphs),
        ("quantised", tables.quantised),
        ("settings", tables.settings),
        ("drafts", tables.drafts),
        ("scale", tables_of_many.scale),
        ("kill", tables_of_many.kill),
        ("exact", tables_of_many.exact),
        ("parallel", tables_of_many.parallel),
        ("experts", tables_of_many.experts),
        ("routing", tables_of_many.routing),
        ("rolling", tables_of_many.rolling),
        ("apart_exact", tables_of_apart.exact),
        ("apart", tables_of_apart.apart),
        ("failover", tables.failover),
        ("demo", _demo),
        ("wire", _wire),
        ("contract", _contract),
        ("host_of", tables.host_of),
    ):
        if results.get(name):
            try:
                sections.append(section(results[name]))
            except (KeyError, TypeError, ValueError) as error:  # of a part that failed half-way
                sections.append(f"{name}: half done ({error!r}); see results.json")
    sections.append(_times(results))
    for name, reason in results["failed"].items():
        sections.append(f"**{name} failed**: {reason.splitlines()[0]}")
    (folder / "results.md").write_text("\n\n".join(sections) + "\n")


def _head(results: dict[str, Any]) -> str:
    of = results["host"]
    gpus = of["gpu"].splitlines()
    return (
        f"{len(gpus)} x {gpus[0].partition(',')[0]}, {of['cpu_cores']} cores of {of['cpu']}; "
        f"Python {of['python']}, vLLM {of['vllm']}, PyTorch {of['torch']}, grpcio {of['grpcio']}."
    )


def _times(results: dict[str, Any]) -> str:
    """The commands, and what each part took."""
    parts = ", ".join(f"{name} {took_s:.0f}" for name, took_s in results["wall_s"].items())
    commands = "".join(
        f"- `{shlex.join(each['command'])}`: {each['took_s']:.0f} s\n"
        for each in results["commands"]
    )
    return f"Commands:\n{commands}\nSeconds by part: {parts}."


def _demo(found: dict[str, Any]) -> str:
    equal = f"{found['equal']} of {found['of']} greedy answers are equal to OpenVINO's."
    lines = [f"Demo model through both services: {equal}"]
    for prompt, texts in found["differing"].items():
        lines.append(f"- {prompt!r}: {texts['found']!r}, not {texts['expected']!r}")
    return "\n".join(lines)


def _contract(found: dict[str, Any]) -> str:
    counts = ", ".join(f"{found[what]} {what}" for what in found if what != "failing")
    failing = "".join(f"\n- {name}" for name in found["failing"])
    return f"Engine contract suite on vLLM: {counts}.{failing}"


def ratios(rounds: list[dict[str, Any]], concurrency: str, arm: str) -> list[float]:
    """Returns an arm's share of the direct arm of the same round, for each round."""
    return [
        each[concurrency][arm]["tokens_per_s"] / each[concurrency]["direct"]["tokens_per_s"]
        for each in rounds
    ]


def _load(rounds: list[dict[str, Any]]) -> str:
    return _arms(
        rounds,
        f"8B Llama shape, medians of {len(rounds)} rounds. `of direct` is the median (range) of "
        f"the ratios within a round; at least {TARGET_RATIO} is wanted.",
    )


def _wire(rounds: list[dict[str, Any]]) -> str:
    return _arms(
        rounds,
        "The demo model of 9 million parameters: the GPU does next to nothing, and the processes "
        "that carry tokens are the limit. There is no target; it shows where their cost is.",
    )


def _arms(rounds: list[dict[str, Any]], title: str) -> str:
    names = ["concurrent", "arm", "tok/s", "of direct", "TTFT p50", "TTFT p95"]
    names += ["worker us/token", "frontend us/token"]
    lines = [title, "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for concurrency, arms in rounds[0].items():
        for arm in arms:
            each = {
                name: statistics.median(one[concurrency][arm][name] for one in rounds)
                for name in arms[arm]
            }
            shares = ratios(rounds, concurrency, arm)
            shown = f"{statistics.median(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})"
            cells = [
                concurrency,
                arm,
                f"{each['tokens_per_s']:,.0f}",
                "1" if arm == "direct" else shown,
                f"{each['ttft_p50_ms']:,.0f} ms",
                f"{each['ttft_p95_ms']:,.0f} ms",
                *(
                    f"{each[name]:.0f}" if name in each else "-"
                    for name in ("worker_us_per_token", "frontend_us_per_token")
                ),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cancel(found: dict[str, Any]) -> str:
    running = f"{found['running_before']} to {found['running_after_half']}"
    usage = f"{found['kv_usage_before']:.1%} to {found['kv_usage_after_half']:.1%}"
    return (
        f"Cancelling {found['requests'] // 2} of {found['requests']} generations mid-flight brings "
        f"WatchLoad's running sequences from {running} and its KV cache usage from {usage} within "
        f"{found['freed_ms']:.0f} ms; less than {FREED_MS} ms is wanted."
    )


def _prefix(found: dict[str, Any]) -> str:
    return (
        f"A prompt of {found['prompt_tokens']} tokens, {found['shared_tokens']} of which came "
        f"before: {found['cached_prompt_tokens']} cached_prompt_tokens, and "
        f"{found['second_ttft_ms']:.0f} ms to an answer of one token instead of "
        f"{found['first_ttft_ms']:.0f} ms."
    )
