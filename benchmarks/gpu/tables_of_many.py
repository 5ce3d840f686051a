"""The tables of several GPUs, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.tables import ms, table

SHARE = 7.5 / 8
"""Least share of N times one worker's tokens per second that N workers are to reach."""

Arms = Sequence[Mapping[str, Any]]


def scale(found: Mapping[str, Any]) -> str:
    """Workers behind frontends of several processes, and how many processes are enough."""
    arms = found["arms"]
    rows = [
        (
            each["workers"],
            each["processes"],
            f"{each['tokens_per_s']:,.0f}",
            f"{_times_one(arms, each):.2f}",
            ms(each, "ttft_p50_ms"),
            ms(each, "ttft_p99_ms"),
            ms(each, "gap_p99_ms"),
            f"{each['frontend_us_per_token']:.0f}",
            f"{each['frontend_cores']:.1f}",
            each["failed"],
            load(each),
            f"{each['machine_busy']:.0%}",
        )
        for each in arms
    ]
    titles = (
        "workers", "frontend processes", "tok/s", "times one worker", "TTFT p50", "TTFT p99",
        "gap p99", "frontend us/token", "frontend cores", "failed", "load", "host busy",
    )  # fmt: skip
    title = (
        f"8B Llama shape, one worker a GPU, {found['streams_a_worker']} streams for each, prefix "
        "routing, outputs of half to one and a half times the mean. The frontend's CPU time is "
        "that of all its processes. `load` is its number of processes and what each used of a core."
    )
    return f"{title}\n\n{table(titles, rows)}\n\n{_enough(arms)}"


def _enough(arms: Arms) -> str:
    """Says how many frontend processes N workers need."""
    said = []
    for count in dict.fromkeys(each["workers"] for each in arms):
        needed = processes_needed(arms, count)
        most = f"not reached, {best(arms, count):.2f} times one" if needed is None else needed
        said.append(f"N = {count}: {most}")
    return (
        f"Frontend processes that N workers need to reach {SHARE:.4g} of N times one worker, "
        f"7.5 times with eight: {'; '.join(said)}."
    )


def processes_needed(arms: Arms, workers: int) -> int | None:
    """Returns the fewest frontend processes with which so many workers are fast enough, if any."""
    enough = [
        each["processes"]
        for each in arms
        if each["workers"] == workers and _times_one(arms, each) >= SHARE * workers
    ]
    return min(enough, default=None)


def best(arms: Arms, workers: int) -> float:
    """Returns what so many workers reach at best, as a multiple of one worker."""
    return max(_times_one(arms, each) for each in arms if each["workers"] == workers)


def _times_one(arms: Arms, arm: Mapping[str, Any]) -> float:
    """Returns an arm's speed as a multiple of one worker's behind one process."""
    one: float = arms[0]["tokens_per_s"]
    speed: float = arm["tokens_per_s"]
    return speed / one


def load(figures: Mapping[str, Any]) -> str:
    """How many processes the load had, and how busy they were."""
    cores = figures["load_cores"]
    return f"{len(cores)} at {min(cores):.0%} to {max(cores):.0%}"


def kill(found: Mapping[str, Any]) -> str:
    """Half of the workers killed at once."""
    return (
        f"SIGKILL of {found['killed']} of {found['workers']} workers at once under load: "
        f"{found['completed']} requests completed, {found['failed']} failed, "
        f"{found['lost_or_repeated']} tokens lost or repeated, {found['moved']} generations moved, "
        f"longest gap {ms(found, 'longest_gap_ms')}; load {load(found)}."
    )


def exact(found: Mapping[str, Any]) -> str:
    """Answers of split models against those of one GPU."""
    lines = ["Greedy answers in float32 that equal those of one GPU:", ""]
    for model, of_it in found.items():
        each = ", ".join(f"{name} {count}" for name, count in of_it["equal"].items())
        also = ""
        if "equal_to_openvino" in of_it:
            also = f"; one GPU's equal to OpenVINO's: {of_it['equal_to_openvino']}"
        lines.append(f"- {model}, of {of_it['of']}: {each}{also}")
    return "\n".join(lines)


def parallel(found: Mapping[str, Any]) -> str:
    """The 8B shape over all GPUs."""
    return _split("8B Llama shape", found)


def experts(found: Mapping[str, Any]) -> str:
    """The mixture of experts over all GPUs."""
    return _split("mixture of 128 experts, 15B", found)


def _split(shape: str, found: Mapping[str, Any]) -> str:
    one = next(iter(found.values()))
    rows = [
        (
            name,
            concurrent,
            f"{figures['tokens_per_s']:,.0f}",
            f"{figures['tokens_per_s'] / one[concurrent]['tokens_per_s']:.2f}",
            ms(figures, "ttft_p50_ms"),
            ms(figures, "gap_p50_ms"),
            ms(figures, "gap_p99_ms"),
        )
        for name, of_it in found.items()
        for concurrent, figures in of_it.items()
    ]
    titles = (shape, "concurrent", "tok/s", "of one GPU", "TTFT p50", "gap p50", "gap p99")
    return table(titles, rows)


def routing(found: Mapping[str, Any]) -> str:
    """Reuse by each policy."""
    rows = [
        (
            title,
            arm,
            f"{figures['cached_share']:.3f}",
            f"{figures['cached_share'] / found['one worker'][title]['cached_share']:.2f}",
            ms(figures, "ttft_p50_ms"),
            ms(figures, "ttft_p99_ms"),
        )
        for title in found["one worker"]
        for arm in found
        for figures in [found[arm][title]]
    ]
    titles = (
        "load", "workers", "share of prompts found cached", "of one worker", "TTFT p50", "TTFT p99",
    )  # fmt: skip
    return table(titles, rows)


def rolling(found: Mapping[str, Any]) -> str:
    """A rolling restart under load."""
    return (
        "Two workers restarted one after the other under load, in "
        f"{found['both_restarted_s']:.0f} s: {found['completed']} requests completed, "
        f"{found['failed']} failed, longest gap {ms(found, 'gap_max_ms')}."
    )
