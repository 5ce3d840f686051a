"""What is printed while the rules are checked, and the result as JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenwire.conformance.rule import Finding, Outcome, Rule

SCHEMA = "tokenwire.conformance/1"
"""The number grows where a reader of the last form would misread the new one."""

_SEEN_CHARS = 300
"""Of what was seen, in the table: a broken answer may be long. JSON has all of it."""


class Table:
    """A row for each rule, printed when its check ends."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._number_width = max(len("RULE"), *(len(rule.number) for rule in rules))
        self._title_width = max(len(rule.title) for rule in rules)
        self._live = sys.stderr.isatty()
        self._checked = 0

    def begin(self) -> None:
        """Prints the titles."""
        self._print("RULE", "", "RESULT", "")
        self._announce()

    def add(self, finding: Finding) -> None:
        """Prints a row."""
        self._clear()
        rule = finding.rule
        seen = " ".join(finding.seen.split())
        if len(seen) > _SEEN_CHARS:
            seen = f"{seen[:_SEEN_CHARS]}..."
        self._print(rule.number, rule.title, finding.outcome, seen)
        self._checked += 1
        self._announce()

    def _print(self, number: str, title: str, outcome: str, seen: str) -> None:
        columns = (
            number.ljust(self._number_width),
            title.ljust(self._title_width),
            outcome.ljust(len(Outcome.SKIPPED)),
            seen,
        )
        print("  ".join(columns).rstrip(), flush=True)

    def _announce(self) -> None:
        """Says at a terminal which rule is being checked."""
        if self._live and self._checked < len(self._rules):
            rule = self._rules[self._checked]
            said = f"{self._checked + 1}/{len(self._rules)} {rule.number} {rule.title}"
            print(said, end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def summary(findings: Sequence[Finding]) -> str:
    """Returns how many rules passed, failed and were skipped."""
    counts = Counter(finding.outcome for finding in findings)
    took_s = sum(finding.duration_s for finding in findings)
    return (
        f"{counts[Outcome.PASS]} passed, {counts[Outcome.FAIL]} failed, "
        f"{counts[Outcome.SKIPPED]} skipped in {took_s:.1f} s"
    )


def write(path: Path, target: str, model: str, findings: Sequence[Finding]) -> None:
    """Writes the result; an OSError where that fails."""
    path.write_text(json.dumps(_result(target, model, findings), indent=1) + "\n", encoding="utf-8")


def _result(target: str, model: str, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "target": target,
        "model": model,
        "rules": [
            {
                "rule": finding.rule.number,
                "title": finding.rule.title,
                "result": finding.outcome,
                "seen": finding.seen,
                "duration_s": round(finding.duration_s, 6),
            }
            for finding in findings
        ],
    }
