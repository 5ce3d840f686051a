"""What a run has shown: holds, counts, gaps, and what to look at, as JSON and as a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import (
    KINDS,
    SEVERAL_SILENT,
    SEVERAL_SILENT_S,
    Fault,
    is_of_frontends,
)
from tests.chaos.load import Outcome

SHOWN = 20
"""Requests that went wrong which the page tells of; the JSON file has all."""

WAITS = 4
"""Of each kind, in the JSON file."""

QUIET = "no fault"

OF_WORKERS = ("WORKER", "ENGINE", "interrupted")
"""In a status: the frontend says that a worker was behind it."""


@dataclass
class Gaps:
    """Waits of streams that one kind of fault is behind."""

    fault: str
    count: int = 0
    longest_s: float = 0.0
    """Between two deltas."""
    longest_replayed_s: float = 0.0
    """Likewise, of generations that were replayed from the prompt."""
    longest_first_s: float = 0.0
    """Until the first delta."""
    bound_s: float | None = None


@dataclass(frozen=True)
class Hold:
    """One thing that must be true."""

    name: str
    found: str
    held: bool


@dataclass
class Report:
    """A whole run."""

    settings: dict[str, Any]
    """As the run was started: engine, seed and so on."""
    took_s: float
    begun_s: float
    outcomes: Sequence[Outcome]
    faults: Sequence[Fault]
    left_behind: dict[str, int]
    """Generations that frontends still held when nobody waited for any, by frontend."""
    tracebacks: Sequence[str]
    longest_lag_s: float
    """Time for which the process of the callers itself was late."""
    logs_of: Callable[[str], list[str]] = field(repr=False)
    """Returns the log lines of a trace."""

    @property
    def wrong(self) -> list[Outcome]:
        """Requests that did not end with the right answer."""
        return [each for each in self.outcomes if each.status != "completed"]

    def behind(self, outcome: Outcome) -> list[Fault]:
        """Returns the faults that went on during a request."""
        return [f for f in self.faults if f.concerns(outcome.begun_s, outcome.ended_s)]

    def holds(self) -> list[Hold]:
        """Returns all that must be true, and what was found."""
        wrong = Counter(self._cause(each) for each in self.wrong)
        found = [
            ("failed because of workers", wrong["workers"]),
            ("failed because of frontends", wrong["frontends"]),
            ("hung", wrong["hung"]),
            ("differing answers", wrong["differs"]),
            ("generations left behind", sum(self.left_behind.values())),
            ("tracebacks in logs", len(self.tracebacks)),
        ]
        holds = [Hold(name, str(count), count == 0) for name, count in found]
        for each in self.gaps():
            if each.bound_s is not None:
                name = f"longest gap after {each.fault}, at most {each.bound_s:g} s"
                held = each.longest_s <= each.bound_s
                holds.append(Hold(name, f"{each.longest_s:.2f} s", held))
        return holds

    def _cause(self, outcome: Outcome) -> str:
        """Returns what is behind a request that went wrong: what its status says, or the faults."""
        if outcome.status in ("hung", "differs"):
            return outcome.status
        if any(word in outcome.status for word in OF_WORKERS):
            return "workers"
        faults = self.behind(outcome)
        return "frontends" if any(is_of_frontends(each.kind) for each in faults) else "workers"

    def gaps(self) -> list[Gaps]:
        """Returns the longest gaps of streams, by the faults behind them."""
        found: dict[str, Gaps] = {}

        def of(outcome: Outcome, begin_s: float, end_s: float) -> Gaps:
            kind = self._kind_behind(outcome, begin_s, end_s)
            return found.setdefault(kind, Gaps(kind, bound_s=_bound_s(kind)))

        for outcome in self.outcomes:
            replayed = any(each["mode"] == "replayed" for each in outcome.attempts)
            for begin_s, end_s in outcome.gaps:
                gaps = of(outcome, begin_s, end_s)
                gaps.count += 1
                if replayed:
                    gaps.longest_replayed_s = max(gaps.longest_replayed_s, end_s - begin_s)
                else:
                    gaps.longest_s = max(gaps.longest_s, end_s - begin_s)
            if outcome.first_s is not None:
                gaps = of(outcome, outcome.begun_s, outcome.begun_s + outcome.first_s)
                gaps.longest_first_s = max(gaps.longest_first_s, outcome.first_s)
        return sorted(found.values(), key=lambda each: each.fault)

    def _kind_behind(self, outcome: Outcome, begin_s: float, end_s: float) -> str:
        """Returns what is behind a wait: of several kinds, the one that may take longest."""
        faults = [
            each
            for each in self.faults
            if each.concerns(begin_s, end_s) and _may_be_behind(each, outcome)
        ]
        kinds = [each.kind for each in faults]
        if sum(each.silent and not is_of_frontends(each.kind) for each in faults) > 1:
            kinds.append(SEVERAL_SILENT)
        return max(kinds, key=_patience_s, default=QUIET)

    def _longest_waits(self) -> dict[str, list[dict[str, Any]]]:
        """Returns the longest waits with each kind of fault behind them, and what waited."""
        every = [
            (end_s - begin_s, begin_s, each)
            for each in self.outcomes
            for begin_s, end_s in each.gaps
        ]
        every += [(each.first_s, each.begun_s, each) for each in self.outcomes if each.first_s]
        every.sort(key=lambda each: -each[0])
        told: dict[str, list[dict[str, Any]]] = {}
        for wait_s, begin_s, outcome in every:
            behind = self._kind_behind(outcome, begin_s, begin_s + wait_s)
            of_kind = told.setdefault(f"{behind}, {_waits_for(outcome, begin_s)}", [])
            if len(of_kind) < WAITS:
                begun_s = round(begin_s - self.begun_s, 3)
                waited = {"s": round(wait_s, 3), "begun_s": begun_s}
                of_kind.append({**waited, **self._of_request(outcome)})
        return told

    def attempts(self) -> Counter[tuple[str, str]]:
        """Returns how often a worker was left for a reason, and how the next one began."""
        return Counter(
            (before["left_because"], after["mode"])
            for outcome in self.outcomes
            for before, after in _hops(outcome.attempts)
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the run as JSON's values; times count from its begin."""
        outcomes = self.outcomes
        return {
            "settings": self.settings,
            "took_s": self.took_s,
            "longest_lag_s": self.longest_lag_s,
            "holds": [asdict(each) for each in self.holds()],
            "requests": len(outcomes),
            "statuses": dict(Counter(each.status for each in outcomes)),
            "ways": _by(outcomes, lambda each: each.way),
            "kinds": _by(outcomes, lambda each: each.kind),
            "moves": [
                {"left_because": key[0], "mode": key[1], "count": count}
                for key, count in sorted(self.attempts().items())
            ],
            "gaps": [asdict(each) for each in self.gaps()],
            "longest_waits": self._longest_waits(),
            "faults": [self._fault(each) for each in self.faults],
            "left_behind": self.left_behind,
            "tracebacks": list(self.tracebacks),
            "wrong": [self._wrong(each) for each in self.wrong],
        }

    def _fault(self, fault: Fault) -> dict[str, Any]:
        ended_s = fault.recovered_s
        return {
            **asdict(fault),
            "begun_s": round(fault.begun_s - self.begun_s, 3),
            "recovered_s": None if ended_s is None else round(ended_s - self.begun_s, 3),
        }

    def _of_request(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "request_id": outcome.request_id,
            "trace_id": outcome.trace_id,
            "way": outcome.way,
            "kind": outcome.kind,
            "attempts": outcome.attempts,
            "continued": outcome.continued,
        }

    def _wrong(self, outcome: Outcome) -> dict[str, Any]:
        return {
            **self._of_request(outcome),
            "status": outcome.status,
            "detail": outcome.detail,
            "begun_s": round(outcome.begun_s - self.begun_s, 3),
            "ended_s": round(outcome.ended_s - self.begun_s, 3),
            "faults": [
                f"{each.number} {each.service} {each.kind}" for each in self.behind(outcome)
            ],
        }

    def as_page(self) -> str:
        """Returns the run as a page of Markdown."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        parts = [
            f"# Chaos\n\n{settings}\n",
            self._summary(),
            "## Must hold\n",
            _table(
                ("", "found", "held"),
                ((each.name, each.found, "yes" if each.held else "NO") for each in self.holds()),
            ),
            "## Requests\n",
            _table(*self._counts("way", lambda each: each.way)),
            _table(*self._counts("kind", lambda each: each.kind)),
            "## Moves\n",
            _table(
                ("worker left because", "the next one began", "times"),
                (
                    (left or "-", mode, str(count))
                    for (left, mode), count in sorted(self.attempts().items())
                ),
            ),
            "## Faults and gaps\n",
            _table(
                ("fault", "times", "gaps", "longest", "of replayed ones", "first delta", "bound"),
                self._gap_rows(),
            ),
        ]
        parts += self._what_went_wrong()
        return "\n".join(parts)

    def _summary(self) -> str:
        completed = sum(1 for each in self.outcomes if each.status == "completed")
        moved = sum(1 for each in self.outcomes if each.moved)
        continued = sum(1 for each in self.outcomes if each.continued)
        return (
            f"{len(self.outcomes)} requests in {self.took_s:.0f} s, {completed} with the right "
            f"answer; {moved} moved to another worker, {continued} continued by their client on "
            f"another call; {len(self.faults)} faults. The callers' own process was late by "
            f"{self.longest_lag_s:.2f} s at most.\n"
        )

    def _counts(
        self, name: str, key: Callable[[Outcome], str]
    ) -> tuple[Sequence[str], list[Sequence[str]]]:
        by = _by(self.outcomes, key)
        statuses = sorted({status for counts in by.values() for status in counts} - {"moved"})
        names = [*statuses, "moved"]
        rows: list[Sequence[str]] = [
            (value, *(str(by[value].get(status, 0)) for status in names)) for value in sorted(by)
        ]
        return (name, *names), rows

    def _gap_rows(self) -> Iterable[Sequence[str]]:
        times = Counter(each.kind for each in self.faults)
        by = {each.fault: each for each in self.gaps()}
        for name in sorted({*times, *by}):
            gaps = by.get(name, Gaps(name, bound_s=_bound_s(name)))
            bound = "" if gaps.bound_s is None else f"{gaps.bound_s:g} s"
            longest = (gaps.longest_s, gaps.longest_replayed_s, gaps.longest_first_s)
            shown = (f"{each:.2f} s" if each else "" for each in longest)
            yield (name, str(times[name] or ""), str(gaps.count), *shown, bound)

    def _what_went_wrong(self) -> Iterable[str]:
        if self.tracebacks:
            yield "## Tracebacks\n"
            yield "\n".join(f"    {line}" for line in self.tracebacks[:SHOWN]) + "\n"
        if not self.wrong:
            return
        yield "## What went wrong\n"
        for outcome in self.wrong[:SHOWN]:
            told = self._wrong(outcome)
            yield f"- {outcome.request_id}, trace {outcome.trace_id}, {outcome.way}, "
            yield f"  {outcome.kind}: {outcome.status}: {outcome.detail}"
            yield f"  {told['begun_s']} to {told['ended_s']} s; during faults {told['faults']}"
            yield f"  attempts {outcome.attempts}, continued {outcome.continued} times\n"
            yield from (f"      {line}" for line in self.logs_of(outcome.trace_id))
            yield ""

    def write(self, folder: Path) -> None:
        """Writes chaos.json and chaos.md."""
        text = json.dumps(self.as_json(), indent=1, ensure_ascii=False)
        (folder / "chaos.json").write_text(text, encoding="utf-8")
        (folder / "chaos.md").write_text(self.as_page(), encoding="utf-8")


def _may_be_behind(fault: Fault, outcome: Outcome) -> bool:
    """Whether a fault may be behind a wait: a stream that stayed where it was waits for silence."""
    left = outcome.continued > 0 if is_of_frontends(fault.kind) else outcome.moved
    return fault.silent or left


def _waits_for(outcome: Outcome, begin_s: float) -> str:
    return "first delta" if begin_s == outcome.begun_s else "between deltas"


def _bound_s(name: str) -> float | None:
    if name == SEVERAL_SILENT:
        return SEVERAL_SILENT_S
    return None if name == QUIET else KINDS[name].gap_s


def _patience_s(name: str) -> float:
    """Returns how long the gap of a fault may be; those of frontends have no bound."""
    bound = _bound_s(name)
    return float("inf") if bound is None else bound


def _hops(attempts: Sequence[dict[str, Any]]) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields each part that was left, with the next one of its sequences."""
    for place, before in enumerate(attempts):
        if not before["left_because"]:
            continue
        for after in attempts[place + 1 :]:
            if before["sequence"] in (0, after["sequence"]):
                yield before, after
                break


def _by(outcomes: Iterable[Outcome], key: Callable[[Outcome], str]) -> dict[str, dict[str, int]]:
    """Returns how many requests ended in which way, and how many moved, by a key."""
    found: dict[str, Counter[str]] = {}
    for each in outcomes:
        counts = found.setdefault(key(each), Counter())
        counts[each.status] += 1
        counts["moved"] += each.moved
    return {name: dict(counts) for name, counts in sorted(found.items())}


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
