"""The tables of formats, settings, accuracy and failover, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def real(found: Mapping[str, Any]) -> str:
    """The real model against transformers."""
    of = found["of"]
    head = (
        "SmolLM2-135M-Instruct through both services, in float32 against transformers on the same "
        f"GPU: {found['equal_prompts']} of {of} rendered prompts and {found['equal_answers']} of "
        f"{of} greedy answers equal, log probabilities within {found['logprobs_apart']:.4f}."
    )
    return "\n".join([head, *(f"- {name}: {found[name]}" for name in found if name in REAL_CHECKS)])


REAL_CHECKS = ("prompt_logprobs", "guide", "tools", "stop", "seeds", "reuse")


def formats(found: Mapping[str, Any]) -> str:
    """Speed of each format at each concurrency."""
    return (
        "8B Llama shape by format, one Session; outputs of 64 to 192 tokens, begun as others end; "
        "medians of the rounds. Times to the first token are of the requests after the first of "
        "each place; a gap is between two deltas of a request, each of which has a token.\n\n"
        f"{_by_turns(found)}"
    )


def graphs(found: Mapping[str, Any]) -> str:
    """Speed with CUDA graphs of larger steps."""
    return (
        "The same with CUDA graphs of steps of up to 1,024 tokens (`-wide`), where vLLM's bound is "
        "512: a prompt of 512 tokens and what decodes beside it are more.\n\n"
        f"{_by_turns(found)}"
    )


def _by_turns(found: Mapping[str, Any]) -> str:
    rows = []
    for name, of_it in found.items():
        for concurrency, rounds in of_it.items():
            if rounds:
                each = [figures["tokens_per_s"] for figures in rounds]
                medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
                spread = f"{min(each):,.0f} to {max(each):,.0f}"
                rows.append((name, concurrency, *_speed(medians), spread))
    return table(("format", "concurrent", *_SPEED, "tok/s by round"), rows)


def host_of(found: Mapping[str, Any]) -> str:
    """What the host and the GPU were during each part."""
    rows = [
        (
            name,
            f"{of_it['loop_ms']:.1f} ms",
            f"{of_it['cores_busy_before']:.1f}",
            f"{of_it['cores_busy']:.1f}",
            f"{of_it['stolen']:.1%}",
            f"{of_it['gpu_busy']:.0%}",
            f"{of_it['sm_mhz']:,.0f} (from {of_it['lowest_sm_mhz']:,.0f}) MHz",
            f"{of_it['power_w']:.0f} W",
            of_it["clock_reasons"],
        )
        for name, of_it in found.items()
        if "sm_mhz" in of_it
    ]
    titles = (
        "part", "fixed loop in Python", "cores busy before it", "cores busy", "stolen", "GPU busy",
        "GPU clock", "power", "reasons for a lower clock",
    )  # fmt: skip
    return f"The host before and during each timed part.\n\n{table(titles, rows)}"


_SPEED = (
    "tok/s", "TTFT p50", "TTFT p99", "first token within 200 ms", "gap p50", "gap p99", "gap p99.9",
)  # fmt: skip


def _speed(figures: Mapping[str, float]) -> list[str]:
    return [
        f"{figures['tokens_per_s']:,.0f}",
        ms(figures, "ttft_p50_ms"),
        ms(figures, "ttft_p99_ms"),
        f"{figures['first_soon']:.0%}" if "first_soon" in figures else "-",
        ms(figures, "gap_p50_ms"),
        ms(figures, "gap_p99_ms"),
        ms(figures, "gap_p99.9_ms"),
    ]


def settings(found: Mapping[str, Any]) -> str:
    """What each mechanism is worth."""
    rows = []
    for title, both in found.items():
        for key in ("on", "off"):
            figures = both[key]
            rows.append((title, key, *_speed(figures), ms(figures, "gap_max_ms")))
    return (
        "Mechanisms of the engine turned on and off, 8B Llama shape in BF16.\n\n"
        f"{table(('mechanism', '', *_SPEED, 'longest gap'), rows)}"
    )


def drafts(found: Mapping[str, Any]) -> str:
    """N-gram drafts on the real model."""
    rows = [
        (
            title,
            f"{both['on']['tokens_per_s']:,.0f}",
            f"{both['off']['tokens_per_s']:,.0f}",
            f"{both['on']['tokens_per_s'] / both['off']['tokens_per_s']:.2f}",
            f"{both['equal']:.0%}",
        )
        for title, both in found.items()
    ]
    titles = ("SmolLM2-135M-Instruct", "tok/s with drafts", "without", "ratio", "equal texts")
    return f"Speculative decoding by n-grams of the prompt and output.\n\n{table(titles, rows)}"


def failover(found: Mapping[str, Any]) -> str:
    """A worker killed under load."""
    rows = [
        (
            name,
            figures["streams"],
            figures["failed"],
            figures["lost_or_repeated"],
            figures["moved"],
            ms(figures, "longest_gap_ms"),
            ms(figures, "gap_p99_ms"),
        )
        for name, figures in (
            ("nobody killed", found.get("calm")),
            ("one of two killed", found.get("killed")),
        )
        if figures is not None
    ]
    titles = (
        "two workers",
        "streams",
        "failed",
        "lost or repeated",
        "moved",
        "longest gap",
        "gap p99",
    )
    return f"SIGKILL of a worker under load, 8B Llama shape.\n\n{table(titles, rows)}"


def quantised(found: Mapping[str, Any]) -> str:
    """Accuracy of each format on the real model."""
    rows = []
    for name, of_it in found.items():
        evaluation = of_it.get("evaluation", {})
        if "perplexity_rise" in evaluation:
            noise = evaluation["perplexity_rise_noise"] or 0.0
            cells = [
                f"{evaluation['target_perplexity']:.3f}",
                f"{evaluation['perplexity_rise']:+.2%} (+-{noise:.2%})",
                f"{evaluation['top_1_agreement']:.2%}",
                f"{evaluation['divergence_nats']:.4f}",
            ]
        else:
            failed = of_it.get("failed") or evaluation.get("failed") or "not loaded by vLLM"
            cells = [failed.replace("|", " ")[:120], "", "", ""]
        said = next((line for line in of_it.get("said", []) if line.startswith("perplexity")), "")
        rows.append((name, *cells, said.rpartition("(")[2].rstrip(")")))
    titles = (
        "format",
        "perplexity",
        "rise over BF16",
        "same likeliest token",
        "divergence, nats",
        "rise as quantize tells it",
    )
    return (
        "SmolLM2-135M-Instruct quantised by `tokenwire-worker quantize` on 128 paragraphs, served "
        "and compared with BF16 by `tokenwire evaluate`."
        f"\n\n{table(titles, rows)}"
    )


def ms(figures: Mapping[str, float], name: str) -> str:
    """Returns a time in milliseconds, or a dash where it was not measured."""
    if name not in figures:
        return "-"
    return f"{figures[name]:,.1f} ms" if figures[name] < 100 else f"{figures[name]:,.0f} ms"
