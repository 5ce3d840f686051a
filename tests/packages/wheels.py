"""The wheels of this checkout."""

from __future__ import annotations

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
    """Builds each distribution's wheel as `make wheels` does."""
    hatchling = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    for name, packages in PACKAGES.items():
        project = ROOT if name == "tokenwire" else (ROOT / packages[0]).parent
        subprocess.run(hatchling, cwd=project, stdout=subprocess.DEVNULL, check=True)
    built = {metadata(wheel)["Name"]: wheel for wheel in folder.glob("*.whl")}
    assert built.keys() == PACKAGES.keys()
    return built


def metadata(wheel: Path) -> Message:
    """Returns what a wheel says of itself."""
    with ZipFile(wheel) as files:
        (name,) = (each for each in files.namelist() if each.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(files.read(name))


def required(wheel: Path) -> list[str]:
    """Returns what a wheel requires without its extras."""
    lines = metadata(wheel).get_all("Requires-Dist", [])
    return [line for line in lines if "extra ==" not in line]
