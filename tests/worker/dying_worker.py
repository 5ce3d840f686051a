"""A worker whose engine a guide can end, as none can while forms are tried: run as a module."""

from tokenwire_worker.engines.guides import checker
from tokenwire_worker.main import main

if __name__ == "__main__":
    checker.GuideChecker.check = lambda _self, _guide: None  # type: ignore[method-assign]
    main()
