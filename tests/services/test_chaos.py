"""Chaos in short: services are killed, drained and cut off under load, and no answer suffers.

`make chaos` is the long form, with faults that only silence tells.
"""

from __future__ import annotations

from tests.chaos.report import Report
from tests.chaos.run import Settings, run

SHORT = Settings(
    requests=160,
    minutes=0.5,
    seed=7,
    callers=12,
    cases=5,
    step_ms=2,
    pause_s=1.0,
    kinds=("kill", "drain", "reset", "close"),
)


async def test_every_request_ends_with_its_own_answer_whatever_befalls_the_services(tmp_path):
    report = await run(SHORT, tmp_path)
    # How long gaps are is for a quiet machine to say.
    broken = [each for each in report.holds() if not each.held and "gap" not in each.name]
    assert not broken, report.as_page()
    assert len(report.outcomes) >= SHORT.requests
    assert {each.name.partition(" ")[0] for each in report.faults} == {"worker", "frontend"}
    assert any(each.moved for each in report.outcomes)
    _check_written(report, tmp_path)


def _check_written(report: Report, folder) -> None:
    report.write(folder)
    assert (folder / "chaos.md").read_text(encoding="utf-8").startswith("# Chaos")
    assert (folder / "chaos.json").stat().st_size
