"""The Pythons of this machine that the wheels are installed on.

`python -m tests.packages.pythons` fetches what the services require for each of them but this one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.packages import wheels

OLDEST = 11
"""Of Python 3."""

THIS = f"3.{sys.version_info.minor}"
FETCHED = wheels.ROOT / "build/pythons"

_ASK = "import sys; print(sys.implementation.name, sys.version_info.releaselevel)"


def found() -> dict[str, str]:
    """Returns a released CPython of each version from the oldest on; this one of its own."""
    interpreters = {sys.version_info.minor: sys.executable}
    for each in _named():
        minor = int(each.name.removeprefix("python3."))
        if minor >= OLDEST and minor not in interpreters:
            asked = subprocess.run([each, "-c", _ASK], capture_output=True, text=True, check=False)
            if asked.stdout.split() == ["cpython", "final"]:
                interpreters[minor] = str(each)
    return {f"3.{minor}": interpreters[minor] for minor in sorted(interpreters)}


def _named() -> list[Path]:
    """Returns what is named as a Python 3: where pyenv and uv put theirs, and on the path."""
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python"))
    files = [each for folder in (pyenv, uv) for each in sorted(folder.glob("*/bin/python3.*"))]
    for folder in os.get_exec_path():
        files += sorted(Path(folder).glob("python3.*"))
    return [each for each in files if re.fullmatch(r"python3\.\d+", each.name)]


def fetch(version: str, interpreter: str, requirements: list[str]) -> bool:
    """Puts what the services require on one of them into a folder of its own; False: it can't."""
    pip = (sys.executable, "-m", "pip", "--python", interpreter, "install", "-q")
    options = ("--only-binary", ":all:", "--root-user-action", "ignore")
    pins = wheels.ROOT / "constraints/cpu.txt"
    target = ("--target", FETCHED / version, "-c", pins)
    return subprocess.run([*pip, *options, *target, *requirements], check=False).returncode == 0


def main() -> None:
    """Fetches it for each, and ends with an error where one of those supported lacks it."""
    FETCHED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        built = wheels.build(Path(folder))
        requirements = {line for wheel in built.values() for line in wheels.required(wheel)}
        named = wheels.metadata(built["tokenwire"]).get_all("Classifier", [])
    others = sorted(line for line in requirements if not line.startswith("tokenwire"))
    for version, interpreter in found().items():
        if version == THIS or fetch(version, interpreter, others):
            continue
        # What is required may not be built yet for a Python that has just come out.
        if f"Programming Language :: Python :: {version}" in named:
            sys.exit(f"Python {version} is supported, and lacks what the services require.")
        print(f"Python {version} is left out: it lacks what the services require.")


if __name__ == "__main__":
    main()
