"""The wheels of this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = {
    "tokenwire": ("clients/python/tokenwire", "clients/python/tokenwire_command"),
    "tokenwire-service": ("service/tokenwire_service",),
    "tokenwire-frontend": ("frontend/tokenwire_frontend",),
    "tokenwire-worker": ("inference_worker/tokenwire_worker",),
}
"""Packages of each distribution. The client's project is at the top, the others' beside theirs."""


def build(folder: Path) -> dict[str, Path]:
    """Builds each distribution's wheel for any Python as `make wheels` does."""
    built = {name: _build(name, folder / name, compiled=False) for name in PACKAGES}
    assert all(metadata(wheel)["Name"] == name for name, wheel in built.items())
    return built


def build_compiled(folder: Path) -> Path:
    """Builds the frontend's wheel for this Python alone."""
    return _build("tokenwire-frontend", folder, compiled=True)


def _build(name: str, folder: Path, *, compiled: bool) -> Path:
    project = ROOT if name == "tokenwire" else (ROOT / PACKAGES[name][0]).parent
    hatchling = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    environment = {**os.environ, "TOKENWIRE_COMPILE": str(int(compiled))}
    subprocess.run(hatchling, cwd=project, env=environment, stdout=subprocess.DEVNULL, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def metadata(wheel: Path) -> Message:
    """Returns what a wheel says of itself."""
    with ZipFile(wheel) as files:
        (name,) = (each for each in files.namelist() if each.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(files.read(name))


def required(wheel: Path) -> list[str]:
    """Returns what a wheel requires without its extras."""
    lines = metadata(wheel).get_all("Requires-Dist", [])
    return [line for line in lines if "extra ==" not in line]
