"""A worker whose engine a guide can end, as none can while forms are tried: run as a module."""

from tokenwire_worker.engines.guides import checker
from tokenwire_worker.engines.guides.process import Verdict
from tokenwire_worker.engines.openvino import child
from tokenwire_worker.engines.port import Guide
from tokenwire_worker.main import main


async def pass_unseen(_self: checker.GuideChecker, _guide: Guide) -> Verdict:
    """Stands in for `GuideChecker.check`."""
    return Verdict(None)


if __name__ == "__main__":
    checker.GuideChecker.check = pass_unseen  # type: ignore[method-assign]
    child.PROCESS = "tests.worker.dying_process"
    main()
