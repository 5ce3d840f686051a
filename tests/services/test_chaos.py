"""Chaos in short: services are killed, drained and cut off under load, and no answer suffers.

`make chaos` is the long form, with faults that only silence tells.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.faults import Fault
from tests.chaos.load import Outcome
from tests.chaos.report import Report
from tests.chaos.run import Settings, run

SHORT = Settings(
    requests=240,
    minutes=0.5,
    seed=7,
    callers=12,
    cases=5,
    step_ms=4,
    pause_s=0.6,
    kinds=("worker kill", "worker reset", "worker close", "frontend kill", "frontend reset"),
)


# Ten services are started: on a machine that is busy with other things that takes a minute.
@pytest.mark.timeout(300)
async def test_every_request_ends_with_its_own_answer_whatever_befalls_the_services(tmp_path):
    report = await run(SHORT, tmp_path)
    # How long gaps are is for a quiet machine to say.
    broken = [each for each in report.holds() if not each.held and "gap" not in each.name]
    assert not broken, report.as_page()
    assert len(report.outcomes) >= SHORT.requests
    assert {each.kind.partition(" ")[0] for each in report.faults} == {"worker", "frontend"}
    assert any(each.moved for each in report.outcomes)
    _check_written(report, tmp_path)


def _check_written(report: Report, folder) -> None:
    report.write(folder)
    assert (folder / "chaos.md").read_text(encoding="utf-8").startswith("# Chaos")
    assert (folder / "chaos.json").stat().st_size


def _outcome(**fields: Any) -> Outcome:
    return Outcome("chaos-1", "client stream", "greedy", 1.0, 9.0, **fields)


def _broken(*outcomes: Outcome) -> set[str]:
    """Returns what does not hold of requests during which a worker was killed."""
    fault = Fault(1, "worker-1", "worker kill", begun_s=2.0, recovered_s=4.0)
    report = Report({}, 9.0, 0.0, outcomes, [fault], {}, [], 0.0, lambda _: [])
    return {each.name for each in report.holds() if not each.held}


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (_outcome(status="differs"), "differing answers"),
        (_outcome(status="hung"), "hung"),
        (_outcome(status="UNAVAILABLE WORKER_LOST"), "failed because of workers"),
        (
            _outcome(gaps=[(2.0, 3.5)], attempts=[{"mode": "carried", "left_because": "GONE"}]),
            "longest gap after worker kill, at most 1 s",
        ),
    ],
)
def test_a_report_says_what_does_not_hold(outcome, name):
    assert _broken(outcome) == {name}
    assert not _broken(_outcome())
